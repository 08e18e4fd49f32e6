"""Would the products be faster by Pallas' Mosaic backend, which knows Hopper's own instructions?

    PYTHONPATH=. python benchmarks/hopper_product.py [--record FILE.json]     # on an H100 or H200
    PYTHONPATH=. python benchmarks/hopper_product.py --small    # interpreted, anywhere, exactness

Needs JAX 0.11.

The kernel: on every multiprocessor groups of warps that compute (*consumers*) have tiles of 128 x
128 results of their own, in turns, and one group feeds them through the copy engine, three slices
of 128 along K ahead for each. While one tile is multiplied, the one before goes through its
epilogue, the package's own functions on int32 arrays. Against the fused kernel of Triton's backend,
RoBERTa-base's products of 128 x 128 tokens: every integer, and the time. Each form runs in a
process of its own, for a kernel that waits for what never comes stops a GPU's process for good.

Forms: consumers of a tile, and multiprocessors that share rows of ``q`` (a cluster). One and one
was run on an H200 (exact; benchmarks/README); of the others only their interpretation is known.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gemm import constants, draw, epilogue, folded, products
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from machine import device_name, versions

from ibert_jax.files import write_whole
from ibert_jax.integer.pallas_constants import pack_constants

GROUP = 128
"""Threads of a group of warps."""
REGISTERS = 65536
TILE = SLICE = 128
STAGES = 3
QUEUES = 2
"""Tiles in work on a multiprocessor."""
CHUNK = 64
"""Columns that go through the epilogue at once."""
PATIENCE = 40
"""Seconds until a form is given up."""


class Form(NamedTuple):
    consumers: int = 1
    cluster: int = 1


FORMS = (Form(1, 1), Form(2, 1), Form(1, 2), Form(2, 2))


def registers(consumers: int) -> tuple[int, int]:
    """Of a thread that feeds, and of one that computes.

    They divide what the launch took, the same for every thread; who asks for more waits for ever.
    """
    groups = QUEUES * consumers + 1
    launch = REGISTERS // (GROUP * groups) // 8 * 8
    feeding = 40 if consumers == 1 else 24
    return feeding, (launch * groups - feeding) // (groups - 1) // 8 * 8


def hopper_linear(
    q: jax.Array,
    weight: jax.Array,
    epilogue: Callable[..., jax.Array],
    values: Any,
    form: Form,
    multiprocessors: int = 132,
    interpret: Any = None,
) -> jax.Array:
    """``pallas_linear.fused_linear`` without a bias, int8 [M, K] and [N, K] into int8.

    Raises:
        ValueError: sizes that are no multiples of 128, or columns not even for a cluster.
    """
    (m, depth), n = q.shape, weight.shape[0]
    if m % TILE or n % (TILE * form.cluster) or depth % SLICE:
        raise ValueError(f"expected multiples of 128, got {m} x {depth} x {n} for {form}")
    vectors, scalars, unpack = pack_constants(values, n)
    steps, across = depth // SLICE, n // TILE // form.cluster
    total, clusters = m // TILE * across, multiprocessors // form.cluster
    computing, rows, pieces = QUEUES * form.consumers, TILE // form.consumers, TILE // CHUNK
    feeding_registers, computing_registers = registers(form.consumers)
    shared = {"collective_axes": "cluster"} if form.cluster > 1 else {}

    def entry(x: Any, w: Any, vector: Any, scalar: Any, out: Any) -> None:
        group, cluster = lax.axis_index("group"), lax.axis_index("position")
        rank = lax.axis_index("cluster") if form.cluster > 1 else jnp.int32(0)
        mine = lax.div(total - cluster + (clusters - 1), jnp.int32(clusters))

        def place(turn: Any) -> tuple[Any, Any]:
            tile = cluster + turn * clusters
            column = lax.rem(tile, jnp.int32(across)) * form.cluster + rank
            return lax.div(tile, jnp.int32(across)) * TILE, column * TILE

        def slot_of(queue: Any, count: Any) -> Any:
            return queue * STAGES + lax.rem(count, jnp.int32(STAGES))

        def feed(xs: Any, ws: Any, full: Any, empty: Any) -> None:
            plgpu.set_max_registers(feeding_registers, action="decrease")

            @pl.loop(0, mine)
            def _(turn: Any) -> None:
                row, column = place(turn)
                queue, round_ = lax.rem(turn, jnp.int32(QUEUES)), lax.div(turn, jnp.int32(QUEUES))

                @pl.loop(0, steps)
                def _(step: Any) -> None:
                    count = round_ * steps + step
                    slot, along = slot_of(queue, count), pl.ds(step * SLICE, SLICE)

                    @pl.when(count >= STAGES)
                    def _() -> None:
                        plgpu.barrier_wait(empty.at[slot])

                    for part in range(form.consumers):
                        plgpu.copy_gmem_to_smem(
                            x.at[pl.ds(row + part * rows, rows), along],
                            xs.at[slot * form.consumers + part],
                            full.at[slot],
                            **shared,
                        )
                    plgpu.copy_gmem_to_smem(
                        w.at[pl.ds(column, TILE), along], ws.at[slot], full.at[slot]
                    )

        def compute(
            xs: Any, ws: Any, constants: Any, results: Any, full: Any, empty: Any, there: Any
        ) -> None:
            plgpu.set_max_registers(computing_registers, action="increase")
            queue = lax.div(group, jnp.int32(form.consumers))
            part = lax.rem(group, jnp.int32(form.consumers))

            @pl.loop(0, lax.div(mine - queue + (QUEUES - 1), jnp.int32(QUEUES)))
            def _(round_: Any) -> None:
                row, column = place(QUEUES * round_ + queue)
                # Of the tile before all is read: its results are computed.
                plgpu.copy_gmem_to_smem(
                    vector.at[:, pl.ds(column, TILE)], constants.at[group], there.at[group]
                )

                def multiply(accumulators: Any) -> jax.Array:
                    @pl.loop(0, steps)
                    def _(step: Any) -> None:
                        count = round_ * steps + step
                        slot = slot_of(queue, count)
                        plgpu.barrier_wait(full.at[slot])
                        plgpu.wgmma(
                            accumulators,
                            xs.at[slot * form.consumers + part],
                            ws.at[slot].transpose((1, 0)),
                        )
                        plgpu.wgmma_wait(1)

                        @pl.when(step > 0)
                        def _() -> None:
                            plgpu.barrier_arrive(empty.at[slot_of(queue, count + (STAGES - 1))])

                    plgpu.wgmma_wait(0)
                    plgpu.barrier_arrive(empty.at[slot_of(queue, round_ * steps + (steps - 1))])
                    return accumulators[...]

                found = pl.run_scoped(multiply, plgpu.ACC((rows, TILE), jnp.int32))
                plgpu.barrier_wait(there.at[group])
                for piece in range(pieces):
                    start = piece * CHUNK
                    own = unpack(
                        _Channels(constants.at[group], start, rows, interpret is not None), scalar
                    )
                    accumulators = lax.slice(found, (0, start), (rows, start + CHUNK))
                    finished = epilogue(accumulators, own)
                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                    results[group] = finished
                    plgpu.commit_smem()
                    plgpu.copy_smem_to_gmem(
                        results.at[group],
                        out.at[pl.ds(row + part * rows, rows), pl.ds(column + start, CHUNK)],
                    )

            plgpu.wait_smem_to_gmem(0)

        def scoped(
            xs: Any, ws: Any, constants: Any, results: Any, full: Any, empty: Any, there: Any
        ) -> None:
            pl.when(group == computing)(lambda: feed(xs, ws, full, empty))
            pl.when(group < computing)(
                lambda: compute(xs, ws, constants, results, full, empty, there)
            )

        released: dict[str, Any] = {"num_arrivals": form.consumers, "num_barriers": QUEUES * STAGES}
        pl.run_scoped(
            scoped,
            _memory((QUEUES * STAGES * form.consumers, rows, SLICE)),
            _memory((QUEUES * STAGES, TILE, SLICE)),
            plgpu.SMEM((computing, *vectors.shape[:1], TILE), jnp.int32),
            _memory((computing, rows, CHUNK)),
            plgpu.Barrier(num_arrivals=form.consumers + 1, num_barriers=QUEUES * STAGES),
            plgpu.ClusterBarrier(collective_axes=("cluster",), **released)
            if form.cluster > 1
            else plgpu.Barrier(**released),
            plgpu.Barrier(num_arrivals=1, num_barriers=computing),
            collective_axes="group",
        )

    options: dict[str, Any] = {}
    if form.cluster > 1:
        options |= {"cluster": (form.cluster,), "cluster_names": ("cluster",)}
    if interpret is not None:
        options["interpret"] = interpret
    kernel = plgpu.kernel(
        entry,
        out_type=jax.ShapeDtypeStruct((m, n), jnp.int8),
        grid=(clusters,),
        grid_names=("position",),
        num_threads=computing + 1,
        thread_name="group",
        **options,
    )
    return kernel(q, weight, vectors, scalars)


def _memory(shape: tuple[int, ...]) -> Any:
    """Shared memory of int8 as wgmma and the copy engine want it laid out."""
    swizzle = shape[-1]
    transforms = plgpu.TilingTransform((8, swizzle)), plgpu.SwizzleTransform(swizzle)
    return plgpu.SMEM(shape, jnp.int8, transforms=transforms)


class _Channels:
    """Constants of some columns, as ``unpack`` reads them: each a row, broadcast to a tile."""

    def __init__(self, vectors: Any, start: Any, rows: int, interpreted: bool) -> None:
        self._vectors, self._along, self._rows = vectors, pl.ds(start, CHUNK), rows
        self._interpreted = interpreted

    def __getitem__(self, at: tuple[int, Any]) -> jax.Array:
        if self._interpreted:  # which knows no layouts of registers
            row = self._vectors[at[0], self._along]
        else:
            row = plgpu.load(
                self._vectors,
                (at[0], self._along),
                layout=plgpu.Layout.WGMMA.reduce(0),
                optimized=False,
            )
        return lax.broadcast_in_dim(row, (self._rows, CHUNK), (1,))


# ------------------------------------------------------------------------------------ measuring


def interpreted() -> int:
    """Every form against the plain product, on a small one."""
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

    rng, (m, k, n) = np.random.default_rng(0), (256, 256, 256)
    q, weight = draw(rng, m, k), draw(rng, n, k)
    bias = jnp.asarray(rng.integers(-(2**20), 2**20, n), jnp.int32)
    values, wrong = constants(rng, n, "gelu"), 0
    product = np.asarray(q, np.int64) @ np.asarray(weight, np.int64).T
    plain = epilogue(jnp.asarray(product, jnp.int32) + bias[None], values)
    for form in FORMS:
        found = hopper_linear(
            q, weight, epilogue, folded(values, bias), form, 4, interpret=InterpretGPUParams()
        )
        differing = int((found != plain).sum())
        wrong += differing
        print(f"{form}: {differing} of {plain.size} integers differ", flush=True)
    return 1 if wrong else 0


def measure(form: Form | None, rounds: int) -> dict[str, Any]:
    """Of each product by a form, or by the fused kernel: microseconds, a hash of the integers."""
    from ibert_jax.integer.pallas_linear import fused_linear

    found = {}
    shapes = products(128, 128, 768, 3072)
    shapes["query, key, value"] = shapes["query, key, value"]._replace(columns=2304)
    for name, (rows, depth, columns, follows) in shapes.items():
        if follows == "residual":
            continue
        rng = np.random.default_rng(0)
        inputs = [draw(rng, rows, depth) for _ in range(6)]
        weight = draw(rng, columns, depth)
        bias = jnp.asarray(rng.integers(-(2**20), 2**20, columns), jnp.int32)
        values = folded(constants(rng, columns, follows), bias)

        def one(q: Any, w: Any, values: Any) -> jax.Array:
            if form is None:
                return fused_linear(q, w, None, epilogue, values)
            return hopper_linear(q, w, epilogue, values, form)

        run = jax.jit(lambda inputs, *rest, one=one: [one(q, *rest) for q in inputs])
        arguments = (inputs, weight, values)
        digest = hashlib.sha256()
        for result in run(*arguments):
            digest.update(np.asarray(result).tobytes())
        taken = []
        for _ in range(rounds):
            started = time.perf_counter()
            for _ in range(6):
                result = run(*arguments)
            jax.block_until_ready(result)
            taken.append((time.perf_counter() - started) / 6 / len(inputs))
        found[name] = {"us": statistics.median(taken) * 1e6, "sha256": digest.hexdigest()}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="interpreted, without a GPU")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--form", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.small:
        return interpreted()
    if options.form:
        form = None if options.form == "triton" else Form(*map(int, options.form.split("x")))
        print(json.dumps(measure(form, options.rounds)))
        return 0
    results: dict[str, Any] = {"device": device_name(), "versions": versions(["jax"]), "forms": {}}
    for form in ("triton", *("x".join(map(str, form)) for form in FORMS)):
        command = [sys.executable, __file__, "--form", form, "--rounds", str(options.rounds)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
            results["forms"][form] = json.loads(done.stdout.splitlines()[-1])
        except subprocess.TimeoutExpired:
            results["forms"][form] = {"failed": f"no answer in {PATIENCE} s"}
        except (IndexError, json.JSONDecodeError):
            results["forms"][form] = {"failed": (done.stderr.strip().splitlines() or ["?"])[-1]}
        print(form, results["forms"][form], flush=True)
        if options.record:
            write_whole(options.record, json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
