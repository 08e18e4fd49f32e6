"""Tracing the program that is asked about, and not one that JAX takes for the same."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax


def jitted(function: Callable[..., Any]) -> Any:
    """``jax.jit(function)`` that shares no trace with another; a jitted one as it is.

    JAX (0.10, 0.11) holds the trees of two dataclasses with fields of the same names for equal, and
    its caches look at seven bits of their hashes before they ask: one time in a hundred, a function
    that was traced for one class would answer for the other with what it remembers.
    """
    if hasattr(function, "trace"):
        return function

    @functools.wraps(function)
    def own(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return jax.jit(own)
