"""The instructions of an optimized HLO module, read from its protocol buffer.

The compiler hands its module out as a serialized `HloModuleProto`. The few fields needed are read
here by number (numbers of a protocol buffer never change), without any generated code; what is
read is held against the instruction names that the module itself reports, so a format that moved
is an error and never a clean bill.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ibert_jax.integer import packed
from ibert_jax.proof.operations import HLO, Operation

# Field numbers of xla/service/hlo.proto and xla/xla_data.proto.
_MODULE_COMPUTATIONS = 3
_COMPUTATION_NAME, _COMPUTATION_INSTRUCTIONS = 1, 2
_NAME, _OPCODE, _SHAPE, _METADATA, _FUSION_KIND = 1, 2, 3, 7, 11
_CUSTOM_CALL_TARGET, _ID, _OPERAND_IDS, _BACKEND_CONFIG = 28, 35, 36, 43
_SHAPE_ELEMENT_TYPE, _SHAPE_TUPLE = 2, 4
_METADATA_OP_NAME = 2

_CUBLAS = "__cublas$"
_TUPLE = 13
_ELEMENT_TYPES = {
    1: "bool", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "uint8", 7: "uint16",
    8: "uint32", 9: "uint64", 10: "float16", 11: "float32", 12: "float64", 14: "opaque",
    15: "complex64", 16: "bfloat16", 17: "token", 18: "complex128", 19: "float8_e5m2",
    20: "float8_e4m3fn", 21: "int4", 22: "uint4", 23: "float8_e4m3b11fnuz",
    24: "float8_e5m2fnuz", 25: "float8_e4m3fnuz", 26: "int2", 27: "uint2", 28: "float8_e4m3",
    29: "float8_e3m4", 30: "int1", 31: "uint1", 32: "float4_e2m1fn", 33: "float8_e8m0fnu",
}  # fmt: skip

_TRUNCATED = "expected a whole protocol buffer message, got a truncated one"

Fields = dict[int, list[Any]]


def walk_hlo(module: Any) -> Iterator[Operation]:
    """Yields every instruction of every computation (fusions' included) of an `HloModule`.

    Raises:
      ValueError: the serialized module does not have the expected layout.
    """
    computations = [
        decode(raw)
        for raw in decode(module.as_serialized_hlo_module_proto()).get(_MODULE_COMPUTATIONS, [])
    ]
    read = {_text(c, _COMPUTATION_NAME): c.get(_COMPUTATION_INSTRUCTIONS, []) for c in computations}
    told = {c.name: len(c.instructions()) for c in module.computations()}
    if {name: len(found) for name, found in read.items()} != told:
        raise ValueError(
            "expected the serialized HLO to hold the computations that the compiled module reports,"
            f" got {len(read)} instead of {len(told)} or other sizes; this version of jaxlib writes"
            " a format that ibert_jax cannot read"
        )
    for name, raw in read.items():
        yield from _walk([decode(item) for item in raw], name)


def _walk(instructions: list[Fields], computation: str) -> Iterator[Operation]:
    shapes = {i[_ID][0]: _types(i[_SHAPE][0]) for i in instructions}
    for fields in instructions:
        opcode = _text(fields, _OPCODE)
        ids = [number for item in fields.get(_OPERAND_IDS, []) for number in _packed(item)]
        yield Operation(
            HLO,
            opcode,
            tuple(kind for number in ids for kind in shapes[number]),
            shapes[fields[_ID][0]],
            lambda f=fields: _where(f, computation),
            opaque=_opaque(opcode, fields),
        )


def _opaque(opcode: str, fields: Fields) -> str | None:
    if opcode == "custom-call":
        target, config = _text(fields, _CUSTOM_CALL_TARGET), _text(fields, _BACKEND_CONFIG)
        if target == packed.TARGET and packed.more_than_a_product(config):
            return f"{target} of another kind"
        if not target.startswith(_CUBLAS):
            return target
        gemm = _config(fields).get("gemm_backend_config")
        if not isinstance(gemm, dict):
            return f"{target} that does not say how it scales"
        return f"{target} with scaling" if _scales(gemm) else target
    if opcode == "fusion" and _text(fields, _FUSION_KIND) == "kCustom":
        config = _config(fields)
        inner = config.get("fusion_config") or config.get("fusion_backend_config") or {}
        return inner.get("kind") or "unnamed custom fusion"
    return None


def _scales(gemm: dict[str, Any]) -> bool:
    """True if a cuBLAS product also multiplies by a number or applies a function."""
    plain = (gemm.get("alpha_real", 1), gemm.get("alpha_imag", 0)) == (1, 0)
    return not (plain and gemm.get("beta", 0) in (0, 1) and gemm.get("epilogue", "DEFAULT") in
                ("DEFAULT", "BIAS"))  # fmt: skip


def _config(fields: Fields) -> dict[str, Any]:
    try:
        config = json.loads(_text(fields, _BACKEND_CONFIG))
    except ValueError:
        return {}
    return config if isinstance(config, dict) else {}


@lru_cache(maxsize=1024)
def _types(shape: bytes) -> tuple[str, ...]:
    """The element types of a serialized shape; of a tuple, those of all its parts."""
    return tuple(_shape_types(decode(shape)))


def _shape_types(shape: Fields) -> Iterator[str]:
    kind = shape.get(_SHAPE_ELEMENT_TYPE, [0])[0]
    if kind == _TUPLE:
        for part in shape.get(_SHAPE_TUPLE, []):
            yield from _shape_types(decode(part))
    else:
        yield _ELEMENT_TYPES.get(kind, f"element type number {kind}")


def _where(fields: Fields, computation: str) -> str:
    metadata = decode(fields[_METADATA][0]) if _METADATA in fields else {}
    origin = _text(metadata, _METADATA_OP_NAME)
    place = f"%{_text(fields, _NAME)} in %{computation}"
    return f"{place} ({origin})" if origin else place


def _text(fields: Fields, number: int) -> str:
    return bytes(fields.get(number, [b""])[-1]).decode("utf-8", "replace")


def _packed(item: int | bytes) -> list[int]:
    """A repeated integer field: one number, or many packed into bytes."""
    if isinstance(item, int):
        return [item]
    numbers, at = [], 0
    while at < len(item):
        number, at = _varint(item, at)
        numbers.append(number)
    return numbers


def decode(message: bytes) -> Fields:
    """Splits a serialized protocol buffer message into its fields: number -> values in order.

    Varints come as int, everything else as bytes.
    """
    fields: Fields = {}
    at = 0
    end = len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(message, at)
        elif wire in (1, 2, 5):
            size = 8 if wire == 1 else 4
            if wire == 2:
                size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
        else:
            raise ValueError(f"expected a protocol buffer message, got wire type {wire}")
        if number in fields:
            fields[number].append(value)
        else:
            fields[number] = [value]
    if at > end:
        raise ValueError(_TRUNCATED)
    return fields


def _varint(message: bytes, at: int) -> tuple[int, int]:
    try:
        value = message[at]
        if value < 0x80:  # nearly all are this short
            return value, at + 1
        value, shift = value & 0x7F, 7
        while True:
            at += 1
            byte = message[at]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at + 1
            shift += 7
    except IndexError:
        raise ValueError(_TRUNCATED) from None
