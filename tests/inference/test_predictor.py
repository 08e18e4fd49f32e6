"""Answers are right, in input order, and independent of how the texts were batched."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from ibert_jax.inference import Predictor, interpret, load_classifier
from ibert_jax.inference.buckets import Batch
from ibert_jax.tokenizer import Encoding, Tokenizer
from ibert_jax.training import load_task
from ibert_jax.training.evaluation import answering

from .conftest import CountingProgram, make_config, never_compile_more

TEXTS = [
    "very good film",
    "bad",
    "good good bad film",
    "film " * 40 + "good",
    "very very very very bad film film film film film film film film film film film",
    "",
    "good",
]
COUNTS = [[0, 1], [1, 0], [1, 2], [0, 1], [1, 0], [0, 0], [0, 1]]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_logits_do_not_depend_on_batching(
    program: CountingProgram, tokenizer: Tokenizer, batch_size: int
) -> None:
    predictor = Predictor(program, tokenizer, batch_size=batch_size)
    np.testing.assert_array_equal(predictor.logits(TEXTS), np.asarray(COUNTS, np.float32))


def test_many_windows_keep_the_order(program: CountingProgram, tokenizer: Tokenizer) -> None:
    predictor = Predictor(program, tokenizer, batch_size=2)  # windows of 64 texts
    texts = ["good " * (index % 9) + "bad " * (index % 4) for index in range(300)]
    answers = list(predictor.predict(iter(texts)))
    assert [answer.text for answer in answers] == texts
    got = predictor.logits(texts)
    np.testing.assert_array_equal(got, [[i % 4, i % 9] for i in range(300)])


def test_answers(program: CountingProgram, tokenizer: Tokenizer) -> None:
    first, second, third = Predictor(program, tokenizer)(TEXTS[:3])
    half = math.e / (math.e + 1)
    assert (first.label, second.label, third.label) == ("positive", "negative", "positive")
    assert first.score == pytest.approx(half)
    assert second.probabilities == pytest.approx({"negative": half, "positive": 1 - half})
    assert third.tokens == 6  # four words and two special tokens
    assert not third.truncated


def test_truncation_is_explicit(program: CountingProgram, tokenizer: Tokenizer) -> None:
    predictor = Predictor(program, tokenizer, max_length=6)
    answers = predictor(["good good good good", "good good good good bad"])
    assert [answer.tokens for answer in answers] == [6, 6]
    assert [answer.truncated for answer in answers] == [False, True]
    assert predictor.statistics.truncated == 1
    np.testing.assert_array_equal(predictor.logits(["good good good good bad"]), [[0, 4]])


def test_positions_bound_the_length(program: CountingProgram, tokenizer: Tokenizer) -> None:
    longest = 48  # 50 positions, of which those up to the padding index are unused
    assert Predictor(program, tokenizer).max_length == longest
    answer = Predictor(program, tokenizer)(["film " * 1000])[0]
    assert (answer.tokens, answer.truncated) == (longest, True)
    with pytest.raises(ValueError, match=f"max_length from 3 to {longest}.*got 49"):
        Predictor(program, tokenizer, max_length=49)


def test_statistics_count_real_tokens(program: CountingProgram, tokenizer: Tokenizer) -> None:
    predictor = Predictor(program, tokenizer, batch_size=4)
    never_compile_more(predictor)
    predictor(["good film", "bad"] * 10)
    statistics = predictor.statistics
    assert (statistics.rows, statistics.tokens, statistics.padded_tokens) == (20, 70, 20 * 16)
    assert statistics.tokens_per_second == pytest.approx(70 / statistics.seconds)
    predictor.reset_statistics()
    assert (predictor.statistics.rows, predictor.statistics.tokens_per_second) == (0, 0.0)


def test_few_shapes(program: CountingProgram, tokenizer: Tokenizer) -> None:
    predictor = Predictor(program, tokenizer, batch_size=4)
    never_compile_more(predictor)
    shapes = set()
    compute = predictor._engine.compute

    def spy(batch: Batch, encodings: Sequence[Encoding], whole: bool) -> object:
        shapes.add(batch.input_ids.shape)
        return compute(batch, encodings, whole)

    predictor._engine.compute = spy
    for count in range(1, 12):
        predictor(["film " * length for length in range(0, 60, 60 // count)])
    lengths, rows = {16, 32, 48}, {1, 4}
    assert shapes <= set(itertools.product(rows, lengths))


def test_no_texts(program: CountingProgram, tokenizer: Tokenizer) -> None:
    predictor = Predictor(program, tokenizer)
    assert predictor([]) == []
    assert predictor.logits([]).shape == (0, 2)


def test_one_string_is_refused(program: CountingProgram, tokenizer: Tokenizer) -> None:
    predictor = Predictor(program, tokenizer)
    for ask in (predictor, predictor.predict, predictor.stream, predictor.logits):
        with pytest.raises(TypeError, match="put it in a list"):
            list(ask("good film"))
        with pytest.raises(TypeError, match="got a mapping; pass the list in it"):
            list(ask({"text": ["good film"]}))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"batch_size": 2.5}, "batch_size must be an integer, got 2.5"),
        ({"batch_size": True}, "batch_size must be an integer, got True"),
        ({"batch_size": 0}, "batch_size must be an integer at least 1, got 0"),
        ({"max_length": "10"}, "max_length must be an integer, got '10'"),
        ({"devices": []}, "one device or several different ones"),
        ({"devices": jax.devices()[:1] * 2}, "one device or several different ones"),
        ({"devices": jax.devices()[0]}, "expected a list of JAX's devices"),
    ],
)
def test_bad_settings_are_named(
    program: CountingProgram, tokenizer: Tokenizer, setting: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Predictor(program, tokenizer, **setting)


def test_the_tokenizer_says_where_texts_are_cut(
    program: CountingProgram, tokenizer_directory: Path
) -> None:
    """By default, as in transformers; its huge number for no limit is none."""
    for said, asked, expected in ((5, None, 5), (5, 10, 10), (10**30, None, 48), (1e30, None, 48)):
        settings = json.dumps({"model_max_length": said})
        (tokenizer_directory / "tokenizer_config.json").write_text(settings)
        tokenizer = Tokenizer.load(tokenizer_directory)
        assert Predictor(program, tokenizer, max_length=asked).max_length == expected
    (tokenizer_directory / "tokenizer_config.json").write_text('{"truncation_side": "left"}')
    predictor = Predictor(program, Tokenizer.load(tokenizer_directory), max_length=4)
    assert predictor.logits(["good good bad film bad"]).tolist() == [[1, 0]]


def test_answers_that_nobody_waits_for_end_with_python() -> None:
    """A generator left over is closed when there are no modules any more."""
    script = (
        "from ibert_jax import Predictor\n"
        "answers = Predictor.default(batch_size=2, max_length=16).predict(['a'] * 3)\n"
        "print(next(answers).text)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("a\n", "")


def test_foreign_tokenizer_is_refused(tokenizer: Tokenizer, program: CountingProgram) -> None:
    small = CountingProgram(program.weights, make_config(vocab_size=7))
    with pytest.raises(ValueError, match=r"at most 7 tokens.*got 8"):
        Predictor(small, tokenizer)


def test_a_quantized_model_without_ranges_is_refused(tiny_checkpoint: Path) -> None:
    """In a compiled program nobody would tell that all logits are 0."""
    model = load_classifier(tiny_checkpoint).quantize()
    with pytest.raises(ValueError, match=r"ranges were never calibrated \(.*classifier"):
        Predictor(model, Tokenizer.load(tiny_checkpoint))
    with pytest.raises(ValueError, match=r"ranges were never calibrated \(.*classifier"):
        answering(model, load_task("classification"))


def test_a_model_that_pads_with_a_word_is_refused(
    tokenizer: Tokenizer, program: CountingProgram
) -> None:
    other = CountingProgram(program.weights, make_config(pad_token_id=0))
    with pytest.raises(ValueError, match=r"pad_token_id .* 1 \(\[PAD\]\), got 0 \(\[CLS\]\)"):
        Predictor(other, tokenizer)


def test_interpret_several_labels() -> None:
    config = make_config(problem_type="multi_label_classification")
    label, score, probabilities = interpret(np.asarray([2.0, 1.0], np.float32), config)
    assert label == "negative, positive"
    assert score == probabilities["negative"] == pytest.approx(1 / (1 + math.exp(-2)))
    assert interpret(np.asarray([-2.0, -1.0], np.float32), config)[0] == ""


def test_interpret_regression() -> None:
    config = make_config(id2label=None, num_labels=1)
    assert interpret(np.asarray([2.5], np.float32), config) == ("", 2.5, {})


def test_interpret_a_regression_of_several_values() -> None:
    config = make_config(id2label=None, num_labels=3, problem_type="regression")
    label, score, values = interpret(np.array([0.5, -2.0, 4.0], np.float32), config)
    assert (label, score) == ("", 0.5)
    assert values == {"LABEL_0": 0.5, "LABEL_1": -2.0, "LABEL_2": 4.0}


def test_interpret_one_independent_label() -> None:
    config = make_config(id2label=None, num_labels=1, problem_type="multi_label_classification")
    label, score, values = interpret(np.array([0.5], np.float32), config)
    assert label == "LABEL_0"
    assert values == {"LABEL_0": score}
    assert 0.6 < score < 0.7


def test_interpret_survives_large_logits() -> None:
    label, score, _ = interpret(np.asarray([-3e38, 3e38], np.float32), make_config())
    assert (label, score) == ("positive", 1.0)


def test_missing_directories(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent is not a directory"):
        load_classifier(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"integer_model\.json.*config\.json.*neither"):
        load_classifier(tmp_path)


def test_two_tokens_are_too_few(program: CountingProgram, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"max_length from 3 to 48, .* got 2"):
        Predictor(program, tokenizer, max_length=2)


def test_windows_of_long_texts_end_sooner(program, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr("ibert_jax.inference.predictor._WINDOW_CHARACTERS", 20)
    found = Predictor(program, tokenizer).stream(["good film"] * 7)
    assert [len(window) for window in found] == [3, 3, 1]


def test_what_was_cut_is_counted(program, tokenizer) -> None:
    predictor = Predictor(program, tokenizer, max_length=5)
    predictor(["good " * 9, "good", "bad " * 9])
    assert predictor.statistics.truncated == 2
