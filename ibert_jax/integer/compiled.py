"""Compiling a program of integers for the CPU it runs on, and no small programs beside it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import get_opaque_trace_state

OPTIONS: dict[str, Any] = {
    # XLA emits vectors of 256 bits unless told otherwise, also where the CPU has twice as many.
    "xla_cpu_prefer_vector_width": 512,
    # Every operation already uses all threads; side by side they only wait for one another.
    "xla_cpu_enable_concurrency_optimized_scheduler": False,
}
"""How XLA compiles for CPU, where this version of it knows the option."""
_eager: Any = None
"""JAX's state when it was last found not to trace."""


def jit_program(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """``jax.jit(function, **options)``, compiled with ``OPTIONS``.

    JAX takes options for the compiler at the outermost ``jit`` only; called while another function
    is being traced, ``function`` is compiled with that one and as that one is.
    """
    nested = jax.jit(function, **options)

    @functools.cache
    def outermost() -> Callable[..., Any]:
        return jax.jit(function, **options, compiler_options=_accepted())

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        return (nested if _tracing() else outermost())(*arguments, **named)

    return call


def on_device(array: Any) -> jax.Array:
    """An array of NumPy's on the default device, or in the program that is being traced.

    ``jnp.asarray`` does the same, but compiles a program of its own for each new shape, 10 ms each.
    JAX's arrays stay where they are. Nobody may write to an array given here: a CPU reads it where
    it is.
    """
    if isinstance(array, jax.Array):
        return array
    return jnp.asarray(array) if _tracing() else jax.device_put(array)


def _tracing() -> bool:
    """Whether what is computed now goes into a program that is being traced."""
    global _eager
    # A transfer tells, but takes 0.3 ms when a program has swept the caches. JAX's state tells
    # nothing by itself; but one that a transfer was made in is known again.
    state = get_opaque_trace_state()
    if state == _eager:
        return False
    tracing = isinstance(jax.device_put(np.uint32(0)), Tracer)  # compiles nothing by itself
    if not tracing:
        _eager = state
    return tracing


@functools.cache
def _accepted() -> dict[str, Any]:
    """The options that this version of XLA knows."""
    if _known(OPTIONS):
        return OPTIONS
    return {name: value for name, value in OPTIONS.items() if _known({name: value})}


def _known(options: dict[str, Any]) -> bool:
    try:
        jax.jit(lambda: np.uint32(0), compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return False
    return True
