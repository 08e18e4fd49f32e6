"""What figures were measured with: the device and the versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

THREADS = len(os.sched_getaffinity(0))
"""That contenders on a CPU may use."""


def device_name() -> str:
    """What JAX computes on: an accelerator by its name, a CPU by its model and threads."""
    import jax

    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    return f"{cpu_name()}, {THREADS} threads"


def cpu_name() -> str:
    """The processor's model, where the system tells."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Python's, and of the packages those that are there."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
