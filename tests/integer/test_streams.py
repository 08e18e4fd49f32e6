"""Programs side by side: each stream in its order, and one stream alone wherever asked for."""

from __future__ import annotations

import os
import threading
import time

import jax
import numpy as np
import pytest

from ibert_jax.integer.streams import dispatch, streams

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="for CPUs")


def test_a_core_a_stream_on_a_single_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2, 5}, raising=False)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert streams() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert streams() == 4
    with jax.default_device(jax.devices()[0]):
        assert streams() == 1, "other threads would not know of it"
    with jax.disable_jit():
        assert streams() == 1
    traced = []
    jax.jit(lambda x: traced.append(streams()) or x)(np.int32(0))
    assert traced == [1]
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert streams() == 1


def test_a_stream_keeps_its_order_and_waits_for_no_other() -> None:
    other, done = threading.Event(), []

    def first() -> str:
        assert other.wait(60)  # nothing but the other stream ends this
        done.append("first")
        return threading.current_thread().name

    one = dispatch(0, first)
    two = dispatch(0, done.append, "second")
    dispatch(1, other.set).result()
    assert one.result() != threading.current_thread().name
    two.result()
    assert done == ["first", "second"]


def test_no_stream_is_the_thread_itself_and_errors_reach_the_caller() -> None:
    assert dispatch(None, threading.get_ident).result() == threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        dispatch(None, lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        dispatch(1, lambda: 1 // 0).result()
    assert dispatch(1, time.perf_counter).result() > 0, "and it goes on"
