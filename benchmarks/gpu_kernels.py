"""What does each fused kernel take by itself on an NVIDIA GPU, and what would its other forms?

    PYTHONPATH=. python benchmarks/gpu_kernels.py [--record FILE.json]
    JAX_PLATFORMS=cpu PYTHONPATH=. python benchmarks/gpu_kernels.py --small     # tries it out

Of RoBERTa-base at 128 x 128 tokens: products with what follows them, by Triton and (on an H100 or
H200) by Hopper's own instructions; residual sum, LayerNorm and copy with more and fewer rows and
warps a program; attention cut otherwise. Printed are microseconds, launching included, and whether
all forms of a kernel made the same integers. Each is a process of its own, for a kernel that waits
for what never comes stops a GPU's process for good; rounds go from one to the next.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gemm import constants, draw, epilogue, folded, products, rescaled
from machine import device_name, versions
from workers import Worker

from ibert_jax.files import write_whole
from ibert_jax.frozen.folding import fold_wide
from ibert_jax.integer.dyadic import Multiplier
from ibert_jax.integer.pallas_attention import AttentionTiles
from ibert_jax.integer.pallas_constants import place

PATIENCE = 60
"""Seconds after which one that does not answer is given up."""
INPUTS = 6
"""So many operands in turns, or the GPU would find one in its cache."""
TRITON, MOSAIC = "triton", "mosaic"


class Size(NamedTuple):
    batch: int
    length: int
    hidden: int
    inner: int
    heads: int


BASE, SMALL = Size(128, 128, 768, 3072, 12), Size(2, 32, 64, 128, 2)


def form(*names: str) -> str:
    return ", ".join(names)


FEED_FORWARD, QUERY_KEY = "feed-forward in", "query and key"
NORM, ATTENTION = "residual sum, LayerNorm, copy", "attention"
ROWS = {
    form(NORM, f"{rows} rows, {warps} warps"): {"rows": rows, "warps": warps}
    for rows, warps in ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 2), (4, 4))
}
TILES = {
    form(ATTENTION, f"{t.queries} queries, {t.keys} keys, {t.warps} warps"): t
    for t in (
        AttentionTiles(),
        AttentionTiles(keys=64),
        AttentionTiles(queries=16, warps=1),
        AttentionTiles(queries=64, warps=4),
    )
}
BACKENDS = {
    form(name, backend): (name, backend)
    for name in (FEED_FORWARD, QUERY_KEY)
    for backend in (TRITON, MOSAIC)
}
FORMS = [*BACKENDS, *ROWS, *TILES]


# ------------------------------------------------------------------------------------- kernels


def made(name: str, size: Size, interpret: bool) -> tuple[Callable[..., Any], list[Any], Any]:
    """A kernel, its operands in turns, and what all of its calls share."""
    if name in BACKENDS:
        return product(*BACKENDS[name], size, interpret)
    if name in ROWS:
        return normalization(ROWS[name], size, interpret)
    return attention(TILES[name], size, interpret)


def placed(constants: Any) -> Any:
    """Constants that a kernel need not put together at every call, as in a network."""
    leaves, structure = jax.tree.flatten(constants)
    return jax.tree.unflatten(structure, place(leaves, "kernel"))


def product(name: str, backend: str, size: Size, interpret: bool) -> Any:
    from ibert_jax.integer.pallas_linear import fused_linear

    of = "query, key, value" if name == QUERY_KEY else name
    rows, depth, columns, follows = products(size.batch, size.length, size.hidden, size.inner)[of]
    columns = 2 * columns if name == QUERY_KEY else columns
    rng = np.random.default_rng(0)
    operands = [(draw(rng, rows, depth),) for _ in range(INPUTS)]
    weight = draw(rng, columns, depth)
    bias = jnp.asarray(rng.integers(-(2**20), 2**20, columns), jnp.int32)
    values = placed(folded(constants(rng, columns, follows), bias))

    def run(q: jax.Array, weight: jax.Array, values: Any) -> jax.Array:
        if backend == TRITON:
            return fused_linear(q, weight, None, epilogue, values, interpret=interpret)
        from ibert_jax.integer.pallas_hopper import hopper_linear

        return hopper_linear(q, weight, rescaled, values)

    return run, operands, (weight, values)


def normalization(shares: dict[str, int], size: Size, interpret: bool) -> Any:
    from ibert_jax.integer.pallas_layernorm import fused_normalize

    rng, shape = np.random.default_rng(0), (size.batch * size.length, size.hidden)
    limit = 2**20

    def numbers() -> jax.Array:
        return jnp.asarray(rng.integers(-limit, limit, shape, np.int32))

    operands = [(numbers(), numbers()) for _ in range(INPUTS // 2)]
    sums = tuple(fold_wide(each, limit) for each in constants(rng, size.hidden, "residual"))
    copy = folded(constants(rng, size.hidden, "requantize"), jnp.zeros(size.hidden, jnp.int32))
    shared = placed((jnp.int32(0), jnp.int32(-30), sums, copy))

    def before(x: jax.Array, residual: jax.Array, sums: Any) -> jax.Array:
        return epilogue(x, sums, residual)

    def run(x: jax.Array, residual: jax.Array, *shared: Any) -> tuple[jax.Array, ...]:
        *eps, sums, copy = shared
        return fused_normalize(
            (x, residual),
            *eps,
            before=before,
            constants=sums,
            after=lambda x, copy: (x, epilogue(x, copy)),
            after_constants=copy,
            **shares,
            interpret=interpret,
        )

    return run, operands, shared


def attention(tiles: AttentionTiles, size: Size, interpret: bool) -> Any:
    from ibert_jax.integer.pallas_attention import fused_attention

    rng, tokens = np.random.default_rng(0), (size.batch, size.length)
    operands = [
        (draw(rng, *tokens, 2 * size.hidden), draw(rng, size.hidden, *tokens))
        for _ in range(INPUTS)
    ]
    # Scores of random rows, within some ten thousands, spread over the exponential's range.
    scale = Multiplier(*(jnp.int32(n) for n in (23_000, 1 << 3, 4)))
    values = folded(constants(rng, size.hidden, "requantize"), jnp.zeros(size.hidden, jnp.int32))
    scale, values = placed((scale, values))
    mask = jnp.ones(tokens, jnp.bool_)

    def run(query_key: Any, value: Any, mask: Any, scale: Any, values: Any) -> jax.Array:
        return fused_attention(
            *(query_key, query_key, value, mask, scale, epilogue, values),
            heads=size.heads,
            slices=(0, 1),
            of=2,
            tiles=tiles,
            interpret=interpret,
        )

    return run, operands, (mask, scale, values)


# ----------------------------------------------------------------------------------- measuring


def worker(name: str, small: bool) -> None:
    """Compiles a kernel and says what it makes; then answers each line with microseconds."""
    one, operands, shared = made(name, SMALL if small else BASE, small)

    def several(operands: list[Any], shared: Any) -> list[Any]:
        return [one(*own, *shared) for own in operands]

    run, digest = jax.jit(several), hashlib.sha256()
    for result in jax.tree.leaves(run(operands, shared)):
        digest.update(np.asarray(result).tobytes())
    print(json.dumps({"sha256": digest.hexdigest()}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        for _ in range(INPUTS):
            result = run(operands, shared)
        jax.block_until_ready(result)
        seconds = (time.perf_counter() - started) / INPUTS / len(operands)
        print(json.dumps({"us": seconds * 1e6}), flush=True)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Microseconds of each form, medians over the rounds, and a hash of its integers."""
    words = ["--small"] if options.small else []
    running = {name: Worker(__file__, "--form", name, *words) for name in options.only}
    found: dict[str, Any] = {name: {"rounds": []} for name in running}
    for turn in range(1 + options.rounds):
        for name, started in list(running.items()):
            try:
                if turn == 0:
                    found[name].update(started.ask(patience=PATIENCE))
                    started.ask("once", PATIENCE)
                else:
                    found[name]["rounds"].append(started.ask("again", PATIENCE)["us"])
            except RuntimeError as error:
                found[name] = {"failed": str(error)}
                running.pop(name).close()
    for name, started in running.items():
        started.close()
        found[name]["us"] = statistics.median(found[name]["rounds"])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--small", action="store_true", help="tiny and interpreted")
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.form:
        worker(options.form, options.small)
        return 0
    if options.small:
        options.only = [name for name in options.only if not name.endswith(MOSAIC)]
    found = measure(options)
    for name, one in found.items():
        print(f"{name:48} {one.get('failed') or format(one['us'], '9.1f')}")
    if options.record:
        results = {"device": device_name(), "versions": versions(["jax"]), "kernels": found}
        write_whole(options.record, json.dumps(results, indent=1) + "\n")
    differ = []
    for kernel in (FEED_FORWARD, QUERY_KEY, NORM, ATTENTION):
        hashes = {one.get("sha256") for name, one in found.items() if name.startswith(kernel)}
        if len(hashes - {None}) > 1:
            differ.append(kernel)
    print("other integers by another form:", ", ".join(differ) or "none")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
