"""Tracing the program that is asked about, and not one that JAX takes for the same."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def unknown(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, but one of which JAX cannot remember anything.

    JAX (0.10, 0.11) holds the trees of two dataclasses with fields of the same names for equal, and
    its caches look at seven bits of their hashes before they ask: one time in a hundred, a function
    that was traced for one class would answer for the other with what it remembers.
    """

    @functools.wraps(function)
    def own(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return own
