"""Compiler options where they may be given, and none where they may not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibert_jax.integer import compiled
from ibert_jax.integer.compiled import jit_program


def test_outermost_nested_and_mapped() -> None:
    doubled = jit_program(lambda x, *, by: x * by, static_argnames="by")
    x = jnp.arange(3)
    for call in (doubled, jax.jit(doubled, static_argnames="by")):
        assert call(x, by=2).tolist() == [0, 2, 4]
    assert jax.vmap(lambda x: doubled(x, by=3))(x).tolist() == [0, 3, 6]
    # Nothing that is traced is handed over, and still it is a part of what is being traced.
    assert jax.jit(lambda: doubled(x, by=2))().tolist() == [0, 2, 4]


def test_tracing_is_told_whatever_was_asked_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_eager", None)
    told = []

    def ask(x: jax.Array) -> jax.Array:
        told.append(compiled.tracing())
        return x

    x = jnp.arange(3)
    jax.jit(ask)(x)  # before it was ever asked outside
    ask(x)
    ask(x)
    jax.vmap(ask)(x)  # what does not depend on x is computed now
    jax.jit(jax.vmap(ask))(x)
    ask(x)
    jax.make_jaxpr(lambda x: ask(x))(x)  # a function of its own: ask was traced before
    assert told == [True, False, False, False, True, False, True]


def test_a_compiler_that_does_not_know_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(compiled._known({name: value}) for name, value in compiled.OPTIONS.items())
    known = dict(compiled.OPTIONS)
    monkeypatch.setattr(compiled, "OPTIONS", known | {"xla_cpu_no_such_option": 1})
    assert compiled.compiler_options.__wrapped__() == known


def test_on_a_gpu_no_kernel_is_taken_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiled.compiler_options.__wrapped__() == {"xla_gpu_autotune_level": 4}


def test_what_was_freed_is_given_back_before_a_program_is_compiled_and_before_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    monkeypatch.setattr(compiled, "LARGE", dict.fromkeys(compiled.LARGE, 0.0))
    monkeypatch.setattr(compiled, "trim", lambda: seen.append("given back"))
    run = jit_program(lambda x: jax.pure_callback(lambda x: seen.append("ran") or x, x, x) + 1)
    x = np.zeros(3, np.int32)
    assert run(x).tolist() == run(x).tolist() == [1, 1, 1]
    assert seen == ["given back", "given back", "ran", "ran"]
    jax.jit(lambda x: x * 5)(x)  # somebody else's
    assert len(seen) == 4


def test_memory_is_given_back() -> None:
    """Of what was in use, nothing is lost."""
    kept = np.arange(10**6)
    compiled.trim()
    assert kept.sum() == 499_999_500_000


MINIMUM = "jax_persistent_cache_min_compile_time_secs"


def test_the_cache_rests_until_the_last_program_is_done() -> None:
    before, cache = getattr(jax.config, MINIMUM), compiled._Cache()
    cache.pause()
    cache.pause()
    cache.resume()
    assert getattr(jax.config, MINIMUM) == float("inf")
    cache.resume()
    assert getattr(jax.config, MINIMUM) == before


def test_the_cache_rests_until_the_outermost_program_is_compiled() -> None:
    before = getattr(jax.config, MINIMUM)
    with compiled.own_program():
        compiled.keep_out_of_cache()
        with compiled.own_program():
            pass
        assert getattr(jax.config, MINIMUM) == float("inf")
    assert getattr(jax.config, MINIMUM) == before
