"""Tracing the program that is asked about, and not one that JAX takes for the same."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def unremembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, but one of which JAX cannot remember anything.

    JAX (0.10, 0.11) holds the trees of two dataclasses with fields of the same names for equal.
    Their hashes differ, but not always enough for its caches: for about one pair of classes in a
    hundred, a function traced for one answered for the other. What ``function`` itself has jitted
    is not covered.
    """

    @functools.wraps(function)
    def own(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return own
