"""How long does a new process take to its first answer: compiled anew, and from the cache?

    PYTHONPATH=. python benchmarks/start.py --cache DIR [--case 8x128] [--kernels onednn]
        [--record FILE.json]

RoBERTa-base, random weights. Every round starts two processes one after the other, without a
compilation cache and with one that an earlier process filled, as the command line keeps it. Told
are medians over the rounds of the seconds to import the package, to load the program, of the first
call, and of the call after it; what the first takes longer is the price of compiling.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import device_name, versions
from workers import Worker

from ibert_jax.files import write_whole

STEPS = ("import", "load", "first_call", "next_call", "compilation")


def worker(folder: Path, case: str, kernels: str, cache: str) -> int:
    """Print what each step took."""
    times = [time.perf_counter()]
    import jax
    import numpy as np

    import ibert_jax as ib
    from ibert_jax.commands.options import use_compile_cache

    use_compile_cache(cache)
    jax.block_until_ready(jax.numpy.zeros(1))
    times.append(time.perf_counter())
    program = ib.IntegerModel.load(folder / "frozen").with_kernels(kernels)
    times.append(time.perf_counter())
    batch, length = map(int, case.split("x"))
    vocabulary = program.config.vocab_size
    ids = np.random.default_rng(0).integers(4, vocabulary, (batch, length), dtype=np.int32)
    for _ in range(2):
        jax.block_until_ready(jax.tree.leaves(program.integers(ids).to_tuple()))
        times.append(time.perf_counter())
    taken = [after - before for before, after in itertools.pairwise(times)]
    found = dict(zip(STEPS, [*taken, taken[2] - taken[3]], strict=True))
    print(json.dumps({**found, "device": device_name()}), flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="where the model is prepared")
    parser.add_argument("--case", default="8x128", metavar="BxL", help="sentences x tokens")
    parser.add_argument("--kernels", default="xla", help="see IntegerModel.with_kernels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="a tiny encoder, to try this out")
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(options.cache, options.case, options.kernels, options.worker)

    from gpu_contenders import LAYERS, SIZES, prepare

    size = "small" if options.small else "base"
    folder = options.cache / size
    prepare(folder, size)
    found: dict[str, list[dict[str, Any]]] = {"anew": [], "from the cache": []}
    with tempfile.TemporaryDirectory() as filled:

        def start(cache: str) -> dict[str, Any]:
            words = ["--cache", str(folder), "--case", options.case, "--worker", cache]
            process = Worker(__file__, *words, "--kernels", options.kernels)
            try:
                return process.ask()
            finally:
                process.close()

        start(filled)
        for _ in range(options.rounds):
            for cache, name in zip(("off", filled), found, strict=True):
                found[name].append(start(cache))
    results: dict[str, Any] = {
        "command": f"python benchmarks/start.py --case {options.case} --kernels {options.kernels}",
        "device": found["anew"][0]["device"],
        "versions": versions(["jax", "jaxlib", "numpy"]),
        "size": {**SIZES[size], "layers": LAYERS[size]},
        "case": options.case,
        "rounds": options.rounds,
        "seconds": {
            name: {step: statistics.median(row[step] for row in rows) for step in STEPS}
            for name, rows in found.items()
        },
    }
    print(f"{options.case}: {'':12}" + "".join(f"{step:>13}" for step in STEPS))
    for name, row in results["seconds"].items():
        print(f"{name:19}" + "".join(f"{row[step]:12.2f}s" for step in STEPS))
    if options.record:
        write_whole(options.record, json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
