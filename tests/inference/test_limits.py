# ruff: noqa: F811 (fixtures of a neighbour, by name)
"""Ends of windows, of stretches and of what is taken for an answer."""

from __future__ import annotations

import numpy as np
import pytest

from ibert_jax.inference import Predictor, Source, interpret, predict_file
from ibert_jax.inference import predictor as predictor_module
from ibert_jax.inference.lengths import GrowingLengths
from ibert_jax.tokenizer import Tokenizer

from .conftest import CountingProgram, make_config
from .test_tasks import ANSWERS, ENTITIES
from .test_tasks import tokenizer as words_tokenizer  # noqa: F401


def test_a_token_counts_where_it_lies_furthest_from_an_edge(words_tokenizer: Tokenizer) -> None:
    task = Predictor(ENTITIES, words_tokenizer, max_length=16, overlap=5).task
    text = "in " * 20
    (stretches,) = task.encode([text])
    assert [len(s.ids) for s in stretches] == [16, 12]
    outside, person = np.eye(5)[:2] * 8
    parts = [
        np.tile(row, (len(s.ids), 1)) for row, s in zip((outside, person), stretches, strict=True)
    ]
    found = task.answer(text, stretches, parts)
    # Words 10 to 13 are in both.
    assert [entity.start for entity in found.entities] == [3 * word for word in range(12, 20)]


def test_one_stretch_may_hold_the_answer_that_others_do_not(words_tokenizer: Tokenizer) -> None:
    task = Predictor(ANSWERS, words_tokenizer, max_length=12, overlap=2, no_answer=True).task
    row = ("where ?", "anna lives in and bob " * 3 + "new york")
    (stretches,) = task.encode([row])
    assert len(stretches) > 1
    parts = [np.zeros((2, len(s.ids)), np.float32) for s in stretches]
    for part in parts:
        part[:, 0] = 20
    parts[-1][:, 0] = 1
    first, last = np.flatnonzero(stretches[-1].texts == 1)[-2:]
    parts[-1][0, first] = parts[-1][1, last] = 8
    assert task.answer(row, stretches, parts).answer == "new york"
    parts[-1][:, 0] = 9
    assert task.answer(row, stretches, parts).answer == ""


def test_answers_are_no_longer_than_asked_for(words_tokenizer: Tokenizer) -> None:
    row = ("where ?", "in new and bob york")
    (long,), (short,) = (
        Predictor(ANSWERS, words_tokenizer, max_answer_tokens=most)([row]) for most in (4, 3)
    )
    assert long.answer == "new and bob york"
    assert len(short.answer.split()) <= 3


def test_one_half_is_not_above_one_half() -> None:
    config = make_config(problem_type="multi_label_classification")
    assert interpret(np.asarray([0.0, 1.0], np.float32), config)[0] == "positive"


def test_a_length_that_joined_takes_what_it_spared_along() -> None:
    """What other lengths would have spared is counted anew from the new one."""
    lengths = GrowingLengths(128)
    lengths.compiled(2.0)
    lengths.computed(1000, 2.5)  # 2 seconds are 800 tokens
    assert [lengths.choose(8, 49) for _ in range(9)] == [64] * 8 + [52]
    assert [lengths.choose(8, 53) for _ in range(13)] == [64] * 12 + [56]


def test_two_tokens_are_too_few(program: CountingProgram, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"max_length from 3 to 48, .* got 2"):
        Predictor(program, tokenizer, max_length=2)


def test_windows_of_long_texts_end_sooner(program, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(predictor_module, "_WINDOW_CHARACTERS", 20)
    found = Predictor(program, tokenizer).stream(["good film"] * 7)
    assert [len(window) for window in found] == [3, 3, 1]


def test_what_was_cut_is_counted(program, tokenizer) -> None:
    predictor = Predictor(program, tokenizer, max_length=5)
    predictor(["good " * 9, "good", "bad " * 9])
    assert predictor.statistics.truncated == 2


def test_a_kept_value_that_is_missing_spoils_its_row_alone(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "id": 1}\n{"text": "b"}\n{"text": "c", "id": null}\n')
    rows = list(Source(path, columns=["text"], keep=["id"]))
    assert [row.problem for row in rows] == [None, "no value for id", "no value for id"]


def test_half_a_character_in_a_kept_value_is_written_as_it_was(
    program, tokenizer, tmp_path
) -> None:
    path, output = tmp_path / "rows.jsonl", tmp_path / "answers.tsv"
    path.write_text('{"text": "good film", "id": "\\ud800"}\n')
    predict_file(Predictor(program, tokenizer), Source(path, columns=["text"], keep=["id"]), output)
    assert output.read_text().splitlines()[1].startswith("1\t\\ud800\t")
