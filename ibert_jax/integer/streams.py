"""Programs side by side on a CPU, in streams.

The operations of one program divide their rows among all cores, wait for each other, and read what
another core has just written, which is slow where cores share no cache. Programs side by side wait
for nothing and share what they only read.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from ibert_jax.integer.compiled import tracing


def streams() -> int:
    """How many programs may run side by side where the caller's next one runs.

    The cores of this process on a CPU; 1 on other platforms, among several devices, while tracing,
    and where JAX was told, perhaps for this thread alone, to compile nothing or to use a device.
    """
    if tracing() or jax.default_backend() != "cpu" or jax.device_count() != 1:
        return 1
    settings: Any = jax.config
    if settings.jax_disable_jit or settings.jax_default_device is not None:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def dispatch(stream: int | None, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Call a function that dispatches a program, in a stream: it waits for those before it there.

    JAX computes one after the other what one thread dispatches; hence a thread for each stream.
    stream: None for the caller's own thread, whose call this then is.
    """
    if stream is not None:
        return _thread(stream).submit(function, *arguments)
    called: Future[Any] = Future()
    called.set_result(function(*arguments))
    return called


@functools.cache
def _thread(stream: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix=f"ibert_jax_stream_{stream}")
