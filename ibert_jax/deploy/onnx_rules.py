"""What each operation of an integer program's jaxpr is in ONNX, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ibert_jax.deploy.onnx_graph import Graph, Value

Rule = Callable[[Graph, Any, list[Value]], str]
"""(graph, equation, operands) -> the name of the result."""

LOW32 = 2**32 - 1


def _dtype(value: Value) -> np.dtype[Any]:
    return np.dtype(value.dtype)


def _result(eqn: Any) -> Any:
    return eqn.outvars[0].aval


def _wrapped(graph: Graph, name: str, dtype: Any) -> str:
    """Of an unsigned result, its low 32 bits: JAX's wrap around, int64 here does not."""
    if np.dtype(dtype) != np.uint32:
        return name
    return graph.node("BitwiseAnd", name, graph.integer(LOW32, np.int64))


def _elementwise(kind: str) -> Rule:
    def rule(graph: Graph, eqn: Any, operands: list[Value]) -> str:
        if _dtype(operands[0]) not in (np.int32, np.uint32, np.int64):
            raise NotImplementedError(f"{kind} of {_dtype(operands[0])} has no form in ONNX here")
        name = graph.node(kind, *map(graph.name_of, operands))
        return _wrapped(graph, name, _dtype(operands[0]))

    return rule


def _logical(of_bits: str, of_truth: str) -> Rule:
    def rule(graph: Graph, eqn: Any, operands: list[Value]) -> str:
        kind = of_truth if _dtype(operands[0]) == np.bool_ else of_bits
        name = graph.node(kind, *map(graph.name_of, operands))
        return _wrapped(graph, name, _dtype(operands[0]))

    return rule


def _comparison(kind: str) -> Rule:
    return lambda graph, eqn, operands: graph.node(kind, *map(graph.name_of, operands))


def _different(graph: Graph, eqn: Any, operands: list[Value]) -> str:
    return graph.node("Not", graph.node("Equal", *map(graph.name_of, operands)))


def _remainder(graph: Graph, eqn: Any, operands: list[Value]) -> str:
    """With the sign of the dividend; ONNX's own takes the divisor's."""
    a, b = map(graph.name_of, operands)
    return graph.node("Sub", a, graph.node("Mul", graph.node("Div", a, b), b))


def _shift(graph: Graph, x: str, by: str, direction: str, unsigned: Any) -> str:
    amount = graph.cast(by, unsigned)
    return graph.node("BitShift", graph.cast(x, unsigned), amount, direction=direction)


def _shift_left(graph: Graph, eqn: Any, operands: list[Value]) -> str:
    x, by = map(graph.name_of, operands)
    if _dtype(operands[0]) == np.uint32:
        shifted = graph.cast(_shift(graph, x, by, "LEFT", np.uint64), np.int64)
        return _wrapped(graph, shifted, np.uint32)
    return graph.cast(_shift(graph, x, by, "LEFT", np.uint32), np.int32)


def _shift_right_logical(graph: Graph, eqn: Any, operands: list[Value]) -> str:
    x, by = map(graph.name_of, operands)
    if _dtype(operands[0]) == np.uint32:
        return graph.cast(_shift(graph, x, by, "RIGHT", np.uint64), np.int64)
    return graph.cast(_shift(graph, x, by, "RIGHT", np.uint32), np.int32)


def _shift_right_arithmetic(graph: Graph, eqn: Any, operands: list[Value]) -> str:
    """ONNX shifts unsigned integers only: ~(~x >> s) where x is negative."""
    (x, by), signed = map(graph.name_of, operands), _dtype(operands[0])
    unsigned = np.dtype(f"u{signed}")
    negative = graph.node("Less", x, graph.integer(0, signed))
    sign = graph.node("Neg", graph.cast(negative, signed))
    flipped = graph.node("BitwiseXor", x, sign)
    shifted = graph.cast(_shift(graph, flipped, by, "RIGHT", unsigned), signed)
    return graph.node("BitwiseXor", shifted, sign)


def _leading_zeros(graph: Graph, eqn: Any, operands: list[Value]) -> str:
    """By halves: 16 zeros more where the number is below 2^16, and so on."""
    signed = _dtype(operands[0]) == np.int32
    x = graph.name_of(operands[0])
    if signed:
        x = _wrapped(graph, graph.cast(x, np.int64), np.uint32)
    empty = graph.node("Equal", x, graph.integer(0, np.int64))
    zeros = graph.cast(empty, np.int64)  # the 32nd of 0
    for step in (16, 8, 4, 2, 1):
        low = graph.cast(graph.node("Less", x, graph.integer(1 << (32 - step), np.int64)), np.int64)
        zeros = graph.node("Add", zeros, graph.node("Mul", low, graph.integer(step, np.int64)))
        factor = graph.node(
            "Add",
            graph.node("Mul", low, graph.integer((1 << step) - 1, np.int64)),
            graph.integer(1, np.int64),
        )
        x = graph.node("Mul", x, factor)
    return graph.cast(zeros, np.int32) if signed else zeros


def _choice(graph: Graph, eqn: Any, operands: list[Value]) -> str:
    which, if_false, if_true = operands
    names = [graph.name_of(x) for x in (if_true, if_false)]
    narrow = _dtype(if_true) in (np.int8, np.uint8)
    if narrow:
        names = [graph.cast(name, np.int32) for name in names]
    chosen = graph.node("Where", graph.name_of(which), *names)
    return graph.cast(chosen, _dtype(if_true)) if narrow else chosen


def _convert(graph: Graph, eqn: Any, operands: list[Value]) -> str:
    """To another integer type; what does not fit wraps, as in JAX."""
    name, to = graph.name_of(operands[0]), np.dtype(_result(eqn).dtype)
    if to == _dtype(operands[0]):
        return name
    if to == np.uint32:
        return _wrapped(graph, graph.cast(name, np.int64), to)
    return graph.cast(name, to)


def _reshape(graph: Graph, eqn: Any, operands: list[Value]) -> str:
    return graph.node("Reshape", graph.name_of(operands[0]), graph.shape(_result(eqn).shape))


def _broadcast(graph: Graph, eqn: Any, operands: list[Value]) -> str:
    target = eqn.params["shape"]
    places = dict(zip(eqn.params["broadcast_dimensions"], operands[0].shape, strict=True))
    standing = [places.get(axis, 1) for axis in range(len(target))]
    name = graph.name_of(operands[0])
    if len(standing) != len(operands[0].shape):
        name = graph.node("Reshape", name, graph.shape(standing))
    return (
        name
        if tuple(standing) == tuple(target)
        else graph.node("Expand", name, graph.shape(target))
    )


def _transpose(graph: Graph, eqn: Any, operands: list[Value]) -> str:
    order = tuple(eqn.params["permutation"])
    return graph.node("Transpose", graph.name_of(operands[0]), perm=order)


def _slice(graph: Graph, eqn: Any, operands: list[Value]) -> str:
    p = eqn.params
    steps = p["strides"] or (1,) * len(p["start_indices"])
    axes = graph.constant(np.arange(len(steps), dtype=np.int64))
    bounds = [graph.shape(p[which]) for which in ("start_indices", "limit_indices")]
    return graph.node("Slice", graph.name_of(operands[0]), *bounds, axes, graph.shape(tuple(steps)))


def _concatenate(graph: Graph, eqn: Any, operands: list[Value]) -> str:
    return graph.node("Concat", *map(graph.name_of, operands), axis=eqn.params["dimension"])


def _reduction(kind: str) -> Rule:
    def rule(graph: Graph, eqn: Any, operands: list[Value]) -> str:
        axes = graph.constant(np.array(eqn.params["axes"], np.int64))
        name = graph.node(kind, graph.name_of(operands[0]), axes, keepdims=0)
        return _wrapped(graph, name, _dtype(operands[0]))

    return rule


def _running_sum(graph: Graph, eqn: Any, operands: list[Value]) -> str:
    axis = graph.integer(eqn.params["axis"], np.int64)
    backwards = int(eqn.params["reverse"])
    return graph.node("CumSum", graph.name_of(operands[0]), axis, reverse=backwards)


def _rows(graph: Graph, eqn: Any, operands: list[Value]) -> str:
    """A gather along one axis, the others whole.

    Indices outside, which a call of the program refuses, are an error of whoever runs the file, and
    negative ones, which ONNX would count from the end, are made such. (The program itself counts
    those from the end that are given to it, as NumPy does.)
    """
    table, indices = operands
    numbers, rank = eqn.params["dimension_numbers"], len(indices.shape) - 1
    (axis, *others) = numbers.start_index_map
    sizes = (*table.shape[:axis], 1, *table.shape[axis + 1 :])
    offsets = (*range(axis), *range(axis + rank, len(sizes) - 1 + rank))
    if (
        others
        or numbers.collapsed_slice_dims != (axis,)
        or tuple(eqn.params["slice_sizes"]) != sizes
        or numbers.offset_dims != offsets
    ):
        raise NotImplementedError("a gather of this form has none in ONNX here")
    flat = graph.node("Reshape", graph.name_of(indices), graph.shape(indices.shape[:-1]))
    if isinstance(table.shape[axis], int):
        negative = graph.node("Less", flat, graph.integer(0))
        flat = graph.node("Where", negative, graph.integer(table.shape[axis]), flat)
    return graph.node("Gather", graph.name_of(table), flat, axis=axis)


def _product(graph: Graph, eqn: Any, operands: list[Value]) -> str:
    """A product of 8-bit tensors: MatMulInteger on [..., M, K] and [..., K, N].

    Both operands are uint8, around 128 unless they were so. For uint8 by int8 ONNX Runtime
    saturates sums of two products at 16 bits on x86 without VNNI: held to AVX2, 64 products of 255
    by 127 came out as half. int8 by int8 takes six times as long (1.32, 1024 x 768 x 768).
    """
    p = eqn.params
    ((a_contract, b_contract), (a_batch, b_batch)) = p.get("dimension_numbers") or p["dimensions"]
    a, b, *_ = operands  # what else `dot_u8_s8` takes does not change its result
    if _dtype(a) not in (np.int8, np.uint8) or _dtype(b) != np.int8:
        raise NotImplementedError(f"a product of {_dtype(a)} and {_dtype(b)} is not 8-bit")

    def order(x: Value, batch: Any, contract: Any, last: bool) -> tuple[int, ...]:
        free = [i for i in range(len(x.shape)) if i not in (*batch, *contract)]
        return (*batch, *(free + list(contract) if last else [*contract, *free]))

    def turned(x: Value, axes: tuple[int, ...]) -> str:
        if axes == tuple(range(len(axes))):
            return graph.name_of(x)
        if isinstance(x, np.ndarray):
            return graph.constant(x.transpose(axes))
        return graph.node("Transpose", x.name, perm=axes)

    def unsigned(x: Value, axes: tuple[int, ...]) -> tuple[str, str]:
        """As uint8, and its zero point."""
        if _dtype(x) == np.uint8:
            return turned(x, axes), graph.integer(0, np.uint8)
        zero = graph.integer(128, np.uint8)
        if isinstance(x, np.ndarray):
            return turned(x.view(np.uint8) ^ 128, axes), zero
        wide = graph.node("Add", graph.cast(turned(x, axes), np.int32), graph.integer(128))
        return graph.cast(wide, np.uint8), zero

    if len(b.shape) != len(b_batch) + 2 or (a_batch and len(a.shape) != len(a_batch) + 2):
        raise NotImplementedError("a product of this form has none in ONNX here")
    left, left_zero = unsigned(a, order(a, a_batch, a_contract, True))
    right, right_zero = unsigned(b, order(b, b_batch, b_contract, False))
    return graph.node("MatMulInteger", left, right, left_zero, right_zero)


def _dimension(graph: Graph, eqn: Any, operands: list[Value]) -> str:
    scalar = graph.node("Squeeze", graph.dimension(eqn.params["dim"]))
    return graph.cast(scalar, _result(eqn).dtype)


def _same(graph: Graph, eqn: Any, operands: list[Value]) -> str:
    return graph.name_of(operands[0])


RULES: dict[str, Rule] = {
    "abs": _elementwise("Abs"),
    "add": _elementwise("Add"),
    "and": _logical("BitwiseAnd", "And"),
    "bitcast_convert_type": _convert,
    "broadcast_in_dim": _broadcast,
    "clz": _leading_zeros,
    "concatenate": _concatenate,
    "convert_element_type": _convert,
    "cumsum": _running_sum,
    "dim_as_value": _dimension,
    "div": _elementwise("Div"),
    "dot_general": _product,
    "dot_u8_s8": _product,
    "eq": _comparison("Equal"),
    "expand_dims": _reshape,
    "gather": _rows,
    "ge": _comparison("GreaterOrEqual"),
    "gt": _comparison("Greater"),
    "le": _comparison("LessOrEqual"),
    "lt": _comparison("Less"),
    "max": _elementwise("Max"),
    "min": _elementwise("Min"),
    "mul": _elementwise("Mul"),
    "ne": _different,
    "neg": _elementwise("Neg"),
    "not": _logical("BitwiseNot", "Not"),
    "optimization_barrier": _same,
    "or": _logical("BitwiseOr", "Or"),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "reduce_sum": _reduction("ReduceSum"),
    "rem": _remainder,
    "reshape": _reshape,
    "select_n": _choice,
    "shift_left": _shift_left,
    "shift_right_arithmetic": _shift_right_arithmetic,
    "shift_right_logical": _shift_right_logical,
    "sign": _elementwise("Sign"),
    "slice": _slice,
    "squeeze": _reshape,
    "sub": _elementwise("Sub"),
    "transpose": _transpose,
    "xor": _logical("BitwiseXor", "Xor"),
}
