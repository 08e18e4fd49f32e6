"""What is wrong with a setting, in a sentence."""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
from typing import Any

import numpy as np


def plain_number(value: Any) -> Any:
    """A number or bool of NumPy's or JAX's as Python's; anything else as it is."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    try:
        return operator.index(value)
    except TypeError:
        return float(value) if isinstance(value, numbers.Real) else value


def settle_numbers(settings: Any) -> None:
    """Make the numbers among a frozen dataclass's fields Python's, in place."""
    for field in dataclasses.fields(settings):
        value = plain_number(getattr(settings, field.name))
        object.__setattr__(settings, field.name, value)


def number_problem(name: str, value: object, low: float, high: float, kind: type) -> str | None:
    """A sentence if ``value`` is no ``kind`` within [low, high]; an int passes for a float."""
    wanted = "an integer" if kind is int else "a number"
    allowed = (int,) if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed):
        return f"{name} must be {wanted}, got {value!r}"
    if not low <= value <= high or not math.isfinite(value):
        bounds = f"at least {low}" if math.isinf(high) else f"between {low} and {high}"
        return f"{name} must be {wanted} {bounds}, got {value!r}"
    return None


def choice_problem(name: str, value: object, choices: tuple[str, ...]) -> str | None:
    if value in choices:
        return None
    return f"{name} must be one of {', '.join(choices)}, got {value!r}"


def flag_problem(name: str, value: object) -> str | None:
    return None if isinstance(value, bool) else f"{name} must be True or False, got {value!r}"


def raise_if_any(owner: str, problems: list[str | None]) -> None:
    found = [problem for problem in problems if problem]
    if found:
        raise ValueError(f"{owner}: " + "; ".join(found))
