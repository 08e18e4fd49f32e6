"""Where does a forward pass spend its time on the device? By stage of the network.

XLA names every kernel after an instruction of the compiled program, whose metadata name the leaf
of the network (``encoder.stacked.attention.output.dense``) that it came from.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LEAF = re.compile(r"jit\((\w+(?:\.\w+)+)\)")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*?op_name=\"([^\"]*)\"", re.MULTILINE)
FORWARDS = 3
AROUND = ("while", "conditional", "call")


def stages(forward: Any) -> dict[str, dict[str, Any]]:
    """Milliseconds a forward pass and number of kernels, by leaf, the most expensive first.

    What stands outside of leaves is found under its own name. Kernels that run side by side
    count each in full.
    """
    import jax

    forward.wait(forward.launch())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(FORWARDS):
                result = forward.launch()
            forward.wait(result)
        (path,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
        events = list(_device_events(data))
    origins = _origins(forward.compiled.as_text())
    seconds: Counter[str] = Counter()
    kernels: Counter[str] = Counter()
    each: dict[str, Counter[str]] = {}
    for instruction, kernel, duration in events:
        if instruction.startswith(AROUND):  # on a CPU, where these are events of their own
            continue
        stage = _stage(origins, instruction, kernel)
        seconds[stage] += duration
        kernels[stage] += 1
        each.setdefault(stage, Counter())[instruction or kernel] += duration
    return {
        stage: {
            "ms": total * 1e-6 / FORWARDS,
            "kernels": kernels[stage] / FORWARDS,
            "ms_by_kernel": {
                name: round(part * 1e-6 / FORWARDS, 6) for name, part in each[stage].most_common()
            },
        }
        for stage, total in seconds.most_common()
    }


def _device_events(data: Any) -> Iterator[tuple[str, str, float]]:
    """(HLO instruction, kernel's name, nanoseconds) of all that ran on the device."""
    planes = [plane for plane in data.planes if plane.name.startswith("/device:GPU")]
    for plane in planes or data.planes:
        for line in plane.lines:
            # Beside the streams there are lines that sum up: modules, operations, steps.
            if planes and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                found = dict(event.stats)
                if planes or "hlo_op" in found:
                    yield str(found.get("hlo_op", "")), event.name, event.duration_ns


def _origins(hlo: str) -> dict[str, str]:
    """HLO instruction -> the path of calls that it came from."""
    return {_plain(name): origin for name, origin in INSTRUCTION.findall(hlo)}


def _stage(origins: dict[str, str], instruction: str, kernel: str) -> str:
    for name in (instruction, kernel):
        origin = origins.get(_plain(name))
        if origin is not None:
            leaves = LEAF.findall(origin)
            return leaves[-1] if leaves else origin.rsplit("/", 1)[-1] or name
    return instruction or kernel


def _plain(name: str) -> str:
    """As kernels are named after instructions."""
    return re.sub(r"[.\-]", "_", name)
