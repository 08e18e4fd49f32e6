"""How fast is the integer program on a GPU, beside the floats of the same encoder?

    PYTHONPATH=. python benchmarks/gpu.py --cache DIR [--record FILE.json]
    PYTHONPATH=. python benchmarks/gpu.py --cache DIR --small     # tries the script out, anywhere

Needs the checkout, jax with CUDA, flax, torch and transformers. In one go: the committed hashes
(are the integers on this GPU everyone's?), RoBERTa-base of random weights by every contender, every
integer of the fused kernels against XLA's at that size, and where the time goes. Contenders are
processes that wait while others run: rounds go from one to the next, so that clocks and heat fall
on all alike. Printed are medians over rounds, and the median of the ratios to the first contender
that runs. What fails is said and left out; what is known is written at once.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gpu_contenders
import numpy as np
from gpu_contenders import BFLOAT16, CONTENDERS, PALLAS, XLA, operations
from machine import versions
from workers import DEFAULTS, Worker

from ibert_jax.files import write_whole

PACKAGES = ("jax", "jaxlib", "flax", "torch", "transformers", "triton", "numpy")
PEAKS = {"H200": 1979e12, "H100": 1979e12, "A100": 624e12}
"""Dense int8 operations a second by NVIDIA's datasheets (SXM)."""
SECONDS_A_ROUND = 0.25
PROFILED = [PALLAS, XLA, BFLOAT16]


def inputs(case: str) -> tuple[np.ndarray, np.ndarray]:
    """ids and mask, int64 [B, T]: full sentences, so that every token counts."""
    shape = tuple(int(n) for n in case.split("x"))
    ids = np.random.default_rng(0).integers(4, gpu_contenders.BASE["vocab_size"], shape)
    return ids, np.ones(shape, np.int64)


# ------------------------------------------------------------------------------------- workers


def worker(name: str, folder: Path, case: str) -> None:
    """Makes a contender when it is asked to, then answers each line with one of JSON."""
    for package in ("torch", "transformers") if name.startswith("torch") else ("jax", "ibert_jax"):
        importlib.import_module(package)
    sys.stdin.readline()
    started = time.perf_counter()
    forward = CONTENDERS[name](folder, *inputs(case))
    forward.wait(forward.launch())
    answer({"first": time.perf_counter() - started, "device": device_name()})
    calls = 1
    for line in sys.stdin:
        if line.strip() == "profile":
            import gpu_profile

            answer({"stages": gpu_profile.stages(forward)})
            continue
        started = time.perf_counter()
        for _ in range(calls):
            result = forward.launch()
        forward.wait(result)
        seconds = (time.perf_counter() - started) / calls
        answer({"seconds": seconds, "calls": calls, "peak_mib": forward.peak() / 2**20})
        calls = max(1, min(1000, round(SECONDS_A_ROUND / seconds)))


def equality(folder: Path, case: str) -> None:
    """Every integer of the last hidden states: fused kernels, XLA's, and the CPU's for two rows."""
    import jax

    ids, mask = inputs(case)
    by_xla, by_pallas = (
        np.asarray(forward.launch())
        for forward in (gpu_contenders.ours(folder, k, ids, mask) for k in ("xla", "pallas"))
    )
    with jax.default_device(jax.devices("cpu")[0]):
        on_cpu = np.asarray(gpu_contenders.ours(folder, "xla", ids[:2], mask[:2]).launch())
    answer(
        {
            "integers": by_xla.size,
            "distinct": len(np.unique(by_xla)),
            "pallas_differs": int((by_xla != by_pallas).sum()),
            "cpu_differs": int((by_xla[:2] != on_cpu).sum()),
        }
    )


def answer(content: dict[str, Any]) -> None:
    print(json.dumps(content), flush=True)


def device_name() -> str:
    try:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
    except ImportError:
        pass
    import jax

    return jax.devices()[0].device_kind


# ------------------------------------------------------------------------------------ measuring


def measure(options: argparse.Namespace, case: str) -> dict[str, Any]:
    """Seconds of every round, first calls and peak memory of every contender that works."""
    running = {
        name: Worker(__file__, "--worker", name, *shared(options, case), **kept(options))
        for name in options.only
    }
    found: dict[str, Any] = {}
    for name, started in list(running.items()):
        try:
            if time.monotonic() > options.deadline:
                raise RuntimeError("no time left (--minutes)")
            # One after the other: XLA times kernels while it compiles.
            found[name] = {**started.ask("make"), "seconds": []}
            started.ask("run")
        except RuntimeError as error:
            print(f"  {name} is left out: {error}", flush=True)
            found.pop(name, None)
            running.pop(name).close()
            continue
        print(f"  {name} is ready ({found[name]['first']:.0f} s)", flush=True)
    for _ in range(options.rounds):
        for name, contender in running.items():
            told = contender.ask("run")
            found[name]["seconds"].append(told["seconds"])
            found[name]["peak_mib"] = told["peak_mib"]
    for contender in running.values():
        contender.close()
    mine = next((e["seconds"] for e in found.values()), [])
    for entry in found.values():
        entry["median"] = statistics.median(entry["seconds"])
        ratios = [a / b for a, b in zip(entry["seconds"], mine, strict=True)]
        entry["first_is_faster_by"] = statistics.median(ratios)
        rate = operations(options.size, *map(int, case.split("x"))) / entry["median"]
        entry["tera_operations"] = rate * 1e-12
        entry["share_of_int8_peak"] = share_of_peak(entry["device"], rate)
    return found


def share_of_peak(device: str, rate: float) -> float | None:
    return next((rate / peak for name, peak in PEAKS.items() if name in device), None)


def shared(options: argparse.Namespace, case: str) -> list[str]:
    return ["--cache", str(options.cache), "--cases", case]


def kept(options: argparse.Namespace) -> dict[str, str]:
    """The environment of workers that find what others have compiled."""
    return {"JAX_COMPILATION_CACHE_DIR": str(options.cache / "compiled")}


def profile(options: argparse.Namespace, case: str) -> dict[str, Any]:
    """Milliseconds by stage; without CUDA graphs, which would hide what is inside."""
    found = {}
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_command_buffer="
    for name in options.profile:
        if name not in options.only or time.monotonic() > options.deadline:
            continue
        started = Worker(
            __file__, "--worker", name, *shared(options, case), XLA_FLAGS=flags.strip()
        )
        try:
            started.ask("make")
            found[name] = started.ask("profile")["stages"]
        except RuntimeError as error:
            print(f"  the profile of {name} is left out: {error}")
        started.close()
    return found


def hashes(kernels: str) -> dict[str, Any]:
    """Whether the committed hashes are found here."""
    script = Path(__file__).with_name("hashes.py")
    done = subprocess.run(
        [sys.executable, str(script), "--kernels", kernels],
        capture_output=True,
        text=True,
        env={**DEFAULTS, **os.environ},
    )
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines()
    verdict = lines[-1] if lines else "no answer"
    print(f"hashes: {verdict}", flush=True)
    return {"passed": done.returncode == 0, "verdict": verdict}


# ----------------------------------------------------------------------------------------- main


def show(case: str, found: dict[str, Any]) -> None:
    print(f"\n{case}: {'':18} ms a batch  first is faster by  T op/s  of int8 peak  peak MiB")
    for name, e in found.items():
        share = e["share_of_int8_peak"]
        print(
            f"  {name:26} {e['median'] * 1e3:8.3f} {e['first_is_faster_by']:18.2f} "
            f"{e['tera_operations']:8.1f} {'' if share is None else f'{share:.1%}':>12} "
            f"{e['peak_mib']:10.0f}"
        )


def show_profile(case: str, found: dict[str, Any]) -> None:
    for name, stages in found.items():
        whole = sum(stage["ms"] for stage in stages.values())
        print(f"\n{case}, {name}: {whole:.3f} ms in kernels")
        for stage, e in list(stages.items())[:14]:
            print(f"  {e['ms']:8.3f} ms {e['ms'] / whole:6.1%} {e['kernels']:6.0f}  {stage}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="where models are prepared")
    parser.add_argument("--cases", nargs="+", help="batch x length; 128x128 by default")
    parser.add_argument("--only", nargs="+", choices=[*CONTENDERS], default=[*CONTENDERS])
    parser.add_argument("--profile", nargs="*", choices=PROFILED, default=PROFILED)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--minutes", type=float, default=9, help="after which nothing is begun")
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--small", action="store_true", help="a tiny encoder, 2 x 16, two rounds")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--equality", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.deadline = time.monotonic() + 60 * options.minutes
    options.size = "small" if options.small else "base"
    options.cases = options.cases or ["2x16" if options.small else "128x128"]
    options.rounds = 2 if options.small else options.rounds
    if options.worker:
        worker(options.worker, options.cache, options.cases[0])
        return 0
    if options.equality:
        equality(options.cache, options.cases[0])
        return 0

    results: dict[str, Any] = {
        "command": "python benchmarks/gpu.py",
        "versions": versions(PACKAGES),
        "size": options.size,
        "layers": gpu_contenders.LAYERS[options.size],
        "rounds": options.rounds,
        "cases": {},
    }
    options.cache = options.cache / options.size
    with ThreadPoolExecutor() as side_by_side:
        found = {kernels: side_by_side.submit(hashes, kernels) for kernels in ("xla", "pallas")}
        gpu_contenders.prepare(options.cache, options.size)
        results["hashes"] = {kernels: future.result() for kernels, future in found.items()}
    for case in options.cases:
        batch, length = map(int, case.split("x"))
        entry: dict[str, Any] = {"operations": operations(options.size, batch, length)}
        results["cases"][case] = entry
        steps = {"contenders": measure, "equality": compare, "stages": profile}
        for name, step in steps.items():
            entry[name] = step(options, case)
            if options.record:
                write_whole(options.record, json.dumps(results, indent=1) + "\n")
        show_profile(case, entry["stages"])
        show(case, entry["contenders"])
        print(f"equality at {case}: {entry['equality']}", flush=True)
    return 0 if all(found["passed"] for found in results["hashes"].values()) else 1


def compare(options: argparse.Namespace, case: str) -> dict[str, Any]:
    started = Worker(__file__, "--equality", *shared(options, case), **kept(options))
    try:
        return started.ask()
    except RuntimeError as error:
        return {"failed": str(error)}
    finally:
        started.close()


if __name__ == "__main__":
    sys.exit(main())
