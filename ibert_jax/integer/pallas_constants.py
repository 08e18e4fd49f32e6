"""Constants of a kernel: many small arrays as one, each passed and sliced once.

Layers of a stack are run by a scan, which cuts every array that a kernel takes out of the stack
by a copy of its own: fifty a layer for as many constants, or a kernel that puts them together for
each kernel that takes them, 29 us a layer of an H200. *Placed* beforehand in one array for all
kernels of a layer, they are cut out of the stack at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

SUMMED = 32
"""The least length of an axis that a matrix product sums over: an instruction takes 32 bytes."""
ALIGNED = 128
"""Each array begins at a multiple of so many numbers. A tile that reaches beyond an array's end
reads what follows there, for columns that are cut off."""
SPARE = 512
"""Numbers that follow the last array: a head's channels are read up to a power of two."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Placed:
    """An int32 array, scalar or [C], that is part of another one.

    Attributes:
        table: int32 [N].
        start: where it begins.
        shape: its own.
        name: the same for all that are part of the same one.
    """

    table: jax.Array
    start: int = dataclasses.field(metadata={"static": True})
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(metadata={"static": True})

    @property
    def array(self) -> jax.Array:
        size = math.prod(self.shape)
        return self.table[..., self.start : self.start + size].reshape(
            *self.table.shape[:-1], *self.shape
        )


def place(arrays: Sequence[jax.Array], name: str, lead: tuple[int, ...] = ()) -> list[Placed]:
    """Arrays [*lead] or [*lead, C], int32, in one array [*lead, N]."""
    shapes = [array.shape[len(lead) :] for array in arrays]
    sizes = [math.prod(shape) for shape in shapes]
    rooms = [-(-size // ALIGNED) * ALIGNED for size in sizes]
    parts = [
        jnp.pad(array.reshape(*lead, size), [*[(0, 0)] * len(lead), (0, room - size)])
        for array, size, room in zip(arrays, sizes, rooms, strict=True)
    ]
    table = jnp.concatenate([*parts, jnp.zeros((*lead, SPARE), jnp.int32)], axis=-1)
    starts = [sum(rooms[:index]) for index in range(len(rooms))]
    return [Placed(table, start, shape, name) for start, shape in zip(starts, shapes, strict=True)]


@dataclasses.dataclass(frozen=True)
class Constants:
    """A kernel's constants, int32 arrays of a pytree, scalars or [C], as one array.

    Attributes:
        table: int32 [N], an operand of the kernel.
        structure: the pytree's.
        places: where each array begins, and its shape.
    """

    table: jax.Array
    structure: Any
    places: list[tuple[int, tuple[int, ...]]]

    @property
    def starts(self) -> list[int]:
        """Where the arrays [C] begin."""
        return [start for start, shape in self.places if shape]

    def members(self) -> list[Constants]:
        """Of a tuple of pytrees, each of them."""
        found, first = [], 0
        for structure in self.structure.children():
            last = first + structure.num_leaves
            found.append(Constants(self.table, structure, self.places[first:last]))
            first = last
        return found

    def unpack(self, reference: Any, first: Any, size: int) -> Any:
        """The pytree from a reference to the table; of each array [C] a part, from ``first``."""
        values = [
            reference[pl.ds(start + first, size)] if shape else reference[start]
            for start, shape in self.places
        ]
        return jax.tree.unflatten(self.structure, values)


def pack_constants(constants: Any) -> Constants:
    """Int32 arrays of a pytree, scalars or [C]; those placed in one array already stay there."""
    leaves, structure = jax.tree.flatten(constants, is_leaf=_is_placed)
    placed = [leaf for leaf in leaves if isinstance(leaf, Placed)]
    if not leaves or len(placed) < len(leaves) or len({leaf.name for leaf in placed}) > 1:
        arrays = [leaf.array if isinstance(leaf, Placed) else leaf for leaf in leaves]
        placed = place(arrays or [jnp.zeros((), jnp.int32)], "kernel")
    places = [(leaf.start, leaf.shape) for leaf in placed][: len(leaves)]
    # Of one name: one array, though by now it may have been handed on as several.
    return Constants(placed[0].table, structure, places)


def _is_placed(node: Any) -> bool:
    return isinstance(node, Placed)


def type_of(epilogue: Callable[..., Any], shape: tuple[int, ...], constants: Any) -> Any:
    """The element type that an epilogue makes of int32 tiles of a shape, or those, if several."""

    def part(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape and shape[-1:], jnp.int32)

    accumulators = jax.ShapeDtypeStruct(shape, jnp.int32)
    described = jax.tree.map(part, constants, is_leaf=_is_placed)
    made = jax.eval_shape(epilogue, accumulators, described)
    return jax.tree.map(lambda array: array.dtype, made)


def pad_to(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """``x`` with zeros at the end of each axis, up to ``shape``."""
    room = [(0, size - old) for size, old in zip(shape, x.shape, strict=True)]
    return jnp.pad(x, room) if any(end for _, end in room) else x


def power_of_two(size: int, least: int = 16) -> int:
    """The least power of two from ``least`` on that holds ``size``."""
    return max(least, 1 << (size - 1).bit_length())
