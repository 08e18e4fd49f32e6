"""Constants of a kernel: many small arrays as two, each passed and sliced once.

Layers of a stack are run by a scan, which cuts every array that a kernel takes out of the stack
by a copy of its own: fifty a layer for as many constants. Stacked first, they are cut and put
together by one small fusion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

SUMMED = 32
"""The least length of an axis that a matrix product sums over: an instruction takes 32 bytes."""


def pack_constants(constants: Any, columns: int) -> tuple[jax.Array, jax.Array, Callable[..., Any]]:
    """Int32 arrays of a pytree, scalars or [columns], as rows [R, columns] and scalars [S].

    Returns:
        Both arrays, each with at least one row, and a function that gives the pytree back from
        two Pallas references, to (part of) the rows and to the scalars, and which columns.
    """
    leaves, structure = jax.tree.flatten(constants)
    alone = [leaf.ndim == 0 for leaf in leaves]
    rows = [leaf for leaf, scalar in zip(leaves, alone, strict=True) if not scalar]
    scalars = [leaf for leaf, scalar in zip(leaves, alone, strict=True) if scalar]

    def unpack(row_reference: Any, scalar_reference: Any, along: Any = slice(None)) -> Any:
        row, scalar, values = 0, 0, []
        for is_scalar in alone:
            if is_scalar:
                values.append(scalar_reference[scalar])
                scalar += 1
            else:
                values.append(row_reference[row, along])
                row += 1
        return jax.tree.unflatten(structure, values)

    stacked = jnp.stack(rows) if rows else jnp.zeros((1, columns), jnp.int32)
    return stacked, jnp.stack(scalars) if scalars else jnp.zeros((1,), jnp.int32), unpack


def type_of(
    epilogue: Callable[..., jax.Array], shape: tuple[int, int], constants: Any
) -> jnp.dtype:
    """The element type that an epilogue makes of int32 tiles of a shape."""

    def part(x: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape and shape[1:], x.dtype)

    accumulators = jax.ShapeDtypeStruct(shape, jnp.int32)
    return jax.eval_shape(epilogue, accumulators, jax.tree.map(part, constants)).dtype


def pad_to(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """``x`` with zeros at the end of each axis, up to ``shape``."""
    room = [(0, size - old) for size, old in zip(shape, x.shape, strict=True)]
    return jnp.pad(x, room) if any(end for _, end in room) else x


def power_of_two(size: int, least: int = 16) -> int:
    """The least power of two from ``least`` on that holds ``size``."""
    return max(least, 1 << (size - 1).bit_length())
