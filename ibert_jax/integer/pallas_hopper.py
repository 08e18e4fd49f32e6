"""A linear layer and what follows it on an H100 or H200, by instructions that only they have.

``pallas_linear`` by Pallas' other backend, Mosaic GPU. On every multiprocessor two groups of warps
have tiles of 128 x 128 results in turns, and a third feeds them through the copy engine, six slices
of 128 along K ahead, whoever's they are: while one tile is multiplied, the one before goes through
its epilogue, the package's own functions on int32 arrays. Two multiprocessors next to each other (a
*cluster*) share rows of ``q``, which come from the L2 cache once for both. The constants of a tile
wait in shared memory.

Of RoBERTa-base at 128 x 128 tokens on an H200, the feed-forward's first half took 105 us of a
forward pass where ``pallas_linear`` took 122 (benchmarks/README). The integers are the same: sums
of integers do not depend on their order, and the epilogue is the same function.

Mosaic GPU changes from one version of JAX to the next: this is for the one that it was run by, on
an H200 (an H100 has the same instructions; it was never run on one), all but the one instruction
that ends an epilogue (``saturate_pairs``). Others go on with
``pallas_linear``.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.mosaic import gpu as mosaic
from jax.experimental.pallas import mosaic_gpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import llvm, vector

from ibert_jax.integer.dyadic import saturate
from ibert_jax.integer.pallas_constants import Constants, pack_constants
from ibert_jax.integer.pallas_linear import Epilogue

plgpu: Any = mosaic_gpu
"""Of which every version of JAX has other types."""
MULTIPROCESSORS = 132
"""Of an H100 or H200; where there are fewer, the same work waits a little."""
TILE = SLICE = 128
SLOTS = 6
"""Slices in shared memory, 32 KiB each."""
COMPUTING = 2
"""Groups of warps that compute, on a multiprocessor."""
CLUSTER = 2
"""Multiprocessors that share rows."""
CHUNK = 64
"""Columns that go through the epilogue at once."""
FEEDING_REGISTERS, COMPUTING_REGISTERS = 40, 232
"""Of a thread. They divide what the launch took, 168 for every one; who asks for more waits for
ever."""


def fits(rows: int, depth: int, columns: int) -> bool:
    """Whether a product is made of whole tiles, and enough of them."""
    whole = rows % TILE == depth % SLICE == columns % (CLUSTER * TILE) == 0
    return whole and rows // TILE * (columns // TILE) >= COMPUTING * MULTIPROCESSORS


def hopper_linear(
    q: jax.Array,
    weight: jax.Array,
    epilogue: Epilogue,
    constants: Any,
    *,
    by_row: bool = False,
    multiprocessors: int = MULTIPROCESSORS,
    interpret: Any = None,
) -> jax.Array:
    """``pallas_linear.fused_linear`` without a bias, for whole tiles, into int8.

    Args:
        q: int8 [M, K].
        weight: int8 [N, K].
        epilogue, constants, by_row: as of ``fused_linear``, but that what the epilogue makes is
            int32 and saturates at 8 bits then.
        multiprocessors: among which the tiles are shared out, an even number.
        interpret: parameters of Mosaic's interpreter, which runs anywhere; None, the GPU runs it.

    Returns:
        int8 [M, N].
    """
    (m, depth), n = q.shape, weight.shape[0]
    packed = pack_constants(constants)
    work = _Work(
        steps=depth // SLICE,
        down=m // TILE,
        across=n // TILE // CLUSTER,
        clusters=multiprocessors // CLUSTER,
        packed=packed,
        epilogue=epilogue,
        by_row=by_row,
        interpreted=interpret is not None,
    )
    signals, arrays = COMPUTING * SLOTS, max(len(packed.starts), 1)

    def entry(x: Any, w: Any, numbers: Any, out: Any) -> None:
        group = lax.axis_index("group")

        def scoped(shared: _Shared) -> None:
            pl.when(group == COMPUTING)(lambda: _feed(work, x, w, shared))
            pl.when(group < COMPUTING)(lambda: _compute(work, group, numbers, out, shared))

        pl.run_scoped(
            lambda *places: scoped(_Shared(*places)),
            _memory((SLOTS, TILE, SLICE)),
            _memory((SLOTS, TILE, SLICE)),
            plgpu.SMEM((COMPUTING, arrays, TILE), jnp.int32),
            _memory((COMPUTING, TILE, CHUNK)),
            plgpu.Barrier(num_arrivals=2, num_barriers=signals),
            plgpu.ClusterBarrier(
                collective_axes=("cluster",), num_arrivals=1, num_barriers=signals
            ),
            plgpu.Barrier(num_arrivals=arrays, num_barriers=COMPUTING),
            collective_axes="group",
        )

    options = {} if interpret is None else {"interpret": interpret}
    kernel = plgpu.kernel(
        entry,
        out_type=jax.ShapeDtypeStruct((m, n), jnp.int8),
        grid=(work.clusters,),
        grid_names=("position",),
        cluster=(CLUSTER,),
        cluster_names=("cluster",),
        num_threads=COMPUTING + 1,
        thread_name="group",
        **options,
    )
    return kernel(q, weight, packed.table)


class _Shared(NamedTuple):
    """What the groups of a multiprocessor share."""

    xs: Any
    """Slices of q."""
    ws: Any
    """Those of the weights, in the slots of the same numbers."""
    held: Any
    """The constants of each group's tile."""
    results: Any
    """Of each group, on their way out."""
    full: Any
    """Signals that a slot was fed."""
    empty: Any
    """Signals that it was read, by both multiprocessors."""
    there: Any
    """Signals that a group's constants have come."""


@dataclasses.dataclass(frozen=True)
class _Work:
    """What is to be done, and in which order.

    Attributes:
        steps: slices of a tile.
        down, across: tiles of the results; ``across``, of all that share rows in a cluster.
        clusters: how many share the work out.
        packed, epilogue, by_row: see ``hopper_linear``.
        interpreted: whether no GPU runs it.
    """

    steps: int
    down: int
    across: int
    clusters: int
    packed: Constants
    epilogue: Epilogue
    by_row: bool
    interpreted: bool

    def mine(self) -> Any:
        """How many tiles this multiprocessor has."""
        rest = self.down * self.across - lax.axis_index("position")
        return lax.div(rest + (self.clusters - 1), jnp.int32(self.clusters))

    def place(self, turn: Any) -> tuple[Any, Any]:
        """The first row and column of its tile of this number."""
        tile = lax.axis_index("position") + turn * self.clusters
        across = jnp.int32(self.across)
        column = lax.rem(tile, across) * CLUSTER + lax.axis_index("cluster")
        return lax.div(tile, across) * TILE, column * TILE

    def signal_of(self, number: Any) -> Any:
        """The signal about a slice; they have numbers as they are fed and read, tile after tile.

        Each group has signals of its own for every slot, so that whoever waits sees all of them.
        """
        reader = lax.rem(lax.div(number, jnp.int32(self.steps)), jnp.int32(COMPUTING))
        return reader * SLOTS + _slot_of(number)


def _slot_of(number: Any) -> Any:
    return lax.rem(number, jnp.int32(SLOTS))


def _feed(work: _Work, x: Any, w: Any, shared: _Shared) -> None:
    """One group: copies slices into slots that were read."""
    plgpu.set_max_registers(FEEDING_REGISTERS, action="decrease")
    mine, steps, signal_of = work.mine(), work.steps, work.signal_of

    @pl.loop(0, mine)
    def _(turn: Any) -> None:
        row, column = work.place(turn)

        @pl.loop(0, steps)
        def _(step: Any) -> None:
            number = turn * steps + step
            slot, along = _slot_of(number), pl.ds(step * SLICE, SLICE)

            @pl.when(number >= SLOTS)
            def _() -> None:
                plgpu.barrier_wait(shared.empty.at[signal_of(number - SLOTS)])

            fed = shared.full.at[signal_of(number)]
            plgpu.copy_gmem_to_smem(
                x.at[pl.ds(row, TILE), along], shared.xs.at[slot], fed, collective_axes="cluster"
            )
            plgpu.copy_gmem_to_smem(w.at[pl.ds(column, TILE), along], shared.ws.at[slot], fed)

    # The neighbour says here, too, what it has read: nobody may leave before.
    count = mine * steps
    last = jnp.minimum(count, SLOTS)

    @pl.loop(0, last)
    def _(index: Any) -> None:
        plgpu.barrier_wait(shared.empty.at[signal_of(count - last + index)])


def _compute(work: _Work, group: Any, numbers: Any, out: Any, shared: _Shared) -> None:
    """The other groups: each multiplies its tiles and writes what the epilogue makes of them."""
    plgpu.set_max_registers(COMPUTING_REGISTERS, action="increase")

    @pl.loop(0, lax.div(work.mine() - group + (COMPUTING - 1), jnp.int32(COMPUTING)))
    def _(round_: Any) -> None:
        turn = COMPUTING * round_ + group
        row, column = work.place(turn)
        # Those of the tile before have been read: its results are computed.
        for index, start in enumerate(work.packed.starts):
            plgpu.copy_gmem_to_smem(
                numbers.at[pl.ds(start + (row if work.by_row else column), TILE)],
                shared.held.at[group, index],
                shared.there.at[group],
            )
        found = pl.run_scoped(
            lambda accumulators: _multiply(work, turn, accumulators, shared),
            plgpu.ACC((TILE, TILE), jnp.int32),
        )
        plgpu.barrier_wait(shared.there.at[group])
        for start in range(0, TILE, CHUNK):
            own = _Numbers(
                numbers,
                shared.held.at[group],
                work.packed.starts,
                None if work.by_row else start,
                work.interpreted,
            )
            finished = work.epilogue(
                lax.slice(found, (0, start), (TILE, start + CHUNK)),
                work.packed.unpack(own, 0, TILE),
            )
            narrow = saturate(finished, 8) if work.interpreted else _saturated(finished)
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            shared.results[group] = narrow
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(
                shared.results.at[group], out.at[pl.ds(row, TILE), pl.ds(column + start, CHUNK)]
            )

    plgpu.wait_smem_to_gmem(0)


def _multiply(work: _Work, turn: Any, accumulators: Any, shared: _Shared) -> jax.Array:
    """A tile, slice by slice; a slot is given back when the next one is being multiplied."""

    def read(number: Any) -> None:
        plgpu.barrier_arrive(shared.empty.at[work.signal_of(number)])

    @pl.loop(0, work.steps)
    def _(step: Any) -> None:
        number = turn * work.steps + step
        slot = _slot_of(number)
        plgpu.barrier_wait(shared.full.at[work.signal_of(number)])
        plgpu.wgmma(accumulators, shared.xs.at[slot], shared.ws.at[slot].transpose((1, 0)))
        plgpu.wgmma_wait(1)
        pl.when(step > 0)(lambda: read(number - 1))

    plgpu.wgmma_wait(0)
    read(turn * work.steps + (work.steps - 1))
    return accumulators[...]


def _saturated(x: jax.Array) -> jax.Array:
    """``saturate`` at 8 bits, of int32 [R, C] laid out in registers as accumulators are."""
    wgmma = plgpu.Layout.WGMMA
    kind = plgpu.ShapeDtypeStruct(x.shape, jnp.int8, layout=wgmma)
    return plgpu.inline_mgpu(arg_types=(wgmma,), return_type=kind)(saturate_pairs)(x)


def saturate_pairs(_: Any, x: Any) -> Any:
    """One instruction for the two numbers of a register pair; clipped and packed they take five.

    PTX's ``cvt.pack.sat.s8.s32``, of which the second operand becomes the lower byte. The
    interpreter does not come here: whether it is right, ``benchmarks/gpu.py`` shows by its hashes,
    which it has not done since this was written.

    Args:
        x: Mosaic's array of registers, two int32 next to each other in each.
    """
    word, half, byte = (ir.IntegerType.get_signless(bits) for bits in (32, 16, 8))
    pair = ir.VectorType.get((2,), byte)

    def saturated(register: Any) -> Any:
        first, second = (
            vector.extract(register, dynamic_position=[], static_position=[place])
            for place in (0, 1)
        )
        instruction = "cvt.pack.sat.s8.s32.b32 $0, $1, $2, 0;"
        both: Any = llvm.inline_asm(word, [second, first], instruction, "=r,r,r")
        return llvm.bitcast(pair, llvm.trunc(half, both, llvm.IntegerOverflowFlags.none))

    registers = np.empty_like(x.registers)
    for place, register in np.ndenumerate(x.registers):
        registers[place] = saturated(register)
    return mosaic.FragmentedArray(_registers=registers, _layout=x.layout, _is_signed=True)


def _memory(shape: tuple[int, ...]) -> Any:
    """Shared memory of int8 as wgmma and the copy engine want it laid out."""
    swizzle = shape[-1]
    transforms = plgpu.TilingTransform((8, swizzle)), plgpu.SwizzleTransform(swizzle)
    return plgpu.SMEM(shape, jnp.int8, transforms=transforms)


class _Numbers:
    """What ``Constants.unpack`` reads: of each array a tile's part, broadcast to a chunk.

    They belong to the chunk's columns, which begin at ``first``, or, if that is None, to its rows.
    """

    def __init__(
        self, table: Any, held: Any, starts: list[int], first: int | None, interpreted: bool
    ) -> None:
        self._table, self._held, self._starts = table, held, starts
        self._axis = 0 if first is None else 1
        self._along = slice(None) if first is None else pl.ds(first, CHUNK)
        self._interpreted = interpreted

    def __getitem__(self, at: Any) -> jax.Array:
        if isinstance(at, int):
            return self._table[at]
        place = self._starts.index(at.start), self._along
        if self._interpreted:  # which knows no layouts of registers
            part = self._held[place]
        else:
            part = plgpu.load(
                self._held.at[place],
                layout=plgpu.Layout.WGMMA.reduce(1 - self._axis),
                optimized=False,
            )
        return lax.broadcast_in_dim(part, (TILE, CHUNK), (self._axis,))
