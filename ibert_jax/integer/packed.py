"""Products with matrices that are laid out beforehand for oneDNN, a library in XLA's CPU backend.

A product of few rows spends more on arranging its weights than on multiplying: whoever computes it
interleaves four of their columns first, as the VNNI instructions read them, and does so at every
call. XLA's own library (YNNPACK) takes no weights that are interleaved already; oneDNN does, in a
format that its documentation calls ``BA16a64b4a``. XLA carries oneDNN for the custom call
``__onednn$matmul``, which takes uint8 by int8 and leaves the int32 accumulators.

Nothing of that is promised to anyone, so nothing is taken for granted:

* For every shape oneDNN is asked first, and its answer held against the exact product
  (``answers``). One that takes another format, lacks the instructions, or is not there is left
  alone.
* A compiled program with that custom call cannot be written to JAX's compilation cache: XLA 2026
  takes the call for one of another class and reads what is not there. The call is therefore made
  only in programs that this package compiles itself, and those are kept out of the cache.

Everywhere else, under other platforms, transformations, several devices and in exports,
``dot_u8_packed`` is the plain product with the matrix it stands for. The integers are the same.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Sequence
from typing import Any, Self

import jax
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo as hlo
from jax.interpreters import batching, mlir

from ibert_jax.integer.compiled import in_own_program, keep_out_of_cache, own_program
from ibert_jax.integer.mixed import dot_u8_s8, vectorized

TARGET = "__onednn$matmul"
CONFIG = {
    "onednn_matmul_config": {
        "transpose_b": True,
        "optimization_config": {"weights_prepacked": True},
    }
}
"""A product and nothing more: no bias, no function after it, no scale."""
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables by which oneDNN is held to fewer instructions than the processor has."""
BLOCK = 64
"""Rows of a block, and what rows and columns must be multiples of."""
INTERLEAVED = 4
"""Columns that lie side by side: what one lane of a VNNI instruction multiplies and adds."""
_FEW = 7
"""Different rows that oneDNN is asked with: no multiple of those that its kernels take at once."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """A matrix int8 [N, K] in blocks of 64 rows, four columns at a time.

    Attributes:
        blocks: int8 [N / 64, K / 4, 64, 4]; element [b, c, r, i] is [64 b + r, 4 c + i] of the
            matrix.
    """

    blocks: Any

    @classmethod
    def of(cls, matrix: Any) -> Self:
        """A known int8 matrix [N, K] that ``fits``, laid out: an array of NumPy's."""
        matrix = np.asarray(matrix)
        blocks = matrix.reshape(-1, BLOCK, matrix.shape[1] // INTERLEAVED, INTERLEAVED)
        return cls(np.ascontiguousarray(blocks.transpose(0, 2, 1, 3)))

    @staticmethod
    def fits(shape: Sequence[int]) -> bool:
        """Whether a matrix of this shape can be laid out so."""
        return len(shape) == 2 and all(n > 0 and n % BLOCK == 0 for n in shape)

    @property
    def shape(self) -> tuple[int, int]:
        """[N, K] of the matrix."""
        blocks, columns, rows, interleaved = self.blocks.shape
        return blocks * rows, columns * interleaved

    def matrix(self) -> Any:
        """The matrix again, int8 [N, K]."""
        return self.blocks.transpose(0, 2, 1, 3).reshape(self.shape)


def dot_u8_packed(a: jax.Array, packed: Packed) -> jax.Array:
    """a @ matrix.T: uint8 [..., K] by int8 [N, K] -> int32 [..., N], exact for K up to 65,793."""
    return _dot_u8_packed.bind(a, packed.blocks, ask=True)


@functools.cache
def answers(rows: int, shape: tuple[int, int]) -> bool:
    """Whether oneDNN, here and for a matrix of this shape, gives the exact product.

    Operands are random and reach the ends of their types, at which instructions that add in 16 bits
    would saturate. A few different rows, in turn, stand for as many as there are.

    Without VNNI, or where it may have been told not to use it, it is not even asked: its products
    for other processors are parallel loops within parallel loops, which XLA runs one after the
    other, so that they wait for ever now and then (3 of 12 processes held to AVX2).
    """
    if not vectorized() or any(name in os.environ for name in LIMITS):
        return False
    draw = np.random.default_rng(rows)
    few = draw.integers(0, 256, (min(rows, _FEW), shape[1]), np.uint8)
    matrix = draw.integers(-128, 128, shape, np.int8)
    few[0], matrix[0], matrix[1] = 255, 127, -128
    exact = np.einsum("rk,nk->rn", few, matrix, dtype=np.int32)
    turns = np.arange(rows) % len(few)
    try:
        with own_program(), jax.disable_jit(False):
            found = _compiled(few[turns], Packed.of(matrix).blocks, ask=False)
        return all((np.asarray(found)[i :: len(few)] == row).all() for i, row in enumerate(exact))
    except jax.errors.JaxRuntimeError:  # no such custom call
        return False


def more_than_a_product(config: str) -> bool:
    """Whether a custom call's configuration, a JSON text, is of another call than ours."""
    try:
        return json.loads(config) != CONFIG
    except ValueError:
        return True


def _plain(a: jax.Array, blocks: jax.Array, *, ask: bool = True) -> jax.Array:
    return dot_u8_s8(a, Packed(blocks).matrix(), (((a.ndim - 1,), (1,)), ((), ())))


def _abstract(a: Any, blocks: Any, *, ask: bool) -> Any:
    if a.dtype != np.uint8 or blocks.dtype != np.int8:
        raise TypeError(
            f"dot_u8_packed takes uint8 and int8 operands, got {a.dtype} and {blocks.dtype}"
        )
    outputs, inputs = Packed(blocks).shape
    if a.shape[-1] != inputs:
        raise TypeError(f"expected rows of {inputs} elements, got {a.shape[-1]}")
    return a.update(shape=(*a.shape[:-1], outputs), dtype=np.dtype(np.int32))


def _lower_on_cpu(ctx: Any, a: Any, blocks: Any, *, ask: bool) -> Any:
    rows, shape = ctx.avals_in[0].shape[:-1], Packed(ctx.avals_in[1]).shape
    known = all(isinstance(n, int) for n in rows)
    count = int(np.prod(rows)) if known else 0
    if ask and not (count and _is_ours(ctx) and answers(count, shape)):
        return _lower_plain(ctx, a, blocks, ask=ask)
    keep_out_of_cache()

    def kind(shape: Sequence[int], dtype: Any) -> Any:
        return mlir.aval_to_ir_type(ctx.module_context, ShapedArray(shape, dtype))

    flat = hlo.reshape(kind((count, shape[1]), np.uint8), a)
    call = hlo.CustomCallOp(
        [kind((count, shape[0]), np.int32)],
        [flat, hlo.reshape(kind(shape, np.int8), blocks)],
        call_target_name=ir.StringAttr.get(TARGET),
        has_side_effect=ir.BoolAttr.get(False),
        backend_config=ir.StringAttr.get(json.dumps(CONFIG)),
        api_version=ir.IntegerAttr.get(ir.IntegerType.get_signless(32), 2),
    )
    return [hlo.reshape(mlir.aval_to_ir_type(ctx.module_context, ctx.avals_out[0]), call.result)]


def _is_ours(ctx: Any) -> bool:
    """Whether what is lowered is a program of this package's own, for one device."""
    devices = getattr(ctx.module_context.axis_context, "num_devices", None)
    return in_own_program() and devices == 1 and jax.process_count() == 1


def _batch(args: Sequence[Any], dims: Sequence[Any], *, ask: bool) -> Any:
    (a, blocks), (row, matrix) = args, dims
    if matrix is None:  # more rows of the same product
        return _dot_u8_packed.bind(jax.numpy.moveaxis(a, row, 0), blocks, ask=ask), 0
    return jax.vmap(_plain, (row, matrix))(a, blocks), 0


def _run(a: jax.Array, blocks: jax.Array, *, ask: bool) -> jax.Array:
    """Eagerly: compiled by itself, also where a debugger has disabled jit."""
    with jax.disable_jit(False):
        return _compiled(a, blocks, ask=ask)


_lower_plain = mlir.lower_fun(_plain, multiple_results=False)
_dot_u8_packed = Primitive("dot_u8_packed")
_compiled = jax.jit(_dot_u8_packed.bind, static_argnames="ask")
_dot_u8_packed.def_abstract_eval(_abstract)
_dot_u8_packed.def_impl(_run)
mlir.register_lowering(_dot_u8_packed, _lower_plain)
mlir.register_lowering(_dot_u8_packed, _lower_on_cpu, platform="cpu")
batching.primitive_batchers[_dot_u8_packed] = _batch
