"""How fast is the integer program on this CPU, beside what people would use instead?

    pip install ".[peers]"
    python benchmarks/cpu.py --cache DIR [--text sentences.txt] [--record FILE.json]

RoBERTa-base, random weights, every contender a process of its own that waits while others run:
rounds go from contender to contender, so that whatever else the machine does falls on all alike.
Before each turn there is a pause, as some runtimes' threads go on spinning when they have answered,
at the cost of whoever is next; a turn repeats short cases, and its median counts. Printed are
medians over the rounds, and the median over the rounds of the ratio to ours, with each contender's
first call (compilation included) and its peak memory. ``mixed`` is text: the lengths of a file's
sentences (as the packaged tokenizer counts them) in sorted batches of 16, padded to the longest;
only real tokens count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cpu_contenders
import numpy as np
from cpu_contenders import CONTENDERS, OURS, PREPARE, VOCABULARY
from machine import THREADS, cpu_name, versions
from workers import Worker

from ibert_jax.files import write_whole

Batches = list[tuple[np.ndarray, np.ndarray]]
PACKAGES = ("jax", "torch", "transformers", "onnxruntime", "openvino", "nncf")
MIXED = "mixed"
PAUSE = 0.2
"""Seconds before a turn."""
TURN = 0.25
"""Seconds for which a turn goes on beginning new passes."""


def batches_of(case: str, lengths: Sequence[int]) -> Batches:
    """What a case runs: pairs of ids and mask, int64 [B, T]."""
    draw = np.random.default_rng(0)
    if case != MIXED:
        shape = tuple(int(n) for n in case.split("x"))
        return [(draw.integers(4, VOCABULARY, shape), np.ones(shape, np.int64))]
    ordered = sorted(lengths, reverse=True)
    made = []
    for start in range(0, len(ordered), 16):
        rows = np.array(ordered[start : start + 16])
        mask = (np.arange(rows.max()) < rows[:, None]).astype(np.int64)
        made.append((np.where(mask, draw.integers(4, VOCABULARY, mask.shape), 1), mask))
    return made


def padded_for_us(batches: Batches) -> Batches:
    """To the lengths that programs are compiled for, as ``Predictor`` does once a job is long."""
    from ibert_jax.inference.lengths import closest_lengths, next_of

    padded = []
    for ids, mask in batches:
        length = next_of(closest_lengths(512), ids.shape[1])
        room = ((0, 0), (0, length - ids.shape[1]))
        padded.append((np.pad(ids, room, constant_values=1), np.pad(mask, room)))
    return padded


def worker(name: str, folder: Path) -> None:
    """Answers each line of standard input, a case with its lengths, with one of JSON."""
    before = peak_mib()
    if name.startswith(("JAX", "ibert_jax")):
        import jax

        jax.devices()
        before = peak_mib()
    run = CONTENDERS[name](folder)
    cases: dict[str, Batches] = {}
    for line in sys.stdin:
        case, lengths = json.loads(line)
        if case not in cases:
            cases[case] = batches_of(case, lengths)
            if name.startswith(("JAX", "ibert_jax")) and case == MIXED:
                cases[case] = padded_for_us(cases[case])
        seconds, until = [], time.perf_counter() + TURN
        while not seconds or time.perf_counter() < until:
            started = time.perf_counter()
            for ids, mask in cases[case]:
                run(ids, mask)
            seconds.append(time.perf_counter() - started)
        found = {
            "first": seconds[0],
            "seconds": statistics.median(seconds),
            "peak_mib": peak_mib() - before,
        }
        print(json.dumps(found), flush=True)


def peak_mib() -> float:
    """The largest resident memory of this process so far, without what it had before `exec`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


class Contender(Worker):
    """A worker process of this script."""

    def __init__(self, name: str, folder: Path) -> None:
        threads = str(THREADS)
        super().__init__(
            __file__, "--worker", name, "--cache", str(folder), OMP_NUM_THREADS=threads
        )

    def turn(self, case: str, lengths: Sequence[int]) -> dict[str, float]:
        """Seconds of the first pass over a case and of the median one; peak MiB so far.

        Memory is net of the imports.
        """
        time.sleep(PAUSE)
        return self.ask(json.dumps([case, list(lengths)]))


def prepare(folder: Path, layers: int) -> None:
    """What the contenders need on disk; what is there stays, what cannot be made is said."""
    folder.mkdir(parents=True, exist_ok=True)
    makers = {"weights": lambda folder: cpu_contenders.prepare_weights(folder, layers), **PREPARE}
    for name, make in makers.items():
        done = folder / f".{name.replace(' ', '_')}"
        if done.exists():
            continue
        print(f"preparing {name} ...", flush=True)
        try:
            make(folder)
            done.touch()
        except ImportError as error:
            print(f"{name} is left out: {error}")


def text_lengths(path: Path | None, sentences: int) -> list[int]:
    """Tokens in each of a file's first sentences."""
    if path is None:
        return []
    from ibert_jax.inference import default_directory
    from ibert_jax.tokenizer import Tokenizer

    lines = [line.split("\t")[0] for line in path.read_text().splitlines()[:sentences]]
    return [len(e.ids) for e in Tokenizer.load(default_directory()).encode(lines, max_length=512)]


def measure(names: Sequence[str], case: str, folder: Path, lengths: Any, rounds: int) -> Any:
    """Seconds of every round, first calls and peak memory of every contender that works."""
    running: dict[str, Contender] = {}
    found: dict[str, Any] = {}
    for name in names:
        contender = Contender(name, folder)
        try:
            first = contender.turn(case, lengths)["first"]
        except RuntimeError as error:
            print(f"  {name} is left out: {error}")
            contender.close()
            continue
        running[name], found[name] = contender, {"first": first, "seconds": []}
    for _ in range(rounds):
        for name, contender in running.items():
            turn = contender.turn(case, lengths)
            found[name]["seconds"].append(turn["seconds"])
            found[name]["peak_mib"] = turn["peak_mib"]
    for contender in running.values():
        contender.close()
    mine = found.get(OURS, {}).get("seconds")
    for entry in found.values():
        entry["median"] = statistics.median(entry["seconds"])
        if mine:
            ratios = [a / b for a, b in zip(entry["seconds"], mine, strict=True)]
            entry["ours_is_faster_by"] = statistics.median(ratios)
    return found


def show(case: str, found: dict[str, Any], tokens: int) -> None:
    print(f"\n{case}: {'':16} median s  tokens/s  ours is faster by  first call s  peak MiB")
    for name, e in found.items():
        ratio = e.get("ours_is_faster_by", float("nan"))
        print(
            f"  {name:22} {e['median']:9.4f} {tokens / e['median']:9.0f} {ratio:18.2f} "
            f"{e['first']:13.2f} {e['peak_mib']:9.0f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="where models are prepared")
    parser.add_argument("--cases", nargs="+", default=["8x128", "1x32", "1x128", "8x512"])
    parser.add_argument("--text", type=Path, help="one sentence a line; adds the case `mixed`")
    parser.add_argument("--sentences", type=int, default=256, help="of that file")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", choices=[*CONTENDERS], default=[*CONTENDERS])
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(options.worker, options.cache)
    prepare(options.cache, options.layers)
    lengths = text_lengths(options.text, options.sentences)
    cases = [*options.cases, *([MIXED] if lengths else [])]
    results = {}
    for case in cases:
        found = measure(options.only, case, options.cache, lengths, options.rounds)
        tokens = sum(int(mask.sum()) for _, mask in batches_of(case, lengths))
        show(case, found, tokens)
        results[case] = {"tokens": tokens, "contenders": found}
        if options.record:
            record(options, results)
    return None


def record(options: argparse.Namespace, results: dict[str, Any]) -> None:
    content = {
        "command": "python benchmarks/cpu.py --cache FOLDER",
        "cpu": cpu_name(),
        "threads": THREADS,
        "versions": versions(PACKAGES),
        "layers": options.layers,
        "rounds": options.rounds,
        "pause": PAUSE,
        "turn": TURN,
        "cases": results,
    }
    write_whole(options.record, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
