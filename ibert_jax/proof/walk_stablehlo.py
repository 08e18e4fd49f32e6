"""The operations of a StableHLO module, by MLIR's own object model (no text is searched)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jax.extend.mlir import ir

from ibert_jax.integer import packed
from ibert_jax.proof.operations import STABLEHLO, Operation, is_float_type

_FLOAT_TEXT = re.compile(r"(bf|tf|f)(\d.*)")
_COMPLEX = {"float32": "complex64", "float64": "complex128"}


def walk_stablehlo(module: Any) -> Iterator[Operation]:
    """Yields every operation of an `ir.Module`, in every region, function and branch.

    A function that is called several times stands once in the module and is visited once.
    """
    yield from _walk(module.operation, "")


def _walk(operation: Any, function: str) -> Iterator[Operation]:
    name, attributes = operation.name, operation.attributes
    if name == "func.func":
        function = str(attributes["sym_name"]).strip('"')
    operands = [kind for value in operation.operands for kind in element_types(value.type)]
    operands += [kind for key in attributes for kind in _attribute_types(attributes[key])]
    blocks = [block for region in operation.regions for block in region.blocks]
    if name != "func.func":  # whose type, an attribute, says the same; elsewhere a loop's carry
        arguments = [argument for block in blocks for argument in block.arguments]
        operands += [kind for argument in arguments for kind in element_types(argument.type)]
    yield Operation(
        STABLEHLO,
        name,
        tuple(operands),
        tuple(kind for value in operation.results for kind in element_types(value.type)),
        lambda: f"@{function} {_where(operation)}",
        opaque=_target(attributes) if name == "stablehlo.custom_call" else None,
    )
    for block in blocks:
        for inner in block.operations:
            yield from _walk(inner.operation, function)


def element_types(kind: Any) -> list[str]:
    """Element types of an MLIR type by NumPy name; unknown types by their own text."""
    if isinstance(kind, ir.IntegerType):
        if kind.width == 1:
            return ["bool"]
        return [f"{'u' if kind.is_unsigned else ''}int{kind.width}"]
    if isinstance(kind, ir.FunctionType):
        return [name for part in (*kind.inputs, *kind.results) for name in element_types(part)]
    if isinstance(kind, ir.TupleType):
        parts = [kind.get_type(i) for i in range(kind.num_types)]
        return [name for part in parts for name in element_types(part)]
    if isinstance(kind, ir.ComplexType):
        (part,) = element_types(kind.element_type)
        return [_COMPLEX.get(part, f"complex of {part}")]
    if isinstance(kind, ir.ShapedType):
        return element_types(kind.element_type)
    text = _FLOAT_TEXT.fullmatch(str(kind))
    if text:
        return [("bfloat" if text[1] == "bf" else "float") + text[2].lower()]
    return [str(kind)]


def _attribute_types(attribute: Any) -> Iterator[str]:
    """Floating-point types anywhere in an attribute; those of a type attribute, all of them."""
    if isinstance(attribute, ir.TypeAttr):
        yield from element_types(attribute.value)
    elif isinstance(attribute, ir.ArrayAttr):
        for item in attribute:
            yield from _attribute_types(item)
    elif isinstance(attribute, ir.DictAttr):
        for i in range(len(attribute)):
            yield from _attribute_types(attribute[i].attr)
    elif isinstance(attribute, (ir.DenseF32ArrayAttr, ir.DenseF64ArrayAttr)):
        yield "float32" if isinstance(attribute, ir.DenseF32ArrayAttr) else "float64"
    else:
        try:
            kind = attribute.type
        except (AttributeError, RuntimeError, ValueError):
            return  # a string, a symbol, an enumeration: it carries no numbers
        yield from (name for name in element_types(kind) if is_float_type(name))


def _target(attributes: Any) -> str:
    target = ir.StringAttr(attributes["call_target_name"]).value
    if target == packed.TARGET:
        config = [attributes[key] for key in attributes if key == "backend_config"]
        text = config[0].value if config and isinstance(config[0], ir.StringAttr) else ""
        return f"{target} of another kind" if packed.more_than_a_product(text) else target
    return target


def _where(operation: Any) -> str:
    text = str(operation.location)
    names = re.findall(r'"([^"]*)"', text)
    place = re.search(r'"([^"]*)"\("([^"]*)":(\d+)', text)
    if not names:
        return text
    if place and place[1] != names[0]:
        return f"{names[0]} ({place[2]}:{place[3]} {place[1]})"
    return names[0]
