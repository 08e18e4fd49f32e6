"""Compiling a program of integers for the CPU it runs on, and no small programs beside it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import re
import threading
from collections.abc import Callable, Iterator
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
GPU_OPTIONS: dict[str, Any] = {
    # Kernels are chosen by timing them, and those with wrong results are left out (level 4, the
    # usual one). The kernel that XLA takes unseen, at level 0, is wrong for products of int8 (JAX
    # 0.11.2 on an H200: twice the product at K = 16, nonsense at K = 384).
    "xla_gpu_autotune_level": 4,
}
"""The same for GPUs: what ``XLA_FLAGS`` say does not weaken it."""
LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
"""What JAX tells listeners when it has written a program down, before XLA compiles it."""
COMPILED = "/jax/core/compile/backend_compile_duration"
"""The same when XLA has compiled something, before it runs."""
LARGE = {LOWERED: 0.05, COMPILED: 0.2}
"""Seconds of each that leave memory worth giving back."""
_eager: Any = None
"""JAX's state when it was last found not to trace."""


def jit_program(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """``jax.jit(function, **options)``, compiled with ``OPTIONS``, or those for a GPU.

    JAX takes options for the compiler at the outermost ``jit`` only; called while another function
    is being traced, ``function`` is compiled with that one and as that one is.
    """
    nested = jax.jit(function, **options)

    @functools.cache
    def outermost() -> Callable[..., Any]:
        _listen()
        return jax.jit(function, **options, compiler_options=compiler_options())

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        if tracing():
            return nested(*arguments, **named)
        with own_program():
            return outermost()(*arguments, **named)

    return call


class _Own(threading.local):
    """Of a thread: how many ``own_program`` it is in, and whether one is kept out of the cache."""

    depth = 0
    uncached = False


_own = _Own()


@contextlib.contextmanager
def own_program() -> Iterator[None]:
    """What is lowered and compiled in here is a program of this package's own.

    It is not part of another function, which others may compile, write down or take elsewhere.
    """
    _own.depth += 1
    try:
        yield
    finally:
        _own.depth -= 1
        if _own.uncached and not _own.depth:
            _own.uncached = False
            _cache.resume()


def in_own_program() -> bool:
    """Whether this thread is inside of ``own_program``."""
    return _own.depth > 0


def keep_out_of_cache() -> None:
    """Let JAX's compilation cache leave out the program that is being lowered."""
    if not _own.uncached:
        _own.uncached = True
        _cache.pause()


class _Cache:
    """JAX's compilation cache, which some thread wants to write nothing to."""

    _MINIMUM = "jax_persistent_cache_min_compile_time_secs"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pauses = 0
        self._minimum = 0.0

    def pause(self) -> None:
        """Nothing takes so long to compile that it is written."""
        with self._lock:
            if not self._pauses:
                self._minimum = getattr(jax.config, self._MINIMUM)
                jax.config.update(self._MINIMUM, math.inf)
            self._pauses += 1

    def resume(self) -> None:
        """The inverse, once for each pause."""
        with self._lock:
            self._pauses -= 1
            if not self._pauses:
                jax.config.update(self._MINIMUM, self._minimum)


_cache = _Cache()


def on_device(array: Any) -> jax.Array:
    """An array of NumPy's on the default device, or in the program that is being traced.

    ``jnp.asarray`` does the same, but compiles a program of its own for each new shape, 10 ms each.
    JAX's arrays stay where they are. Nobody may write to an array given here: a CPU reads it where
    it is.
    """
    if isinstance(array, jax.Array):
        return array
    return jnp.asarray(array) if tracing() else jax.device_put(array)


def tracing() -> bool:
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
def _listen() -> None:
    jax.monitoring.register_event_duration_secs_listener(_give_back)


def _give_back(event: str, duration_secs: float, **_: Any) -> None:
    """Give back what was freed: by whoever loaded the model, before XLA's compiler takes its own.

    And by the compiler, 100 MB after a RoBERTa-base, before the program runs. The C library keeps
    it, in pieces that are too small for the arrays.
    """
    if duration_secs > LARGE.get(event, math.inf) and in_own_program():
        trim()


def trim() -> None:
    """Return free memory to the system; where the C library is not glibc, nothing."""
    with contextlib.suppress(OSError, TypeError, AttributeError):  # Windows; another C library
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def cpu_features() -> frozenset[str]:
    """What XLA's CPU backend compiles for, in LLVM's words ("avx512vnni"); none if it hides it.

    Read from what an executable says of the machine that it was compiled for, which takes 10 ms,
    asks no operating system, and heeds the flags that XLA was given.
    """
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]), jax.disable_jit(False):
            executable: Any = jax.jit(lambda: np.uint32(0)).lower().compile().runtime_executable()
        told: bytes = executable.serialize()
    except (RuntimeError, AttributeError):  # no CPU backend, or one that keeps this to itself
        return frozenset()
    return frozenset(name.decode() for name in re.findall(rb"\+([a-z0-9.-]+)", told))


@functools.cache
def compiler_options() -> dict[str, Any]:
    """``jit_program``'s options for this platform, those that this version of XLA knows."""
    wanted = GPU_OPTIONS if jax.default_backend() == "gpu" else OPTIONS
    if _known(wanted):
        return wanted
    return {name: value for name, value in wanted.items() if _known({name: value})}


def _known(options: dict[str, Any]) -> bool:
    try:
        jax.jit(lambda: np.uint32(0), compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return False
    return True
