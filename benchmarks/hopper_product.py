"""How much faster are products by Hopper's own instructions than by Triton's on such a GPU?

    PYTHONPATH=. python benchmarks/hopper_product.py [--record FILE.json]     # on an H100 or H200

``integer.pallas_hopper`` against ``integer.pallas_linear``: RoBERTa-base's products of 128 x 128
tokens with what follows them, a hash of every integer, and the time. Each runs in a process of its
own, for a kernel that waits for what never comes stops a GPU's process for good.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gemm import constants, draw, epilogue, folded, products
from machine import device_name, versions

from ibert_jax.files import write_whole

BACKENDS = ("triton", "mosaic")
PATIENCE = 60
"""Seconds until one is given up."""


def measure(backend: str, rounds: int) -> dict[str, Any]:
    """Of each product: microseconds, a hash of the integers."""
    from ibert_jax.integer.pallas_hopper import hopper_linear
    from ibert_jax.integer.pallas_linear import fused_linear

    found = {}
    shapes = products(128, 128, 768, 3072)
    shapes["query, key"] = shapes.pop("query, key, value")._replace(columns=1536)
    for name, (rows, depth, columns, follows) in shapes.items():
        if follows == "residual":
            continue
        rng = np.random.default_rng(0)
        inputs = [draw(rng, rows, depth) for _ in range(6)]
        weight = draw(rng, columns, depth)
        bias = jnp.asarray(rng.integers(-(2**20), 2**20, columns), jnp.int32)
        values = folded(constants(rng, columns, follows), bias)

        def one(q: Any, w: Any, values: Any) -> jax.Array:
            if backend == "triton":
                return fused_linear(q, w, None, epilogue, values)
            return hopper_linear(q, w, epilogue, values)

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
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--backend", choices=BACKENDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.backend:
        print(json.dumps(measure(options.backend, options.rounds)))
        return 0
    found: dict[str, Any] = {}
    results = {"device": device_name(), "versions": versions(["jax"]), "backends": found}
    for backend in BACKENDS:
        command = [sys.executable, __file__, "--backend", backend, "--rounds", str(options.rounds)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
            found[backend] = json.loads(done.stdout.splitlines()[-1])
        except subprocess.TimeoutExpired:
            found[backend] = {"failed": f"no answer in {PATIENCE} s"}
        except (IndexError, json.JSONDecodeError):
            found[backend] = {"failed": (done.stderr.strip().splitlines() or ["?"])[-1]}
        print(backend, found[backend], flush=True)
        if options.record:
            write_whole(options.record, json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
