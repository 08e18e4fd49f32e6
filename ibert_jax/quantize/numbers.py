"""Literal constants as numbers (mantissa, exponent) in Python integers."""

from __future__ import annotations

import math


def python_number(x: float) -> tuple[int, int]:
    """A positive float as mantissa in [2^30, 2^31) and exponent, cut off to 31 bits."""
    fraction, exponent = math.frexp(x)
    return int(fraction * 2**31), exponent - 31
