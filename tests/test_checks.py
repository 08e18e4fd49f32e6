"""Arguments are refused by a sentence, or pass without a word."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibert_jax import checks

IDS = np.array([[3, 4, 0], [9, 0, 0]], np.int64)


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
)
def test_ids_of_any_integer_dtype_pass(dtype: type):
    checks.check_token_ids(IDS.astype(dtype), 10)
    checks.check_token_ids(jnp.asarray(IDS.astype(np.int32)), 10)


def labels(kind: str | None, values: object, num_labels: int = 3) -> Callable[[], None]:
    return lambda: checks.check_labels(np.asarray(values), 2, num_labels, kind)


SINGLE, MULTI = "single_label_classification", "multi_label_classification"
BAD: dict[str, tuple[type[Exception], Callable[[], None], str]] = {
    "id too large": (
        ValueError,
        lambda: checks.check_token_ids(IDS, 9),
        r"input_ids must lie in 0\.\.8, got 9 at index \[1, 0\]; is the tokenizer",
    ),
    "negative id": (ValueError, lambda: checks.check_token_ids(-IDS, 10), "got -3"),
    "rank 1": (ValueError, lambda: checks.check_token_ids(IDS[0], 10), r"\[3\]; add a batch"),
    "empty": (ValueError, lambda: checks.check_token_ids(IDS[:, :0], 10), r"got \[2, 0\]"),
    "no ids": (ValueError, lambda: checks.check_token_ids(np.asarray([]), 10), r"got \[0\]"),
    "float ids": (
        TypeError,
        lambda: checks.check_token_ids(IDS.astype(np.float32), 10),
        "must hold integers, got dtype float32",
    ),
    "list": (TypeError, lambda: checks.check_token_ids(IDS.tolist(), 10), "got list"),
    "bool ids": (TypeError, lambda: checks.check_token_ids(IDS > 1, 10), "got dtype bool"),
    "embeddings' width": (
        ValueError,
        lambda: checks.check_embeddings(np.zeros((1, 2, 3), np.float32), 4),
        r"\[batch, sequence, 4\], got \[1, 2, 3\]",
    ),
    "integer embeddings": (
        TypeError,
        lambda: checks.check_embeddings(np.zeros((1, 2, 4), np.int32), 4),
        "floating-point, got int32",
    ),
    "neither": (ValueError, lambda: checks.check_one_input(None, None), "got neither"),
    "both": (ValueError, lambda: checks.check_one_input(IDS, IDS), "got both"),
    "length": (ValueError, lambda: checks.check_length(6, 5), "at most 5 tokens, got 6; truncate"),
    "mask's shape": (
        ValueError,
        lambda: checks.check_mask(IDS, (2, 4)),
        r"attention_mask must have the inputs' shape \[2, 4\], got \[2, 3\]",
    ),
    "mask's values": (
        ValueError,
        lambda: checks.check_mask(np.array([[1.0, -np.inf]]), (1, 2)),
        "got -inf; additive",
    ),
    "token type": (ValueError, lambda: checks.check_token_types(IDS, (2, 3), 2), "in 0..1, got 3"),
    "types' shape": (ValueError, lambda: checks.check_token_types(IDS, (3, 3), 9), r"\[3, 3\]"),
    "position": (ValueError, lambda: checks.check_position_ids(IDS, (2, 3), 9), "got 9 at"),
    "label": (ValueError, labels(SINGLE, [0, 3]), r"in 0\.\.2 or -100, got 3.*num_labels=3"),
    "negative label": (ValueError, labels(SINGLE, [-1, 0]), "got -1"),
    "labels' shape": (ValueError, labels(SINGLE, [[0], [1]]), r"\[2\] for single.*got \[2, 1\]"),
    "float labels": (TypeError, labels(SINGLE, [0.0, 1.0]), "must hold integers"),
    "multi-label shape": (ValueError, labels(MULTI, [1.0, 0.0]), r"shape \[2, 3\]"),
    "multi-label value": (ValueError, labels(MULTI, np.full((2, 3), 2.0)), "between 0 and 1"),
    "regression NaN": (ValueError, labels("regression", [0, np.nan], 1), "finite"),
    "regression shape": (ValueError, labels("regression", [0, 1], 3), r"\[2, 3\] for regression"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_named(case: str):
    kind, call, message = BAD[case]
    with pytest.raises(kind, match=message):
        call()


def test_good_arguments_pass():
    checks.check_one_input(IDS, None)
    checks.check_one_input(None, IDS)
    checks.check_length(5, 5)
    checks.check_embeddings(jnp.zeros((1, 2, 4), jnp.bfloat16), 4)
    for dtype in (np.bool_, np.int32, np.float32):
        checks.check_mask((IDS > 0).astype(dtype), (2, 3))
    checks.check_token_types(np.zeros((1, 3), np.int32), (2, 3), 1)
    checks.check_position_ids(IDS, (2, 3), 10)
    for call in (
        labels(SINGLE, [2, -100]),
        labels(MULTI, np.full((2, 3), 0.5)),
        labels(MULTI, np.ones((2, 3), np.int32)),
        labels("regression", [0.5, -7], 1),
        labels("regression", [[0.5], [-7]], 1),
        labels("regression", np.ones((2, 3))),
    ):
        call()


def test_the_problem_is_inferred_as_hugging_face_does():
    infer = checks.infer_problem_type
    integers, floats = np.zeros(2, np.int64), np.zeros(2, np.float32)
    assert infer(None, 1, integers) == "regression"
    assert infer(None, 2, integers) == SINGLE
    assert infer(None, 2, floats) == MULTI
    assert infer("regression", 2, integers) == "regression"


def test_tracers_are_checked_for_shape_only():
    def traced(ids: jax.Array) -> jax.Array:
        checks.check_token_ids(ids, 2)
        checks.check_mask(ids, ids.shape)
        checks.check_labels(ids[:, 0], ids.shape[0], 2)
        return ids

    assert jax.jit(traced)(IDS.astype(np.int32)).shape == IDS.shape
    with pytest.raises(ValueError, match="add a batch dimension"):
        jax.jit(traced)(IDS[0].astype(np.int32))
