"""The same integers everywhere: the committed hashes, on one device and on eight; whatever the
batch size, the padding and the order of the rows; compiled and step by step."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import ibert_jax as ib
from ibert_jax.frozen.network import unstack_layers

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "hashes.py"
TINY = ("channel", "reference")


@functools.cache
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("hashes", SCRIPT)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@functools.cache
def program(name: str) -> ib.IntegerModel:
    return ib.IntegerModel.load(script().directory(name))


@functools.cache
def outputs(name: str) -> dict[str, np.ndarray]:
    return script().integers(program(name), script().read_inputs(name))


@pytest.mark.parametrize("name", TINY)
def test_committed_hashes(name: str) -> None:
    assert script().sha256(outputs(name)) == script().expected()[name]
    for layer in range(3):
        hidden = outputs(name)[f".hidden_states[{layer}]"]
        assert hidden.shape == (8, 512, 16)
        assert len(np.unique(hidden)) > 200  # or equality would say little


def test_hash_sees_every_integer() -> None:
    found = {name: q.copy() for name, q in outputs("channel").items()}
    found[".logits"][7, 511, 99] ^= 1
    assert script().sha256(found) != script().expected()["channel"]


def elsewhere(flags: str, tmp_path: Path) -> dict[str, object]:
    """What the script records in a process whose XLA is given ``flags`` when it starts."""
    environment = {
        **os.environ,
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    record = tmp_path / "record.json"
    command = [sys.executable, str(SCRIPT), "--models", "channel", "--record", str(record)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (written,) = json.loads(record.read_text())
    assert f"PASS on {written['devices']} x" in done.stdout
    assert written["passed"] and written["sha256"] == {"channel": script().expected()["channel"]}
    return written


def test_eight_devices(tmp_path: Path) -> None:
    written = elsewhere("--xla_force_host_platform_device_count=8", tmp_path)
    assert written["devices"] == 8


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="an option of x86")
def test_a_processor_without_vnni(tmp_path: Path) -> None:
    """Its vectors are shorter and its products those of int8 by int8."""
    written = elsewhere("--xla_cpu_max_isa=AVX2", tmp_path)
    assert written["products"] == "int8 x int8"


def run(rows: list[int], length: int) -> np.ndarray:
    """Logits of some rows of the inputs, cut off to ``length``."""
    inputs = script().read_inputs("channel")
    arguments = {name: value[rows, :length] for name, value in inputs.items()}
    return np.asarray(program("channel").integers(**arguments).logits)


def test_batch_size_padding_and_order_change_nothing() -> None:
    whole = outputs("channel")[".logits"]
    order = [6, 2, 5, 0, 7, 4, 1, 3]
    assert np.array_equal(run(order, 512), whole[order])
    # Rows of 24, 7 and 1 tokens, padded to 24 rather than to 512.
    assert np.array_equal(run([4, 2, 3], 24), whole[[4, 2, 3], :24])


def test_step_by_step_is_compiled() -> None:
    """One row alone, not padded, its layers run one by one and outside of any compilation."""
    inputs = {name: value[[3], :7] for name, value in script().read_inputs("channel").items()}
    network = program("channel").network
    unstack_layers(network)
    logits = network(**inputs).logits
    assert np.array_equal(logits, outputs("channel")[".logits"][[3], :7])
