"""i-exp and the softmax of attention scores."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ibert_jax.integer.barrier import materialize
from ibert_jax.integer.dyadic import Multiplier, rescale
from ibert_jax.integer.matmul import row_sum_u8
from ibert_jax.integer.rows import row_max
from ibert_jax.integer.wide import leading_one, multiply_high_15, shift_left_saturating

GRID_BITS = 11
"""The exponent lives on the grid ln2 / 2^11: halvings are a shift, the remainder a mask."""
LOWEST = -30 << GRID_BITS
"""exp(-30 ln2) is below half a unit of the 15-bit result."""
EXP_LINEAR = 176186
"""round(0.96963238 ln2 2^18), i-exp's linear coefficient (Kim et al., eq. 13)."""
EXP_SQUARE = 45109
"""round(0.35815147 ln2^2 2^18), its quadratic one."""
NUMERATOR_MAX = 255
PUBLISHED_SUM = 256
"""What stands for the row sum of the published softmax: its shares are in units of 1/256."""
MASKED = -(2**30)
"""Stands for an excluded key while the row's largest is sought; below every score."""


@jax.jit
def iexp(t: jax.Array) -> jax.Array:
    """2^15 exp(t ln2 / 2^11) for int32 ``t`` in [LOWEST, 0]: int32 in [0, 2^15].

    With -t = 2^11 z + u: exp = 2^-z (1 - v (0.9696 ln2 - 0.3582 ln2^2 v)), v = u / 2^11, the
    published polynomial. The negative of what is in brackets is computed, with what is added to
    a rounded term inside of its shift. Widths: 45109 u < 2^27, 176186 u < 2^29. Maximum error
    1.94e-3.
    """
    z, u = (-t) >> GRID_BITS, (-t) & (2**GRID_BITS - 1)
    minus_slope = (EXP_SQUARE * u + (2**10 - (EXP_LINEAR << GRID_BITS))) >> GRID_BITS
    power = (minus_slope * u + (2**29 + 2**13 - 1)) >> 14
    return (((power << 1) >> z) + 1) >> 1


def softmax_numerators(
    scores: jax.Array, mask: jax.Array, multiplier: Multiplier
) -> tuple[jax.Array, jax.Array]:
    """Softmax up to the division: numerators relative to the row's largest, and their sum.

    Args:
        scores: int32 [B, H, T, T], |scores| < 2^30.
        mask: bool [B, 1, 1, T]; an excluded key gets exactly no weight, by selection.
        multiplier: narrow, from the scores' scale to ln2 / 2^11.

    Returns:
        uint8 numerators [B, H, T, T] in [0, 255] (the largest of a row is 255) and their int32
        row sums [B, H, T, 1], 0 for a row with no key. numerators / row sum is the softmax.
    """
    numerators = numerators_of(_row_powers(scores, mask, multiplier)).astype(jnp.uint8)
    return numerators, row_sum_u8(numerators)


def softmax_reference(
    scores: jax.Array, mask: jax.Array, multiplier: Multiplier
) -> tuple[jax.Array, jax.Array]:
    """The published softmax: probabilities floored to 8 bits after normalizing.

    Same arguments; returns uint8 floor(256 p), at most 255, and 256 as the row sum of every
    row (rows keep less than their mass, as published).
    """
    powers = _row_powers(scores, mask, multiplier)
    total = jnp.maximum(jnp.sum(powers, axis=-1, keepdims=True, dtype=jnp.int32), 1)
    shift, reciprocal = materialize(_reciprocal(total))
    floored = shares_of(powers, shift, reciprocal)
    return floored.astype(jnp.uint8), jnp.full_like(total, PUBLISHED_SUM)


def divide_by_row_sum(total: jax.Array, row_sum: jax.Array) -> jax.Array:
    """total / row_sum in units of 2^-21: the division that softmax left for the context.

    Args:
        total: int32 [..., C], sum over keys of numerator (u8) times value (int8), so that
            |total| <= 128 row_sum (the lemma of the weighted mean).
        row_sum: int32 [..., 1] in {0} or [255, 2^23): 0 gives 0.

    Returns:
        int32 [..., C], |result| <= 2^28. The saturation is the lemma's bound and never acts.
    """
    shift, reciprocal = _reciprocal(jnp.maximum(row_sum, NUMERATOR_MAX))
    shift, reciprocal = materialize((shift, reciprocal))
    return quotient_of(total, shift, reciprocal)


# The steps of the above, element by element, for kernels that walk over parts of a row.


def powers_of(below: jax.Array, mask: jax.Array, multiplier: Multiplier) -> jax.Array:
    """2^15 exp of scores less their row's largest, 0 where ``mask`` is False; int32."""
    exponent = jnp.clip(rescale(below, multiplier, wide=False), LOWEST, 0)
    return jnp.where(mask, iexp(exponent), 0)


def numerators_of(powers: jax.Array, largest: Any = NUMERATOR_MAX, less: int = 0) -> jax.Array:
    """Powers, int32 in [0, 2^15], in units of 1/255 of the largest there can be: [0, 255].

    Where ``largest`` is 0 in place of 255, the numerator is; ``less`` is subtracted from all.
    """
    return (powers * largest + (2**14 - (less << 15))) >> 15


def shares_of(powers: jax.Array, shift: jax.Array, reciprocal: jax.Array) -> jax.Array:
    """floor(256 powers / total), at most 255, with what ``_reciprocal`` says of the total."""
    # powers <= total < 2^(32 - shift), so the shifted powers stay below 2^30.
    share = multiply_high_15(shift_left_saturating(powers, shift - 2), reciprocal)
    return jnp.clip(share >> 20, 0, 255)


def quotient_of(total: jax.Array, shift: jax.Array, reciprocal: jax.Array) -> jax.Array:
    """total / row_sum in units of 2^-21, with what ``_reciprocal`` says of the row sum."""
    return multiply_high_15(shift_left_saturating(total, shift - 9), reciprocal)


def reciprocal_of(top: jax.Array) -> jax.Array:
    """2^30 / top in 15 bits, for int32 ``top`` in [2^15, 2^16)."""
    return jnp.clip((2**30 + (top >> 1)) // top, 0, 2**15 - 1)


def _row_powers(scores: jax.Array, mask: jax.Array, multiplier: Multiplier) -> jax.Array:
    kept = jnp.where(mask, scores, MASKED)
    return powers_of(kept - materialize(row_max(kept)), mask, multiplier)


def _reciprocal(n: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Leading zeros of positive int32 ``n`` and 1/n as a 15-bit reciprocal.

    1 / n = reciprocal * 2^(shift - 46), relative error below 2^-14.
    """
    top, shift = leading_one(n.astype(jnp.uint32))
    top = (top >> 16).astype(jnp.int32)  # in [2^15, 2^16)
    return shift, reciprocal_of(top)
