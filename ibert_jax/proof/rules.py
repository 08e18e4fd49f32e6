"""The table of rules: primitive -> how the ranges of its results follow from its operands'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ibert_jax.integer.mixed import MOST_TERMS, ZERO_POINT
from ibert_jax.proof import rules_elementwise as element
from ibert_jax.proof import rules_shape as move
from ibert_jax.proof.interval import (
    RANGED_TYPES,
    Interval,
    between,
    bits_of,
    exactly,
    flatten_axes,
    join,
    type_range,
)
from ibert_jax.proof.rules_elementwise import Unprovable
from ibert_jax.proof.rules_matmul import dot_general
from ibert_jax.proof.walk_jaxpr import element_type

Rule = Callable[[Any, list[Interval]], list[Interval]]


def apply(eqn: Any, operands: list[Interval]) -> list[Interval]:
    """The ranges of an equation's results, as if integers had no width.

    Raises:
      Unprovable: the primitive has no rule, or its operands leave what it is defined for.
    """
    for var in (*eqn.invars, *eqn.outvars):
        if element_type(var.aval) not in RANGED_TYPES:
            raise Unprovable(f"{element_type(var.aval)} is not an integer type of 8 to 64 bits")
    rule = RULES.get(eqn.primitive.name)
    if rule is None:
        raise Unprovable("no rule for this operation")
    return rule(eqn, operands)


def _shape(eqn: Any, index: int = 0) -> tuple[int, ...]:
    return eqn.invars[index].aval.shape


def _out(eqn: Any) -> tuple[int, ...]:
    return eqn.outvars[0].aval.shape


def _dtype(eqn: Any) -> Any:
    return eqn.outvars[0].aval.dtype


def _same(eqn: Any) -> bool:
    """True if both operands are one and the same array."""
    return eqn.invars[0] is eqn.invars[1]


def _one(rule: Callable[[Any, list[Interval]], Interval]) -> Rule:
    return lambda eqn, operands: [rule(eqn, operands)]


def _plain(rule: Callable[..., Interval]) -> Rule:
    return lambda eqn, operands: [rule(*operands)]


def _shift(rule: Callable[..., Interval]) -> Rule:
    return _one(lambda e, o: rule(*o, bits_of(_dtype(e))))


def _multiply(eqn: Any, operands: list[Interval]) -> Interval:
    return element.square(operands[0]) if _same(eqn) else element.mul(*operands)


def _subtract(eqn: Any, operands: list[Interval]) -> Interval:
    if _same(eqn):
        return exactly(np.zeros_like(operands[0].lo))
    return element.sub(*operands)


def _convert(eqn: Any, operands: list[Interval]) -> Interval:
    (x,) = operands
    if np.dtype(_dtype(eqn)) == bool:
        zero = exactly(np.zeros_like(x.lo))
        return element.compare("ne", x, zero)
    return Interval(x.lo, x.hi)  # bits of another width: `recast` was about these


def _bitcast(eqn: Any, operands: list[Interval]) -> Interval:
    (x,) = operands
    old, new = np.dtype(eqn.invars[0].aval.dtype), np.dtype(_dtype(eqn))
    if old.itemsize != new.itemsize or bool in (old, new):
        raise Unprovable(f"bitcast from {old} to {new}")
    if old == new:
        return x
    if x.recast is not None:
        return between(*x.recast)
    bits = bits_of(new)
    lo, hi = element.roomy(bits, *x.wide())
    if new.kind == "u":
        return element.as_unsigned(lo, hi, bits)
    half, wrap = 1 << (bits - 1), 1 << bits
    crosses = (lo < half) & (hi >= half)
    down = np.where(lo >= half, np.asarray(wrap, lo.dtype), 0)
    return between(np.where(crosses, -half, lo - down), np.where(crosses, half - 1, hi - down))


def _any_of(eqn: Any, operands: list[Interval]) -> Interval:
    """A permutation along an axis, or part of it: sort, cummax."""
    axis = eqn.params.get("dimension", eqn.params.get("axis"))
    return flatten_axes(operands[0], (axis,))


def _sort(eqn: Any, operands: list[Interval]) -> list[Interval]:
    return [flatten_axes(x, (eqn.params["dimension"],)) for x in operands]


def _reshape(eqn: Any, operands: list[Interval]) -> Interval:
    if eqn.params["dimensions"] is not None:
        raise Unprovable("a reshape that transposes")
    return move.reshape(operands[0], _shape(eqn), _out(eqn))


def _split(eqn: Any, operands: list[Interval]) -> list[Interval]:
    axis, sizes, old = eqn.params["axis"], eqn.params["sizes"], _shape(eqn)
    results, at = [], 0
    for size in sizes:
        starts = tuple(at if a == axis else 0 for a in range(len(old)))
        limits = tuple(at + size if a == axis else n for a, n in enumerate(old))
        results.append(move.cut(operands[0], starts, limits, None))
        at += size
    return results


def _reduce_bits(eqn: Any, operands: list[Interval]) -> Interval:
    """and, or over an axis: of booleans all or any, of integers bounded by their bits."""
    if np.dtype(_dtype(eqn)) != bool:
        raise Unprovable("bitwise reduction of integers")
    largest = eqn.primitive.name == "reduce_or"
    return move.reduce_extreme(operands[0], eqn.params["axes"], _shape(eqn), largest=largest)


def _dot(eqn: Any, operands: list[Interval]) -> Interval:
    params = eqn.params
    if np.dtype(_dtype(eqn)) == bool:
        raise Unprovable("a product of booleans")
    dims = params.get("dimension_numbers", params.get("dimensions"))
    return dot_general(operands[0], operands[1], (_shape(eqn, 0), _shape(eqn, 1)), dims)


def _dot_u8_s8(eqn: Any, operands: list[Interval]) -> Interval:
    """The product as it is defined, which the other lowering must be as well (`integer.mixed`)."""
    unsigned, weight, *surplus = operands
    shapes, dims = (_shape(eqn, 0), _shape(eqn, 1)), eqn.params["dimensions"]
    result = dot_general(unsigned, weight, shapes, dims)
    terms = int(np.prod([shapes[0][axis] for axis in dims[0][0]], dtype=int))
    if terms > MOST_TERMS:
        raise Unprovable(f"a sum of {terms} products, more than {MOST_TERMS}")
    if surplus and weight.exact and surplus[0].exact:
        ones = exactly(np.ones((1,) * unsigned.lo.ndim, np.int64))
        known = dot_general(ones, weight, shapes, dims).lo * ZERO_POINT
        if not bool(np.all(known == surplus[0].lo)):
            raise Unprovable("the surplus is not 128 times the sums of the right operand")
    elif surplus:  # it was computed: that it is that sum is for tests to hold
        zero = exactly(np.full((1,) * unsigned.lo.ndim, ZERO_POINT))
        signed = dot_general(element.sub(unsigned, zero), weight, shapes, dims)
        moved = element.add(signed, surplus[0])
        least, most = type_range(_dtype(eqn))
        if moved.least < least or moved.most > most:
            raise Unprovable(
                f"by int8 operands it would be in [{moved.least}, {moved.most}], which leaves "
                f"{_dtype(eqn)}"
            )
    return result


def _scatter(eqn: Any, operands: list[Interval]) -> Interval:
    """Elements of the array or of the updates."""
    if eqn.params["update_jaxpr"] is not None:
        raise Unprovable("a scatter that applies a function")
    x, _, updates = operands
    everywhere = flatten_axes(updates, tuple(range(updates.lo.ndim)))
    shape = (1,) * x.lo.ndim
    return join(
        flatten_axes(x, tuple(range(x.lo.ndim))),
        move.each(everywhere, lambda bounds: bounds.reshape(shape)),
    )


RULES: dict[str, Rule] = {
    "abs": _plain(element.absolute),
    "add": _plain(element.add),
    "add_any": _plain(element.add),
    "and": _plain(element.bit_and),
    "argmax": _one(lambda e, o: move.index_in(_shape(e), e.params["axes"], len(_out(e)))),
    "argmin": _one(lambda e, o: move.index_in(_shape(e), e.params["axes"], len(_out(e)))),
    "bitcast_convert_type": _one(_bitcast),
    "broadcast_in_dim": _one(
        lambda e, o: move.broadcast_in_dim(o[0], _out(e), e.params["broadcast_dimensions"])
    ),
    "clamp": _plain(element.clamp),
    "clz": _one(lambda e, o: element.leading_zeros(o[0], bits_of(_dtype(e)))),
    "concatenate": _one(
        lambda e, o: move.concatenate(o, [v.aval.shape for v in e.invars], e.params["dimension"])
    ),
    "convert_element_type": _one(_convert),
    "cummax": _one(_any_of),
    "cummin": _one(_any_of),
    "cumsum": _one(
        lambda e, o: move.cumulative_sum(
            o[0], e.params["axis"], _shape(e), reverse=e.params["reverse"]
        )
    ),
    "div": _plain(element.divide),
    "dot_general": _one(_dot),
    "dot_u8_s8": _one(_dot_u8_s8),
    "dynamic_slice": _one(
        lambda e, o: move.dynamic_slice(o[0], o[1:], _shape(e), e.params["slice_sizes"])
    ),
    "dynamic_update_slice": _one(
        lambda e, o: move.dynamic_update_slice(o[0], o[1], _shape(e), _shape(e, 1))
    ),
    "gather": _one(
        lambda e, o: move.gather(
            o[0], o[1], _out(e), e.params, _dtype(e), (_shape(e, 0), _shape(e, 1))
        )
    ),
    "integer_pow": _one(lambda e, o: element.power(o[0], e.params["y"])),
    "iota": _one(lambda e, o: move.iota(e.params["shape"], e.params["dimension"])),
    "max": _plain(element.maximum),
    "min": _plain(element.minimum),
    "mul": _one(_multiply),
    "neg": _plain(element.negative),
    "not": _one(lambda e, o: element.bit_not(o[0], _dtype(e))),
    "or": _plain(element.bit_or),
    "pad": _one(lambda e, o: move.pad(o[0], o[1], e.params["padding_config"])),
    "platform_index": _one(
        lambda e, o: between(np.asarray(0), np.asarray(len(e.params["platforms"]) - 1))
    ),
    "reduce_and": _one(_reduce_bits),
    "reduce_max": _one(
        lambda e, o: move.reduce_extreme(o[0], e.params["axes"], _shape(e), largest=True)
    ),
    "reduce_min": _one(
        lambda e, o: move.reduce_extreme(o[0], e.params["axes"], _shape(e), largest=False)
    ),
    "reduce_or": _one(_reduce_bits),
    "reduce_sum": _one(lambda e, o: move.reduce_sum(o[0], e.params["axes"], _shape(e))),
    "rem": _plain(element.remainder),
    "reshape": _one(_reshape),
    "rev": _one(lambda e, o: move.each(o[0], lambda b: np.flip(b, e.params["dimensions"]))),
    "scatter": _one(_scatter),
    "select_n": _one(lambda e, o: element.select(o[0], o[1:])),
    "shift_left": _shift(element.shift_left),
    "shift_right_arithmetic": _one(
        lambda e, o: element.shift_right_arithmetic(o[0], o[1], bits_of(_dtype(e)), _dtype(e))
    ),
    "shift_right_logical": _shift(element.shift_right_logical),
    "sign": _plain(element.sign),
    "slice": _one(
        lambda e, o: move.cut(
            o[0], e.params["start_indices"], e.params["limit_indices"], e.params["strides"]
        )
    ),
    "sort": _sort,
    "split": _split,
    "stack": _one(lambda e, o: move.stack(o, e.params["axis"])),
    "square": _plain(element.square),
    "squeeze": _one(lambda e, o: move.reshape(o[0], _shape(e), _out(e))),
    "sub": _one(_subtract),
    "tile": _one(lambda e, o: move.tile(o[0], e.params["reps"])),
    "transpose": _one(
        lambda e, o: move.each(o[0], lambda b: np.transpose(b, e.params["permutation"]))
    ),
    "unstack": lambda e, o: move.unstack(o[0], e.params["axis"], len(e.outvars)),
    "xor": _one(lambda e, o: element.bit_xor(o[0], o[1], _dtype(e))),
    **{
        name: _one(lambda e, o: element.compare(e.primitive.name, *o))
        for name in ("eq", "ne", "lt", "le", "gt", "ge")
    },
    **{
        name: lambda e, o: list(o)
        for name in ("copy", "copy_p", "device_put", "layout_constraint", "name",
                     "optimization_barrier", "reshard", "sharding_constraint", "stop_gradient")
    },
}  # fmt: skip
