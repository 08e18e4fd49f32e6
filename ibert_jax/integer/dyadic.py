"""Requantization: from one scale to another by a multiplication and a shift.

``q_out = clip(floor((x m 2^-16 + offset) 2^-shift))`` with ``m 2^-(16 + shift)`` the ratio of
the scales. ``offset`` holds the rounding half (2^(shift-1)) and whatever is to be added
anyway, LayerNorm's bias for one, so that the addition costs nothing. Rounding is therefore
to nearest, halves upward, here and wherever integers are rounded in this package.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ibert_jax.integer.wide import (
    multiply_add_high,
    multiply_add_high_below,
    multiply_high,
    multiply_high_15,
)

INT32_MAX = 2**31 - 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Multiplier:
    """The integer constants of one requantization, int32, scalar or one per channel [C].

    Invariants:
        * ``m``: |m| < 2^15, or < 2^31 for a wide requantization;
        * ``offset``: |offset| <= 2^30;
        * ``shift``: in [1, 30];
        * ``pre``: left shift before the product, in [0, 24], nonzero only for ratios of 1/4
          and above (a tiny output range); None says that it is zero everywhere.
    """

    m: jax.Array
    offset: jax.Array
    shift: jax.Array
    pre: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Folded:
    """A ``Multiplier`` as one multiplication and one addition.

    ``floor((x 2^left m + addend) 2^-32) 2^-shift``, int32 arrays, scalar or one per channel [C];
    ``frozen.folding`` makes it for GPUs, ``frozen.shared_shift`` for CPUs.

    Attributes:
        m: |m| < 2^31.
        high, low: the words of the addend, below 2^63; ``low`` None says that it is zero.
        left, shift: in [0, 30]; None says that it is zero everywhere.
    """

    m: jax.Array
    high: jax.Array
    low: jax.Array | None = None
    left: jax.Array | None = None
    shift: jax.Array | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """int32 [..., C] -> int32 [..., C]: what ``rescale`` makes of x (and of the bias of which
        this was made, if it was of one); where that saturates x, on the same side beyond 2^28.
        """
        if self.left is not None:
            x = x << align(self.left, x.ndim)
        m, high = (align(each, x.ndim) for each in (self.m, self.high))
        if self.low is None:
            found = multiply_high(x, m) + high
        else:
            found = multiply_add_high(x, m, high, align(self.low, x.ndim))
        return found if self.shift is None else found >> align(self.shift, x.ndim)

    def negative_below(self, top: jax.Array) -> Callable[[jax.Array], jax.Array]:
        """What makes of x the negative of what a call makes of x - top; of scalar constants."""
        left, shift, low = (
            0 if each is None else each for each in (self.left, self.shift, self.low)
        )
        negative = multiply_add_high_below(top, left, self.m, self.high, low, shift)
        return lambda x: negative(x << left)


def pack(multiplier: Multiplier) -> jax.Array:
    """The four constants in one int32 array [4, ...]: XLA computes one array in one kernel."""
    assert multiplier.pre is not None
    return jnp.stack([multiplier.m, multiplier.offset, multiplier.shift, multiplier.pre])


def unpack(packed: jax.Array) -> Multiplier:
    """The inverse of ``pack``."""
    return Multiplier(packed[0], packed[1], packed[2], packed[3])


def align(constant: jax.Array, ndim: int) -> jax.Array:
    """A scalar as it is, a [C] constant as [1, ..., 1, C] of rank ``ndim``."""
    return constant.reshape((1,) * (ndim - 1) + (-1,)) if constant.ndim == 1 else constant


def clip_bits(x: jax.Array, bits: int) -> jax.Array:
    """Saturate to the ``bits``-wide signed range [-2^(bits-1), 2^(bits-1) - 1]."""
    return jnp.clip(x, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def saturate(x: jax.Array, bits: int) -> jax.Array:
    """``clip_bits`` of int32, as int8 for 8 bits and fewer."""
    clipped = clip_bits(x, bits)
    return clipped.astype(jnp.int8) if bits <= 8 else clipped


def bounded(x: jax.Array, low: int, high: int) -> jax.Array:
    """``x``, which a lemma keeps within [low, high], clipped there.

    The clip never acts. It stands where a bound rests on how values depend on each other, so
    that the bound holds for whoever reads on, a proof by ranges for one; spec.py states the
    lemma beside the operation, and the tests look for an input at which the clip would act.
    """
    return _bounded(x, jnp.int32(low), jnp.int32(high))


@jax.jit
def _bounded(x: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    return jnp.clip(x, low, high)


def rescale(x: jax.Array, multiplier: Multiplier | Folded, *, wide: bool) -> jax.Array:
    """``x * ratio + offset`` rounded to an int32, before any output clip: |result| < 2^30.

    Where ``pre`` is positive, ``x`` saturates before it is shifted left. The ratio is then at
    least 1/4, so a saturated ``x`` gives at least 2^28: more than any output width here.
    """
    if isinstance(multiplier, Folded):
        return multiplier(x)
    m = align(multiplier.m, x.ndim)
    if multiplier.pre is not None:
        pre = align(multiplier.pre, x.ndim)
        limit = jnp.right_shift(jnp.int32(INT32_MAX), pre)
        x = jnp.clip(x, -limit, limit) << pre
    high = multiply_high(x, m) if wide else multiply_high_15(x, m)
    return (high + align(multiplier.offset, x.ndim)) >> align(multiplier.shift, x.ndim)


def requantize(x: jax.Array, multiplier: Multiplier, bits: int, *, wide: bool) -> jax.Array:
    """Round ``x * ratio + offset`` to ``bits``-wide integers, saturating.

    Args:
        x: int32 [..., C], any value.
        multiplier: scalar or per-channel constants.
        bits: output width, at most 22; int8 is returned for 8 bits and fewer, else int32.
        wide: whether ``m`` has 31 bits (outputs above 16 bits need them) or 15 (half the
            price; relative error 2^-15).
    """
    return saturate(rescale(x, multiplier, wide=wide), bits)


def requantize_sum(
    operands: Sequence[jax.Array], multipliers: Sequence[Multiplier], bits: int, *, wide: bool
) -> jax.Array:
    """The sum of integer operands [..., C], each requantized by its own multiplier first.

    Returns:
        As of ``requantize``. Of several operands each keeps one bit more until they are added.
    """
    width = bits if len(operands) == 1 else bits + 1
    parts = [
        requantize(q.astype(jnp.int32), constants, width, wide=wide)
        for q, constants in zip(operands, multipliers, strict=True)
    ]
    if len(parts) == 1:
        return parts[0]
    return saturate(functools.reduce(operator.add, (p.astype(jnp.int32) for p in parts)), bits)
