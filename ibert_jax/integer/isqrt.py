"""Integer square root."""

from __future__ import annotations

import jax
import jax.numpy as jnp


@jax.jit
def isqrt(n: jax.Array) -> jax.Array:
    """floor(sqrt(n)) of uint32 ``n``, exact for every input: uint32 in [0, 2^16).

    Digit by digit, one bit of the root a step: 16 steps of shift, compare and subtract, no
    division. (The paper's Newton iteration needs a division a step and, for some inputs, six
    steps rather than its four.)
    """
    root = jnp.zeros_like(n)
    remainder = n
    for step in range(15, -1, -1):
        # (root + 2^step)^2 - root^2 = 2^(step+1) root + 4^step, at most 2^32 - 1 here.
        trial = (root << (step + 1)) + jnp.uint32(1 << (2 * step))
        fits = remainder >= trial
        remainder = jnp.where(fits, remainder - trial, remainder)
        root = jnp.where(fits, root | jnp.uint32(1 << step), root)
    return root
