"""How fast is each matrix product of an encoder, alone and with what follows it?

    PYTHONPATH=. python benchmarks/gemm.py [--case 128x128] [--record FILE.json] [--tune]

For each product of RoBERTa-base at so many sentences of so many tokens: the int8 product as the
package lowers it here, into int32; the same with its requantization, GELU or residual, compiled by
XLA; on NVIDIA GPUs the fused kernel (``--tune`` tries several ways to cut it); and the product in
float32 and bfloat16. In G operations a second, and as a share of the machine's best: the fastest
int8 product of a large square matrix in the same run. All are compiled first and then take turns,
and medians over the rounds are told. Every one passes over several inputs, so that none waits for
it in a cache.
"""

from __future__ import annotations

import argparse
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
from jax import lax
from machine import device_name, versions

from ibert_jax.files import write_whole
from ibert_jax.frozen.folding import fold
from ibert_jax.frozen.shared_shift import share
from ibert_jax.integer.compiled import jit_program
from ibert_jax.integer.dyadic import Folded, Multiplier, requantize_sum, rescale, saturate
from ibert_jax.integer.gelu import igelu
from ibert_jax.integer.matmul import int8_linear, shift_bias
from ibert_jax.integer.mixed import dot_s8, dot_u8_s8, to_unsigned

GPU = jax.default_backend() == "gpu"
SQUARE = "square"
Turn = Callable[[], float]
"""Measures seconds."""


class Product(NamedTuple):
    """[M, K] by [K, N], with so many bytes a result that the network keeps."""

    rows: int
    depth: int
    columns: int
    follows: str

    @property
    def operations(self) -> int:
        return 2 * self.rows * self.depth * self.columns


def products(batch: int, length: int, hidden: int, inner: int) -> dict[str, Product]:
    tokens = batch * length
    return {
        "query, key, value": Product(tokens, hidden, hidden, "requantize"),
        "attention output": Product(tokens, hidden, hidden, "residual"),
        "feed-forward in": Product(tokens, hidden, inner, "gelu"),
        "feed-forward out": Product(tokens, inner, hidden, "residual"),
    }


# ------------------------------------------------------------------------------- what follows


def constants(rng: np.random.Generator, columns: int, follows: str) -> Any:
    def one(bits: int, shift: int) -> Multiplier:
        m = jnp.asarray(rng.integers(2 ** (bits - 1), 2**bits, columns), jnp.int32)
        half = jnp.full((columns,), 1 << (shift - 1), jnp.int32)
        return Multiplier(m, half, jnp.full((columns,), shift, jnp.int32))

    if follows == "gelu":
        return one(15, 3), jnp.int32(10), one(15, 20)
    return (one(31, 4), one(31, 2)) if follows == "residual" else one(15, 10)


def folded(values: Any, bias: jax.Array) -> Any:
    """The constants of a fused kernel, which adds no bias."""
    if isinstance(values, Multiplier):
        return fold(values, 2**31, bias)
    entry, grid, leave = values
    return fold(entry, 2**31, bias), grid, fold(leave, 2**31)


def shared(values: Any, follows: str) -> Any:
    """The constants of a program on a CPU, whose channels share their shifts."""

    def one(value: Any) -> Any:
        if not isinstance(value, Multiplier):
            return value
        found = share(value, 2**31, wide=follows == "residual", stacked=False)
        assert found is not None
        return jax.tree.map(jnp.asarray, found)

    return jax.tree.map(one, values, is_leaf=lambda node: isinstance(node, Multiplier))


def epilogue(x: jax.Array, values: Any, *residual: jax.Array) -> jax.Array:
    """What the network makes of accumulators: told apart by the constants."""
    if residual:
        return requantize_sum((x, *residual), values, 20, wide=True)
    return saturate(rescaled(x, values), 8)


def rescaled(x: jax.Array, values: Any) -> jax.Array:
    """As ``epilogue``, without a residual, before it saturates at 8 bits."""
    if isinstance(values, Multiplier | Folded):
        return rescale(x, values, wide=False)
    entry, grid, leave = values
    return rescale(igelu(rescale(x, entry, wide=False), grid), leave, wide=False)


# ---------------------------------------------------------------------------------- measuring


def prepared(function: Callable[..., jax.Array], inputs: list[Any], *shared: Any) -> Turn:
    """Compiles; returns what measures the seconds of one call, the mean over several inputs.

    To a GPU they are one program, so that it never waits to be called. A CPU would compute them
    side by side, and answers before it is called again.
    """

    def several(inputs: list[Any], *shared: Any) -> list[jax.Array]:
        # Each whole, before one element of it is kept.
        results = [lax.optimization_barrier(function(*each, *shared)) for each in inputs]
        return [result[(0,) * result.ndim] for result in results]

    run = jit_program(several if GPU else function)
    calls = [(inputs, *shared)] if GPU else [(*each, *shared) for each in inputs]

    def turn() -> float:
        started = time.perf_counter()
        for arguments in calls:
            jax.block_until_ready(run(*arguments))
        return (time.perf_counter() - started) / len(inputs)

    turn()
    return turn


def int8_product(q: jax.Array, weight: jax.Array) -> jax.Array:
    """As ``int8_linear`` has it on this platform, without a bias."""
    dimensions = (((1,), (1,)), ((), ()))
    if jax.default_backend() == "cpu":
        return dot_u8_s8(to_unsigned(q), weight, dimensions)
    return dot_s8(q, weight, dimensions)


def draw(rng: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(rng.integers(-127, 128, shape, np.int8))


def squares(rng: np.random.Generator) -> dict[tuple[str, Any], Turn]:
    """Large square products by size, of which the fastest is the machine's best."""
    return {
        (SQUARE, size): prepared(
            int8_product, [(draw(rng, size, size),) for _ in range(2)], draw(rng, size, size)
        )
        for size in ((4096, 8192) if GPU else (1024, 2048))
    }


def ways(product: Product, tune: bool) -> dict[str, Callable[[], Turn]]:
    """By name what prepares a way to compute the product."""
    rng = np.random.default_rng(0)
    rows, depth, columns, follows = product
    turns = 4 if GPU else 2
    weight = draw(rng, columns, depth)
    bias = jnp.asarray(rng.integers(-(2**20), 2**20, columns), jnp.int32)
    values = constants(rng, columns, follows)
    if not GPU:
        values = shared(values, follows)
    alone = [(draw(rng, rows, depth),) for _ in range(turns)]
    operands: list[Any] = alone
    if follows == "residual":
        operands = [
            (q, jnp.asarray(rng.integers(-(2**20), 2**20, (rows, columns), np.int32)))
            for (q,) in alone
        ]

    def by_xla(q: jax.Array, *rest: Any) -> jax.Array:
        *residual, weight, bias, shifted, values = rest
        return epilogue(int8_linear(q, weight, bias, shifted), values, *residual)

    def fused(**tiles: int) -> Callable[[], Turn]:
        from ibert_jax.integer.pallas_linear import Tiles, fused_linear

        def run(q: jax.Array, weight: Any, values: Any) -> jax.Array:
            return fused_linear(q, weight, None, epilogue, values, tiles=Tiles(**tiles))

        return lambda: prepared(run, operands, weight, folded(values, bias))

    def in_floats(dtype: str) -> Callable[[], Turn]:
        kind = jnp.dtype(dtype)

        def run(x: jax.Array, w: jax.Array) -> jax.Array:
            return lax.dot_general(x, w, (((1,), (1,)), ((), ())))

        inputs = [(q.astype(kind) / 127,) for (q,) in alone]
        return lambda: prepared(run, inputs, weight.astype(kind) / 127)

    found = {
        "int8 to int32": lambda: prepared(int8_product, alone, weight),
        f"int8, then {follows}, XLA": lambda: prepared(
            by_xla, operands, weight, bias, shift_bias(weight, bias), values
        ),
        "bfloat16": in_floats("bfloat16"),
        "float32": in_floats("float32"),
    }
    if GPU and follows != "residual":  # which is LayerNorm's kernel's
        found[f"int8, then {follows}, fused"] = fused()
        for tiles in TUNED if tune else ():
            found[f"fused {json.dumps(tiles)}"] = fused(**tiles)
    return found


TUNED: tuple[dict[str, int], ...] = (
    {"columns": 256},
    {"rows": 256},
    {"columns": 64},
    {"rows": 64},
    {"depth": 64, "stages": 4},
    {"depth": 64, "columns": 256, "stages": 4},
    {"stages": 4},
    {"warps": 8},
    {"rows": 64, "columns": 64, "stages": 2},
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", help="sentences x tokens; 128x128 on a GPU, else 8x128")
    parser.add_argument("--tune", action="store_true", help="several ways to cut the fused kernel")
    parser.add_argument("--small", action="store_true", help="a tiny encoder, to try this out")
    parser.add_argument("--rounds", type=int, default=15, help="turns each of them takes")
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args()
    case = options.case or ("128x128" if GPU else "8x128")
    sizes = (64, 128) if options.small else (768, 3072)
    device = device_name()
    print(f"{device}, jax {jax.__version__}; compiling", flush=True)
    turns = squares(np.random.default_rng(1))
    shapes = products(*map(int, case.split("x")), *sizes)
    for name, product in shapes.items():
        for way, prepare in ways(product, options.tune).items():
            try:
                turns[name, way] = prepare()
            except Exception as error:  # a way to cut that a GPU has no room for, say
                print(f"{name}, {way} failed: {str(error).splitlines()[0][:120]}")

    times: dict[tuple[str, Any], list[float]] = {key: [] for key in turns}
    for _ in range(options.rounds):
        for key, turn in turns.items():
            times[key].append(turn())
    seconds: dict[str, dict[Any, float]] = {}
    for (name, way), taken in times.items():
        seconds.setdefault(name, {})[way] = statistics.median(taken)

    rate, size = max((2 * size**3 / taken, size) for size, taken in seconds[SQUARE].items())
    results: dict[str, Any] = {
        "command": "python benchmarks/gemm.py",
        "device": device,
        "versions": versions(["jax"]),
        "case": case,
        "rounds": options.rounds,
        "best": {"giga_operations": rate * 1e-9, "size": size},
        "products": {},
    }
    print(f"{rate * 1e-9:,.0f} G int8 operations a second at best, {size} x {size}")
    for name, product in shapes.items():
        print(f"\n{name}: {product.rows} x {product.depth} x {product.columns}")
        entry = results["products"][name] = {**product._asdict(), "ways": {}}
        for way, taken in seconds[name].items():
            got = product.operations / taken
            entry["ways"][way] = {"us": taken * 1e6, "giga_operations": got * 1e-9}
            print(f"  {way:34} {taken * 1e6:10.1f} us {got * 1e-9:8,.0f} G/s {got / rate:6.1%}")
    if options.record:
        write_whole(options.record, json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
