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
an H200 (an H100 has the same instructions; it was never run on one). Others go on with
``pallas_linear``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu

from ibert_jax.integer.pallas_constants import pack_constants
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
        epilogue, constants, by_row: as of ``fused_linear``.
        multiprocessors: among which the tiles are shared out, an even number.
        interpret: parameters of Mosaic's interpreter, which runs anywhere; None, the GPU runs it.

    Returns:
        int8 [M, N].
    """
    (m, depth), n = q.shape, weight.shape[0]
    steps, across, clusters = depth // SLICE, n // TILE // CLUSTER, multiprocessors // CLUSTER
    packed = pack_constants(constants)
    starts = packed.starts

    def entry(x: Any, w: Any, numbers: Any, out: Any) -> None:
        group, cluster = lax.axis_index("group"), lax.axis_index("position")
        rank = lax.axis_index("cluster")
        total = m // TILE * across
        mine = lax.div(total - cluster + (clusters - 1), jnp.int32(clusters))

        def place(turn: Any) -> tuple[Any, Any]:
            tile = cluster + turn * clusters
            column = lax.rem(tile, jnp.int32(across)) * CLUSTER + rank
            return lax.div(tile, jnp.int32(across)) * TILE, column * TILE

        # Slices have numbers in the order that they are fed and read in, tile after tile. Each
        # group has signals of its own for every slot, so that whoever waits sees all of them.
        def slot_of(number: Any) -> Any:
            return lax.rem(number, jnp.int32(SLOTS))

        def signal_of(number: Any) -> Any:
            reader = lax.rem(lax.div(number, jnp.int32(steps)), jnp.int32(COMPUTING))
            return reader * SLOTS + slot_of(number)

        def feed(xs: Any, ws: Any, full: Any, empty: Any) -> None:
            plgpu.set_max_registers(FEEDING_REGISTERS, action="decrease")

            @pl.loop(0, mine)
            def _(turn: Any) -> None:
                row, column = place(turn)

                @pl.loop(0, steps)
                def _(step: Any) -> None:
                    number = turn * steps + step
                    slot, along = slot_of(number), pl.ds(step * SLICE, SLICE)

                    @pl.when(number >= SLOTS)
                    def _() -> None:
                        plgpu.barrier_wait(empty.at[signal_of(number - SLOTS)])

                    plgpu.copy_gmem_to_smem(
                        x.at[pl.ds(row, TILE), along],
                        xs.at[slot],
                        full.at[signal_of(number)],
                        collective_axes="cluster",
                    )
                    plgpu.copy_gmem_to_smem(
                        w.at[pl.ds(column, TILE), along], ws.at[slot], full.at[signal_of(number)]
                    )

            # The neighbour says here, too, what it has read: nobody may leave before.
            fed = mine * steps
            last = jnp.minimum(fed, SLOTS)

            @pl.loop(0, last)
            def _(index: Any) -> None:
                plgpu.barrier_wait(empty.at[signal_of(fed - last + index)])

        def compute(
            xs: Any, ws: Any, held: Any, results: Any, full: Any, empty: Any, there: Any
        ) -> None:
            plgpu.set_max_registers(COMPUTING_REGISTERS, action="increase")

            @pl.loop(0, lax.div(mine - group + (COMPUTING - 1), jnp.int32(COMPUTING)))
            def _(round_: Any) -> None:
                turn = COMPUTING * round_ + group
                row, column = place(turn)
                # Those of the tile before have been read: its results are computed.
                for index, start in enumerate(starts):
                    plgpu.copy_gmem_to_smem(
                        numbers.at[pl.ds(start + (row if by_row else column), TILE)],
                        held.at[group, index],
                        there.at[group],
                    )

                def multiply(accumulators: Any) -> jax.Array:
                    @pl.loop(0, steps)
                    def _(step: Any) -> None:
                        number = turn * steps + step
                        slot = slot_of(number)
                        plgpu.barrier_wait(full.at[signal_of(number)])
                        plgpu.wgmma(accumulators, xs.at[slot], ws.at[slot].transpose((1, 0)))
                        plgpu.wgmma_wait(1)

                        @pl.when(step > 0)
                        def _() -> None:
                            plgpu.barrier_arrive(empty.at[signal_of(number - 1)])

                    plgpu.wgmma_wait(0)
                    plgpu.barrier_arrive(empty.at[signal_of(turn * steps + (steps - 1))])
                    return accumulators[...]

                found = pl.run_scoped(multiply, plgpu.ACC((TILE, TILE), jnp.int32))
                plgpu.barrier_wait(there.at[group])
                for start in range(0, TILE, CHUNK):
                    own = _Numbers(
                        numbers,
                        held.at[group],
                        starts,
                        None if by_row else start,
                        interpret is not None,
                    )
                    finished = epilogue(
                        lax.slice(found, (0, start), (TILE, start + CHUNK)),
                        packed.unpack(own, 0, TILE),
                    )
                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                    results[group] = finished
                    plgpu.commit_smem()
                    plgpu.copy_smem_to_gmem(
                        results.at[group], out.at[pl.ds(row, TILE), pl.ds(column + start, CHUNK)]
                    )

            plgpu.wait_smem_to_gmem(0)

        def scoped(
            xs: Any, ws: Any, held: Any, results: Any, full: Any, empty: Any, there: Any
        ) -> None:
            pl.when(group == COMPUTING)(lambda: feed(xs, ws, full, empty))
            pl.when(group < COMPUTING)(lambda: compute(xs, ws, held, results, full, empty, there))

        signals = COMPUTING * SLOTS
        pl.run_scoped(
            scoped,
            _memory((SLOTS, TILE, SLICE)),
            _memory((SLOTS, TILE, SLICE)),
            plgpu.SMEM((COMPUTING, max(len(starts), 1), TILE), jnp.int32),
            _memory((COMPUTING, TILE, CHUNK)),
            plgpu.Barrier(num_arrivals=2, num_barriers=signals),
            plgpu.ClusterBarrier(
                collective_axes=("cluster",), num_arrivals=1, num_barriers=signals
            ),
            plgpu.Barrier(num_arrivals=max(len(starts), 1), num_barriers=COMPUTING),
            collective_axes="group",
        )

    options = {} if interpret is None else {"interpret": interpret}
    kernel = plgpu.kernel(
        entry,
        out_type=jax.ShapeDtypeStruct((m, n), jnp.int8),
        grid=(clusters,),
        grid_names=("position",),
        cluster=(CLUSTER,),
        cluster_names=("cluster",),
        num_threads=COMPUTING + 1,
        thread_name="group",
        **options,
    )
    return kernel(q, weight, packed.table)


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
