"""i-GELU on a power-of-two grid."""

from __future__ import annotations

import jax
import jax.numpy as jnp

GRIDS = (7, 13)
"""Inputs are integers at 2^-k, k from 7 (covering +-256) to 13 (covering +-4)."""
FINEST = GRIDS[1]
THRESHOLD = 20494
"""round(1.769 * 1.4142 * 2^13): from here on erf is taken as 1."""
CURVATURE = 18927
"""round(0.2888 / 1.4142^2 * 2^17): erf(x / sqrt 2) = 1 - 0.1444 (2.5017 - min(|x|, 2.5017))^2."""


def igelu(q: jax.Array, k: jax.Array) -> jax.Array:
    """2^(k + 15) GELU(q / 2^k), by the published polynomial (Kim et al., eq. 8).

    Args:
        q: int32 [...], any but -2^31; what does not fit 16 bits counts as what is nearest to it.
        k: int32 scalar, the grid, 7 to 13.

    Returns:
        int32 [...], |result| <= 2^30.

    With erf(|q| / sqrt 2) = 1 - t, as a polynomial, GELU(q) = max(q, 0) - |q| t / 2: no sign to
    be put back, and what is computed is -t, for one instruction multiplies and adds. From the
    threshold on t is 0, so that |q| counts up to there only, and a saturation of q at 16 bits needs
    to be seen by max(q, 0) alone. Widths: |q| and u <= 20494 so u^2 < 2^29; w = u^2 / 2^(2k - 13)
    < 2^16, w * 18927 < 2^30; t has 14 fractional bits. Maximum error 0.0182, RMS 0.0082 on
    [-4, 4].
    """
    threshold = (THRESHOLD + ((1 << (FINEST - k)) >> 1)) >> (FINEST - k)
    magnitude = jnp.minimum(jnp.abs(q), threshold)
    u = threshold - magnitude
    w = (u * u + (1 << (2 * k - 14))) >> (2 * k - 13)
    minus_t = (w * -CURVATURE + (2**15 - 1)) >> 16  # -floor(x) = ceil(-x): halves still go up
    # In this order, the lower one 0, two bounds are one instruction of an NVIDIA GPU. LLVM would
    # turn constants around; it does not know that k is positive.
    highest = (2**15 - 1) + (k >> 31)
    return magnitude * minus_t + (jnp.maximum(jnp.minimum(q, highest), 0) << 15)
