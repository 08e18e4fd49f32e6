"""The kernels' known errors, as ``benchmarks/kernel_error.py`` measures them, stay known."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kernel_error.py"


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    """The benchmark script as a module."""
    specification = importlib.util.spec_from_file_location("kernel_error", SCRIPT)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["kernel_error"] = module  # its dataclass looks itself up
    specification.loader.exec_module(module)
    return module


def by_name(errors: Iterable[Any]) -> dict[tuple[str, str], Any]:
    return {(e.kernel, e.inputs): e for e in errors}


def test_exponential(measure: ModuleType) -> None:
    (found,) = measure.exponential()
    assert found.inputs == "all 61441"
    assert found.worst <= 2.0e-3  # the real-valued polynomial has 1.913e-3


def test_gelu_on_every_grid(measure: ModuleType) -> None:
    errors = by_name(measure.gelu())
    assert len(errors) == 14
    for (_, inputs), found in errors.items():
        assert found.worst <= 0.0185  # the real-valued polynomial has 0.01815
        if inputs.endswith("[-4, 4]"):
            assert found.rms <= 0.0083  # and 0.00819


def test_tanh(measure: ModuleType) -> None:
    (found,) = measure.hyperbolic_tangent()
    assert found.inputs.startswith("all 65536")
    assert found.worst <= 1.6e-3


def test_softmax(measure: ModuleType) -> None:
    errors = by_name(measure.softmax())
    # A weight errs most where many keys lie around half a step of the 8-bit numerators and all
    # of them round one way: the row's sum is then off by (keys / 2) / 255.
    for keys, worst in ((8, 0.005), (128, 0.035), (512, 0.06)):
        inputs = f"408 rows of {keys}"
        assert errors["softmax", inputs].worst <= worst
        assert errors["softmax", inputs].rms <= 6e-4
        # The numerators sum to their row sum; what is left is float64's own rounding.
        assert errors["softmax: sum of a row", inputs].worst <= 1e-15
        # As published, the floors lose mass, more with every key.
        assert errors["softmax, published: sum of a row", inputs].worst > 0.03


def test_the_context_sees_rows_that_sum_to_one(measure: ModuleType) -> None:
    (found,) = measure.row_sum_division()
    assert found.inputs == "all 130306 row sums"
    # One unit of the reciprocal's last place: it has 15 bits, so a unit is at most 2^-14 of it.
    assert found.worst <= 2.0**-14


def test_layernorm_down_to_a_thousandth_of_the_range(measure: ModuleType) -> None:
    assert measure.QUIETEST == measure.LOUDEST // 1000
    for found in measure.layernorm((64, 1024)):
        assert found.worst <= 0.003
