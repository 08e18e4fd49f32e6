"""QuantAct: where activations get their ranges and their few bits (Kim et al., section 3.1)."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from ibert_jax.integer.barrier import materialized
from ibert_jax.integer.dyadic import Multiplier, pack, requantize_sum, unpack
from ibert_jax.layers.leaf import ObservingLeaf
from ibert_jax.layers.linear import QuantLinear
from ibert_jax.quantize.constants import multiplier, power_of_two, scale_of_range
from ibert_jax.quantize.migration import balanced_exponents
from ibert_jax.quantize.ranges import RangeStatistic
from ibert_jax.quantize.schemes import MATMUL_BITS, ActivationFormat
from ibert_jax.quantize.straight_through import straight_through
from ibert_jax.quantize.tensor import QuantizedTensor, dequantize, value_of

WIDEST_NARROW = 16
"""Outputs of more bits than this are requantized with 31-bit multipliers."""
QUIETEST_CHANNEL = 2.0**-6
"""A channel's range counts for at least this share of the widest: a channel that calibration
found silent must not saturate at the first sentence that makes it speak."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IntegerAct:
    """The frozen activation: each operand requantized to the output's scale, then added.

    Attributes:
        multipliers: one per operand.
        bits: output width.
    """

    multipliers: tuple[Multiplier, ...]
    bits: int = dataclasses.field(metadata={"static": True})

    def __call__(self, *operands: jax.Array) -> jax.Array:
        """int32 or int8 [..., C] each -> int8 [..., C] for 8 bits and fewer, else int32."""
        return _requantize_sum(operands, self.multipliers, bits=self.bits)

    @property
    def highest(self) -> int:
        """The largest integer; the smallest is one further from 0."""
        return 2 ** (self.bits - 1) - 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IntegerNarrowAct:
    """The frozen activation where the layers of a stack differ in width.

    A stack has one structure, so its widths are data. The operand saturates at the widest
    layer's width and then at its own, which is the same as at its own alone.

    Attributes:
        multiplier: of the one operand.
        highest: int8 scalar, the largest integer; the smallest is one further from 0.
        bits: width of the widest layer, at most 8.
    """

    multiplier: Multiplier
    highest: jax.Array
    bits: int = dataclasses.field(metadata={"static": True})

    def __call__(self, q: jax.Array) -> jax.Array:
        """int32 or int8 [..., C] -> int8 [..., C]."""
        wide = _requantize_sum((q,), (self.multiplier,), bits=self.bits)
        return jnp.clip(wide, ~self.highest, self.highest)


def of_one_structure(acts: Iterable[IntegerAct]) -> list[IntegerAct | IntegerNarrowAct]:
    """The activations of one place in every layer, alike but for their arrays."""
    acts = list(acts)
    widest = max(act.bits for act in acts)
    if all(act.bits == widest for act in acts):
        return list(acts)
    return [
        IntegerNarrowAct(act.multipliers[0], np.int8(act.highest), widest)  # type: ignore[arg-type]
        for act in acts
    ]


def _requantize_sum(
    operands: tuple[jax.Array, ...], multipliers: tuple[Multiplier, ...], *, bits: int
) -> jax.Array:
    return requantize_sum(operands, multipliers, bits, wide=bits > WIDEST_NARROW)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IntegerPass:
    """A frozen activation that hands its operand on."""

    def __call__(self, q: jax.Array) -> jax.Array:
        return q


def add(*values: jax.Array) -> jax.Array:
    """The sum of float operands: what a ``QuantAct`` is, gradients included."""
    return functools.reduce(operator.add, values)


class QuantAct(ObservingLeaf):
    """Adds its operands and quantizes the sum to the range it has observed.

    Args:
        form: width and granularity; see ``quantize.schemes``.
        channels: C.
        momentum: of the range's moving average; -1 for running minimum and maximum.

    ``x_min``, ``x_max`` float32 scalar or [C]; for the granularity ``balanced`` also
    ``channel_exponent`` float32 [C], whole numbers: channel c has 2^exponent[c] times the
    tensor's scale.

    ``form.bits`` may be changed while the model is float (``layers.widths``) where ``adjustable``:
    where what it quantizes enters a matmul.
    """

    def __init__(self, form: ActivationFormat, channels: int, momentum: float = 0.95) -> None:
        self.form = form
        self.adjustable = form.bits == MATMUL_BITS
        super().__init__(() if form.granularity == "tensor" else (channels,), momentum)
        if form.granularity == "balanced":
            self.channel_exponent = RangeStatistic(jnp.zeros((channels,), jnp.float32))

    def scale(self) -> jax.Array:
        """The output's short scale, float32 scalar or [C], from the observed range."""
        return _scale(self.absolute_range(), self._exponent(), self.form)

    def covered(self) -> jax.Array:
        """The absolute range that the integers cover, float32 scalar or [C], before rounding."""
        return _covered(self.absolute_range(), self._exponent(), self.form)

    def _exponent(self) -> jax.Array | None:
        return self.channel_exponent[...] if self.form.granularity == "balanced" else None

    @property
    def needed(self) -> bool:
        return self.form.bits is not None

    def balance_for(self, readers: Iterable[QuantLinear], migration: float) -> None:
        """Choose the channel factors, if this activation has any, for the layers that read it."""
        if self.form.granularity == "balanced":
            weights = [np.asarray(reader.weight[...]) for reader in readers]
            exponents = balanced_exponents(np.asarray(self.absolute_range()), weights, migration)
            self.channel_exponent[...] = jnp.asarray(exponents)

    def __call__(self, *operands: jax.Array | QuantizedTensor) -> jax.Array | QuantizedTensor:
        """Tensors [..., C] -> their sum [..., C]."""
        if self.form.bits is None:
            self.record(IntegerPass())
            (operand,) = operands
            return operand
        values = [value_of(x) for x in operands]
        self.observe(add(*values))
        if not self.quantized:
            return add(*values)
        tensors = [x for x in operands if isinstance(x, QuantizedTensor)]
        scale, multipliers = _constants(
            self.absolute_range(),
            self._exponent(),
            [(x.scale, x.offset) for x in tensors],
            form=self.form,
        )
        integer = IntegerAct(tuple(map(unpack, multipliers)), self.form.bits)
        # Here, unlike in a frozen program, its float value is a second reader.
        q = _fenced(self.record(integer), *(x.q for x in tensors))
        return QuantizedTensor(q, scale, straight_through(add, dequantize(q, scale), *values))


@materialized
def _fenced(integer: IntegerAct, *operands: jax.Array) -> jax.Array:
    return integer(*operands)


def _scale(absolute: jax.Array, exponent: jax.Array | None, form: ActivationFormat) -> jax.Array:
    assert form.bits is not None
    if exponent is None:
        return scale_of_range(_covered(absolute, None, form), bits=form.bits)
    whole = exponent.astype(jnp.int32)
    tensor = jnp.max(absolute * power_of_two(-whole))
    return scale_of_range(tensor, bits=form.bits) * power_of_two(whole)


def _covered(absolute: jax.Array, exponent: jax.Array | None, form: ActivationFormat) -> jax.Array:
    if exponent is not None:
        whole = exponent.astype(jnp.int32)
        return jnp.max(absolute * power_of_two(-whole)) * power_of_two(whole)
    if form.granularity == "channel":
        return jnp.maximum(absolute, jnp.max(absolute) * QUIETEST_CHANNEL)
    return absolute


@materialized
def _constants(
    absolute: jax.Array,
    exponent: jax.Array | None,
    operands: list[tuple[jax.Array, jax.Array | None]],
    *,
    form: ActivationFormat,
) -> tuple[jax.Array, list[jax.Array]]:
    """The output's scale, and the packed multiplier of each (scale, offset) that comes in."""
    assert form.bits is not None
    scale, wide = _scale(absolute, exponent, form), form.bits > WIDEST_NARROW
    return scale, [
        pack(multiplier(incoming, scale, wide=wide, offset=offset)) for incoming, offset in operands
    ]
