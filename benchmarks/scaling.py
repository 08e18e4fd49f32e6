"""How do time and memory of the integer program grow with batch, length, depth and devices?

    PYTHONPATH=. python benchmarks/scaling.py --cache DIR [--record FILE.json] [--plot FILE.png]

RoBERTa-base, random weights. One thing varies while the others stay at 8 sentences, 128 tokens and
12 layers; devices share a batch of 8 sentences each. The points of an axis take turns, a call each
a round, so that whatever else the machine does falls on all; time is the median over the rounds,
memory what XLA plans: arguments (the model), results and temporary arrays (where a batch goes in
streams, those of all streams). Seconds are held against an ideal, a cost proportional to what
varies, through the case that stays, in the same round; with devices, which all get as much to do, a
constant. Length has no such ideal, as a token's attention grows with the tokens that it attends to:
operations a second tell that part from the rest.

Several devices on a CPU: XLA_FLAGS=--xla_force_host_platform_device_count=2.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gpu_contenders
import jax
import numpy as np
from gpu_contenders import LAYERS, SIZES, prepare
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from machine import device_name, versions

import ibert_jax as ib
from ibert_jax.files import write_whole
from ibert_jax.frozen.streamed import streams_of
from ibert_jax.integer.compiled import OPTIONS

AXES = {
    "batch": (1, 2, 4, 8, 16, 32, 64),
    "length": (16, 32, 64, 128, 256, 512),
    "depth": (1, 2, 4, 8, 12),
}
SMALL_AXES = {"batch": (1, 8), "length": (16, 32), "depth": (1, 2)}
BASIS = {"batch": 8, "length": 128, "depth": 12}
SMALL_BASIS = {"batch": 8, "length": 16, "depth": 2}
MIB = 2**20


def of_depth(program: ib.IntegerModel, depth: int) -> ib.IntegerModel:
    """The first layers of a program."""
    network, config = program.network, program.config
    network.encoder.unstack()
    network.encoder.stack(list(network.encoder.layer)[:depth])
    config = dataclasses.replace(config, num_hidden_layers=depth)
    return ib.IntegerModel.of(network, config, dict(program.scales))


def operations(size: str, batch: int, length: int, depth: int) -> int:
    return gpu_contenders.operations(size, batch, length) * depth // LAYERS[size]


def prepared(
    program: ib.IntegerModel, batch: int, length: int, devices: int = 1
) -> tuple[Callable[[], float], dict[str, float]]:
    """A function that tells the seconds of a call, and MiB, of one case.

    devices: how many share the batch.
    """
    ids = np.random.default_rng(0).integers(
        4, program.config.vocab_size, (batch, length), dtype=np.int32
    )
    mask = np.ones_like(ids)

    @jax.jit
    def run(program: ib.IntegerModel, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return program.integers(ids, attention_mask=mask)[0]

    def compiled(*arguments: Any) -> Any:
        return run.lower(*arguments).compile(OPTIONS)  # as `IntegerModel` compiles by itself

    streams = 1
    call: Callable[[], Any]
    if devices == 1:  # what a user calls; its plan is that of each stream
        streams = streams_of({"attention_mask": mask})
        rows = batch // streams
        memory = compiled(program, ids[:rows], mask[:rows]).memory_analysis()
        call = partial(program.integers, ids, attention_mask=mask)
    else:
        mesh = Mesh(np.array(jax.devices()[:devices]), ("batch",))
        whole, shared = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))
        arguments = jax.device_put(program, whole), *jax.device_put((ids, mask), shared)
        executable = compiled(*arguments)
        memory = executable.memory_analysis()
        call = partial(executable, *arguments)

    def seconds() -> float:
        started = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - started

    return seconds, {
        "streams": streams,
        "model_mib": memory.argument_size_in_bytes / MIB,
        "temporary_mib": streams * memory.temp_size_in_bytes / MIB,
        "results_mib": streams * memory.output_size_in_bytes / MIB,
    }


def take_turns(points: list[dict[str, Any]], timed: list[Callable[[], float]], rounds: int) -> Any:
    """Seconds of every point in every round, [rounds, points]; the first call does not count."""
    for call in timed:
        call()
    found = np.array([[call() for call in timed] for _ in range(rounds)])
    for point, column in zip(points, found.T, strict=True):
        point["seconds"] = float(np.median(column))
    return found


def hold_against_ideal(points: list[dict[str, Any]], found: Any, axis: str, at: int) -> None:
    """Beside each point, its seconds over those of a cost proportional to the axis."""
    (basis,) = (index for index, point in enumerate(points) if point[axis] == at)
    for point, column in zip(points, found.T, strict=True):
        growth = 1 if axis == "devices" else point[axis] / at
        point["over_ideal"] = float(np.median(column / found[:, basis])) / growth


def show(axis: str, points: list[dict[str, Any]]) -> None:
    print(f"\n{axis:>8}   seconds  over ideal  G op/s  model MiB  temporary MiB")
    for p in points:
        print(
            f"{p[axis]:8} {p['seconds']:9.4f} {p['over_ideal']:11.2f} "
            f"{p['operations'] / p['seconds'] * 1e-9:7.0f} {p['model_mib']:10.1f} "
            f"{p['temporary_mib']:14.1f}",
            flush=True,
        )


def plot(results: dict[str, Any], path: Path) -> None:
    """Seconds and temporary memory along every axis, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes = results["axes"]
    figure, panels = pyplot.subplots(2, len(axes), figsize=(3.2 * len(axes), 5), squeeze=False)
    for column, (axis, points) in enumerate(axes.items()):
        at = [p[axis] for p in points]
        ideal = [p["seconds"] / p["over_ideal"] for p in points]
        panels[0][column].plot(at, ideal, ":", color="gray", label="ideal")
        for row, name in enumerate(("seconds", "temporary_mib")):
            panel = panels[row][column]
            panel.plot(at, [p[name] for p in points], "o-")
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xticks(at, [str(n) for n in at])
            panel.set_xlabel(axis)
            panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("seconds a batch")
    panels[1][0].set_ylabel("temporary MiB")
    panels[0][0].legend()
    figure.suptitle(f"{results['device']}, {results['kernels']} kernels")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="where the model is prepared")
    parser.add_argument("--kernels", default="xla", help="see IntegerModel.with_kernels")
    parser.add_argument("--axes", nargs="+", choices=[*AXES, "devices"], default=[*AXES, "devices"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--small", action="store_true", help="a tiny encoder, to try this out")
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--plot", type=Path, help="draw them (matplotlib)")
    options = parser.parse_args()
    size = "small" if options.small else "base"
    basis = SMALL_BASIS if options.small else BASIS
    prepare(options.cache / size, size)
    program = ib.IntegerModel.load(options.cache / size / "frozen")
    results: dict[str, Any] = {
        "command": "python benchmarks/scaling.py --cache FOLDER",
        "device": device_name(),
        "versions": versions(["jax"]),
        "size": {**SIZES[size], "layers": LAYERS[size]},
        "kernels": options.kernels,
        "rounds": options.rounds,
        "axes": {},
    }
    axes = {**(SMALL_AXES if options.small else AXES), "devices": [1]}
    axes["devices"] = [n for n in (1, 2, 4, 8, 16) if n <= len(jax.devices())]
    for axis in options.axes:
        points, timed = [], []
        for value in axes[axis]:
            case = {**basis, "devices": 1, axis: value}
            if axis == "devices":
                case["batch"] = basis["batch"] * value
            made = of_depth(program, case["depth"]).with_kernels(options.kernels)
            seconds, memory = prepared(made, case["batch"], case["length"], case["devices"])
            count = operations(size, case["batch"], case["length"], case["depth"])
            points.append({**case, "operations": count, **memory})
            timed.append(seconds)
        found = take_turns(points, timed, options.rounds)
        hold_against_ideal(points, found, axis, {**basis, "devices": 1}[axis])
        show(axis, points)
        results["axes"][axis] = points
        if options.record:
            write_whole(options.record, json.dumps(results, indent=1) + "\n")
    if options.plot:
        plot(results, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
