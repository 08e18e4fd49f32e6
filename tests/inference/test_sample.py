"""What a model is measured on is what its head is asked: pairs, contexts and choices included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ibert_jax.inference import TASKS, Sample, row_of
from ibert_jax.tokenizer import Tokenizer

from .conftest import make_config

PAD, SEP = 1, 2


@pytest.fixture
def tokenizer(tokenizer_directory: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_directory)


def sample(head: str, tokenizer: Tokenizer, rows: list[Any], **config: Any) -> Sample:
    task = TASKS[head](make_config(**config), tokenizer, 18)
    return Sample.of(task, [row_of(task, cells) for cells in rows])


def test_a_pair_is_one_encoding_with_its_types(tokenizer: Tokenizer) -> None:
    rows = [("good film", "very good"), ("bad", "bad")]
    for types in (1, 2):
        found = sample("sequence_classification", tokenizer, rows, type_vocab_size=types)
        (batch,) = found.batches(2)
        assert batch["input_ids"][0, :8].tolist() == [0, 4, 6, SEP, 7, 4, SEP, PAD]
        # Types that the model does not have are not handed to it.
        assert batch["token_type_ids"][0, :8].tolist() == [0, 0, 0, 0, *[types - 1] * 3, 0]
        assert batch["attention_mask"].sum() == 7 + 5


def test_choices_are_computed_one_by_one(tokenizer: Tokenizer) -> None:
    found = sample(
        "multiple_choice", tokenizer, [("film", ["good", "very bad"]), ("good", ["bad"])]
    )
    (batch,) = found.batches(3)
    assert {array.shape for array in batch.values()} == {(3, 1, 16)}
    assert found.last(1).parts == found.parts[1:]


@pytest.mark.parametrize("head", sorted(TASKS.keys() - {"masked_lm"}))  # these words have no mask
def test_a_lone_text_will_do(tokenizer: Tokenizer, head: str) -> None:
    (batch,) = sample(head, tokenizer, [("good film",)]).batches(4)
    assert batch["input_ids"].reshape(-1)[:4].tolist() == [0, 4, 6, SEP]


def test_two_shapes_at_most(tokenizer: Tokenizer) -> None:
    task = TASKS["model"](make_config(max_position_embeddings=102), tokenizer, 100)
    texts = ["good " * count for count in (3, 4, 20, 28, 29, 30, 50, 98)]
    shapes = [batch["input_ids"].shape for batch in Sample.of(task, texts).batches(1)]
    assert shapes == [(1, 100), (1, 100), *[(1, 32)] * 6]


def test_one_shape(tokenizer: Tokenizer) -> None:
    rows = [("good",), ("very very good film",), ("bad film",)]
    batches = sample("model", tokenizer, rows).of_one_shape(2)
    assert [batch["input_ids"].shape for batch in batches] == [(2, 16)]
    (batch,) = sample("model", tokenizer, rows).batches(8, length=6)
    assert batch["input_ids"].shape[1] == 6
    assert np.count_nonzero(batch["attention_mask"][0]) == 6


def test_a_row_that_the_task_cannot_have(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="expected columns for a text, got 2"):
        sample("model", tokenizer, [("good", "film")])
    with pytest.raises(TypeError, match="choice"):
        sample("multiple_choice", tokenizer, [("film", ["good", 3])])
