"""Compiling a program of integers for the CPU it runs on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

WIDE_VECTORS = {"xla_cpu_prefer_vector_width": 512}
"""XLA emits vectors of 256 bits unless told otherwise, also where the CPU has twice as many."""


def jit_program(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """``jax.jit(function, **options)`` that uses the CPU's whole vectors.

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


def _tracing() -> bool:
    """Whether what is computed now goes into a program that is being traced."""
    return isinstance(lax.clz(jnp.uint32(1)), Tracer)


def _accepted() -> dict[str, Any]:
    """The options, if this version of XLA knows them."""
    try:
        jax.jit(lambda: jnp.int32(0), compiler_options=WIDE_VECTORS)()
    except jax.errors.JaxRuntimeError:
        return {}
    return WIDE_VECTORS
