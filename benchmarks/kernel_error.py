"""How far are the integer kernels from the functions that they approximate?

    python benchmarks/kernel_error.py [--record benchmarks/results/kernel_error.json]

Worst case and root mean square of the difference to float64, the rounding of the kernel's own
output included: i-exp, i-GELU and i-tanh over every input of every grid; softmax and LayerNorm
over structured and random rows, down to rows of a thousandth of the range. The figures of the
paper (Kim et al., 2021, sections 3.4 and 3.5) stand beside them, where it gives any.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import ibert_jax
from ibert_jax.integer.dyadic import Multiplier
from ibert_jax.integer.gelu import GRIDS, igelu
from ibert_jax.integer.layernorm import normalize
from ibert_jax.integer.softmax import (
    GRID_BITS,
    LOWEST,
    divide_by_row_sum,
    iexp,
    softmax_numerators,
    softmax_reference,
)
from ibert_jax.integer.tanh import itanh
from ibert_jax.quantize.constants import multiplier
from ibert_jax.quantize.numbers import python_number

SOFTMAX_KEYS = (8, 128, 512)
LAYERNORM_CHANNELS = (64, 384, 768, 1024)
LAYERNORM_ROWS = 200
LOUDEST, QUIETEST = 2**19 - 1, 2**19 // 1000
"""The largest element of the loudest and of the quietest row given to LayerNorm."""
SCORE_STEP = 2.0**-8
"""What a unit of the softmax's int32 scores stands for here."""


@dataclasses.dataclass(frozen=True)
class Error:
    """The error of one kernel on one set of inputs.

    Attributes:
        worst, rms: of the difference to float64.
        largest: the largest exact result, for comparison.
        paper: the published figures.
    """

    kernel: str
    inputs: str
    worst: float
    rms: float
    largest: float
    paper: str = ""


def error(kernel: str, inputs: str, got: np.ndarray, exact: np.ndarray, paper: str = "") -> Error:
    difference = got - exact
    worst, rms = float(np.abs(difference).max()), math.sqrt(np.mean(difference**2))
    return Error(kernel, inputs, worst, rms, float(np.abs(exact).max()), paper)


# --------------------------------------------------------------------- every input of a grid


def exponential() -> Iterator[Error]:
    t = np.arange(LOWEST, 1)
    got = np.asarray(iexp(jnp.asarray(t, jnp.int32))) / 2**15
    exact = np.exp(t * (math.log(2) / 2**GRID_BITS))
    yield error("i-exp", f"all {t.size}", got, exact, "max 1.9e-3")


def gelu() -> Iterator[Error]:
    q = np.arange(-(2**15), 2**15)
    run = jax.jit(igelu)
    for k in range(GRIDS[0], GRIDS[1] + 1):
        x = q / 2**k
        got = np.asarray(run(jnp.asarray(q, jnp.int32), jnp.int32(k))) / 2.0 ** (k + 15)
        exact = np.array([v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in x])
        near = np.abs(x) <= 4
        yield error(f"i-GELU, 2^-{k}", f"all {q.size}, +-{2 ** (15 - k)}", got, exact)
        paper = "max 0.018, RMS 0.0082"
        yield error(f"i-GELU, 2^-{k}", f"{near.sum()} in [-4, 4]", got[near], exact[near], paper)


def hyperbolic_tangent() -> Iterator[Error]:
    q = np.arange(-(2**15), 2**15)
    got = np.asarray(itanh(jnp.asarray(q, jnp.int32))) / 2**15
    yield error("i-tanh", f"all {q.size}, +-5.5", got, np.tanh(q * (math.log(2) / 2**12)))


# ----------------------------------------------------------------------------------- softmax


def score_rows(keys: int) -> np.ndarray:
    """Scores in units of ``SCORE_STEP``, int64 [rows, keys]: structured rows, then random ones."""
    rng = np.random.default_rng(keys)
    place = np.arange(keys)
    structured = [
        np.zeros(keys),  # attention that is uniform
        np.where(place == keys // 2, 0, -40.0),  # one key has it all
        np.where(place % 2 == 0, 0, -0.7),
        np.where(place < 2, 0, -6.0),
        -6.0 * place / keys,
        -20.0 * place / keys,
        -np.log1p(place),
        -5.545 * (place > 0),  # the others just around half a step of the numerator
    ]
    spread = np.array([0.01, 0.1, 0.3, 1.0, 2.0, 4.0, 10.0, 30.0]).repeat(50)[:, None]
    rows = np.concatenate([structured, rng.standard_normal((spread.size, keys)) * spread])
    return np.round(rows / SCORE_STEP).astype(np.int64)


def to_exponent_grid() -> Multiplier:
    """From ``SCORE_STEP`` to the grid of i-exp."""
    factor = python_number(2**GRID_BITS / math.log(2))
    return multiplier(jnp.float32(SCORE_STEP), jnp.float32(1), wide=False, factor=factor)


@jax.jit
def both_softmaxes(scores: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Numerators and row sums of int32 scores [1, 1, rows, keys]."""
    mask = jnp.ones((1, 1, 1, scores.shape[-1]), bool)
    kernels = {"softmax": softmax_numerators, "softmax, published": softmax_reference}
    return {name: kernel(scores, mask, to_exponent_grid()) for name, kernel in kernels.items()}


def softmax() -> Iterator[Error]:
    for keys in SOFTMAX_KEYS:
        scores = score_rows(keys)
        powers = np.exp((scores - scores.max(-1, keepdims=True)) * SCORE_STEP)
        exact = powers / powers.sum(-1, keepdims=True)
        inputs = f"{len(scores)} rows of {keys}"
        for name, result in both_softmaxes(jnp.asarray(scores, jnp.int32)[None, None]).items():
            numerators, sums = (np.asarray(part)[0, 0].astype(np.float64) for part in result)
            weights = numerators / sums
            yield error(name, inputs, weights, exact)
            yield error(f"{name}: sum of a row", inputs, weights.sum(-1), np.ones(len(scores)))


def row_sum_division() -> Iterator[Error]:
    """A row's sum as the context sees it, every value 1: the reciprocal's error is all of it."""
    sums = jnp.arange(255, 255 * SOFTMAX_KEYS[-1] + 1, dtype=jnp.int32)[:, None]
    seen = np.asarray(divide_by_row_sum(sums, sums)) / 2**21
    inputs = f"all {sums.size} row sums"
    yield error("softmax: sum in the context", inputs, seen, np.ones_like(seen))


# --------------------------------------------------------------------------------- LayerNorm


def layernorm_rows(channels: int) -> Iterator[tuple[str, np.ndarray]]:
    """Rows of 20-bit integers by kind, [rows, channels]; each from loud to quiet."""
    rng = np.random.default_rng(channels)
    peaks = np.geomspace(LOUDEST, QUIETEST, LAYERNORM_ROWS)[:, None]
    place = np.arange(channels)
    normal = rng.standard_normal((LAYERNORM_ROWS, channels))
    outlier = normal.copy()
    outlier[:, 7] = 30.0
    shapes = {
        "normal": normal,
        "uniform": rng.uniform(-1, 1, (LAYERNORM_ROWS, channels)),
        "an outlier": outlier,
        "two values": np.where(place % 2 == 0, 1.0, -1.0),
        "a ramp": place / channels,
        "heavy tails": np.clip(rng.standard_t(3, (LAYERNORM_ROWS, channels)), -20, 20),
        "one element": (place == 3) * 1.0,
    }
    for kind, shape in shapes.items():
        largest = np.abs(shape).max(-1, keepdims=True)
        yield kind, np.round(shape / largest * peaks).astype(np.int64)


def layernorm(widths: tuple[int, ...] = LAYERNORM_CHANNELS) -> Iterator[Error]:
    run = jax.jit(normalize)
    for channels in widths:
        for kind, x in layernorm_rows(channels):
            exact = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
            got = run(jnp.asarray(x, jnp.int32), jnp.int32(0), jnp.int32(-64))
            inputs = f"{len(x)} rows of {channels}, {kind}"
            yield error("LayerNorm", inputs, np.asarray(got) / 2**14, exact)


KERNELS: tuple[Callable[[], Iterator[Error]], ...] = (
    exponential,
    gelu,
    hyperbolic_tangent,
    softmax,
    row_sum_division,
    layernorm,
)


def table(errors: list[Error]) -> str:
    lines = [f"{'kernel':38} {'inputs':32} {'worst':>9} {'RMS':>9} {'result':>7}  paper"]
    lines += [
        f"{e.kernel:38} {e.inputs:32} {e.worst:9.2e} {e.rms:9.2e} {e.largest:7.3g}  {e.paper}"
        for e in errors
    ]
    return "\n".join(line.rstrip() for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file too")
    path = parser.parse_args().record
    errors = [found for kernel in KERNELS for found in kernel()]
    print(table(errors))
    if path is not None:
        record = {
            "versions": {"ibert_jax": ibert_jax.__version__, "jax": jax.__version__},
            "device": str(jax.devices()[0]),
            "errors": [dataclasses.asdict(e) for e in errors],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
