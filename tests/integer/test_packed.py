"""Matrices laid out for oneDNN: the same product, by oneDNN only where it answers for the shape."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibert_jax.integer import packed
from ibert_jax.integer.compiled import in_own_program, jit_program, own_program
from ibert_jax.integer.matmul import OneOf, int8_linear, shift_bias
from ibert_jax.integer.packed import Packed, answers, dot_u8_packed, more_than_a_product

HERE = answers(4, (64, 64))
"""Whether this machine's oneDNN is asked at all."""


def operands(rows: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8 rows, an int8 matrix, both with extremes, and their exact product."""
    draw = np.random.default_rng(rows)
    a = draw.integers(0, 256, (rows, shape[1]), np.uint8)
    matrix = draw.integers(-128, 128, shape, np.int8)
    a[0], matrix[0], matrix[-1] = 255, 127, -128
    return a, matrix, a.astype(np.int64) @ matrix.T.astype(np.int64)


def text(function: object, *arguments: object) -> str:
    return jax.jit(function).lower(*arguments).as_text()


def test_layout_is_the_one_that_is_told() -> None:
    matrix = np.arange(128 * 192).reshape(128, 192).astype(np.int8)
    laid_out = Packed.of(matrix)
    assert laid_out.shape == matrix.shape
    for b, c, r, i in [(0, 0, 0, 0), (1, 0, 3, 2), (0, 47, 63, 3), (1, 31, 5, 1)]:
        assert laid_out.blocks[b, c, r, i] == matrix[64 * b + r, 4 * c + i]
    assert np.array_equal(laid_out.matrix(), matrix)


def test_what_fits() -> None:
    assert Packed.fits((64, 768))
    assert not any(map(Packed.fits, [(64,), (64, 32), (96, 64), (0, 64), (2, 64, 64)]))


@pytest.mark.parametrize(("rows", "shape"), [(1, (64, 64)), (5, (128, 192)), (130, (64, 3072))])
def test_product_is_exact_however_it_is_run(rows: int, shape: tuple[int, int]) -> None:
    a, matrix, exact = operands(rows, shape)
    laid_out = jax.tree.map(jnp.asarray, Packed.of(matrix))
    results = {
        "own program": jit_program(dot_u8_packed)(a, laid_out),
        "jitted": jax.jit(dot_u8_packed)(a, laid_out),
        "eager": dot_u8_packed(jnp.asarray(a), laid_out),
        "mapped": jax.vmap(dot_u8_packed, (0, None))(jnp.asarray(a), laid_out),
        "of rows of rows": jit_program(dot_u8_packed)(a[None, :, None], laid_out)[0, :, 0],
    }
    for name, found in results.items():
        assert found.dtype == jnp.int32, name
        assert np.array_equal(found, exact), name


def test_matrices_that_are_mapped() -> None:
    a, matrix, exact = operands(6, (64, 64))
    pair = jax.tree.map(lambda x: jnp.stack([x, x]), Packed.of(matrix))
    assert np.array_equal(jax.vmap(dot_u8_packed)(jnp.stack([a, a]), pair)[1], exact)


def test_linear_layers_of_either_form_agree() -> None:
    _, matrix, _ = operands(1, (128, 64))
    q = np.random.default_rng(0).integers(-128, 128, (3, 5, 64)).astype(np.int8)
    bias = np.arange(128, dtype=np.int32)
    rest = bias, shift_bias(jnp.asarray(matrix), jnp.asarray(bias))
    plain = int8_linear(jnp.asarray(q), jnp.asarray(matrix), *map(jnp.asarray, rest))
    one = Packed.of(matrix)
    several = OneOf((Packed.of(-matrix), one), jnp.int32(1))
    for weight in (one, several):
        assert np.array_equal(jit_program(int8_linear)(q, weight, *rest), plain)


def test_onednn_is_called_in_own_programs_alone() -> None:
    a, matrix, _ = operands(8, (64, 128))
    laid_out = Packed.of(matrix)
    with own_program():
        assert (packed.TARGET in text(lambda a, m: dot_u8_packed(a, m), a, laid_out)) == HERE
    assert packed.TARGET not in text(lambda a, m: dot_u8_packed(a, m), a, laid_out)
    assert not in_own_program()


def test_onednn_that_answers_wrongly_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a version would that chooses another format."""
    other = {"onednn_matmul_config": {"transpose_b": True}}
    monkeypatch.setattr(packed, "CONFIG", other)
    rows, shape = 9, (128, 128)
    assert not answers.__wrapped__(rows, shape)
    monkeypatch.setattr(packed, "answers", answers.__wrapped__)
    a, matrix, exact = operands(rows, shape)
    found = jit_program(lambda a, m: dot_u8_packed(a, m))(a, Packed.of(matrix))
    assert np.array_equal(found, exact)


@pytest.mark.parametrize("held", [False, True])
def test_onednn_is_not_asked_on_other_processors(
    held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor held to the instructions of one: it might never answer."""
    monkeypatch.setattr(packed, "vectorized", lambda: held)
    if held:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setattr(packed, "_compiled", None)
    assert not answers.__wrapped__(8, (64, 64))


def test_onednn_that_is_not_there_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "TARGET", "__nobody$matmul")
    assert not answers.__wrapped__(11, (64, 128))
    assert not in_own_program()


def test_other_types_and_lengths_are_refused() -> None:
    a, matrix, _ = operands(2, (64, 64))
    with pytest.raises(TypeError, match="takes uint8 and int8 operands, got int8 and int8"):
        dot_u8_packed(jnp.asarray(a.astype(np.int8)), Packed.of(matrix))
    with pytest.raises(TypeError, match="expected rows of 64 elements, got 32"):
        dot_u8_packed(jnp.asarray(a[:, :32]), Packed.of(matrix))


def test_a_call_that_does_more_is_told_apart() -> None:
    assert not more_than_a_product(json.dumps(packed.CONFIG))
    inner = packed.CONFIG["onednn_matmul_config"]
    fused = {"onednn_matmul_config": {**inner, "fusions": {"ops": ["GELU_ERF"]}}}
    assert all(map(more_than_a_product, [json.dumps(fused), "{}", "", "no JSON"]))


CACHED = """
import sys, warnings
import jax, numpy as np
warnings.simplefilter("error")  # JAX warns of what it could not write
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
from ibert_jax.integer.compiled import jit_program
from ibert_jax.integer.packed import Packed, dot_u8_packed

def packed_product(a, matrix):
    return dot_u8_packed(a, matrix)

def another(a):
    return a + a

a = np.ones((8, 64), np.uint8)
jit_program(packed_product)(a, Packed.of(np.ones((64, 64), np.int8)))
assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.0
jit_program(another)(a)
"""


def test_compilation_cache_never_sees_it(tmp_path: Path) -> None:
    """It would read what is not there; what is compiled afterwards is written again."""
    done = subprocess.run(
        [sys.executable, "-c", CACHED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    written = {path.name.split("-")[0] for path in tmp_path.iterdir()}
    assert "jit_another" in written
    assert ("jit_packed_product" in written) != HERE
