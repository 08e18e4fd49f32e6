"""Examples as tokens: what learns what, where they are cut, and where answers lead back to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibert_jax.tokenizer import Tokenizer
from ibert_jax.training.batches import Batcher
from ibert_jax.training.examples import (
    ChoiceExample,
    QuestionExample,
    TextExample,
    WordsExample,
)
from ibert_jax.training.features import TokenizedExamples, tokenize
from ibert_jax.training.kinds import KINDS
from ibert_jax.training.masking import Masking, guesses, masking_of
from ibert_jax.training.tasks import load_task

CLS, PAD, SEP = 0, 1, 2


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return [tokenizer.backend.token_to_id(word) for word in text.split()]


def test_sentences_are_cut(tokenizer: Tokenizer) -> None:
    examples = [TextExample("the film is good", None, 1), TextExample("bad", None, 0)]
    found = tokenize(examples, tokenizer, load_task("sst2"), max_length=5)
    first = [CLS, *ids_of(tokenizer, "the film is"), SEP]
    np.testing.assert_array_equal(found.tokens, [*first, CLS, *ids_of(tokenizer, "bad"), SEP])
    np.testing.assert_array_equal(found.lengths, [5, 3])
    assert (found.truncated, found.tokens.dtype, found.types) == (1, np.int32, None)
    assert found.targets["labels"].dtype == np.int32
    picked = found.select(np.asarray([1, 0]))
    np.testing.assert_array_equal(picked.tokens, [*found.tokens[5:], *found.tokens[:5]])
    np.testing.assert_array_equal(picked.targets["labels"], [0, 1])


def test_pairs_have_types(tokenizer: Tokenizer) -> None:
    task = load_task("stsb")
    found = tokenize([TextExample("good film", "bad", 2.5)], tokenizer, task, max_length=9)
    text = [CLS, *ids_of(tokenizer, "good film"), SEP, *ids_of(tokenizer, "bad"), SEP]
    np.testing.assert_array_equal(found.tokens, text)
    np.testing.assert_array_equal(found.types, [0, 0, 0, 0, 1, 1])
    assert found.targets["labels"].dtype == np.float32
    batch, _ = next(Batcher(found, batch_size=2, pad_token_id=PAD).in_order())
    np.testing.assert_array_equal(batch.inputs["token_type_ids"], [[0, 0, 0, 0, 1, 1, 0, 0]] * 2)


def test_a_word_learns_by_its_first_token(tokenizer: Tokenizer) -> None:
    """The tokenizer cuts "good-bad" in three; the last word is cut off."""
    examples = [WordsExample(("a", "good-bad", "film"), (3, 1, 2))]
    found = tokenize(examples, tokenizer, load_task("ner"), max_length=6)
    np.testing.assert_array_equal(found.token_targets, [-100, 3, 1, -100, -100, -100])
    np.testing.assert_array_equal(found.places, [-1, 0, 1, -1, -1, -1])
    assert found.truncated == 1
    rows = {"best": [np.asarray([9, 0, 2, 9, 9, 9])]}
    answers = KINDS["token_classification"].answers(rows, found, ["B-a", "I-a", "B-b"])
    assert answers == [("B-a", "B-b", "O")]


def question(context: str, answer: str) -> QuestionExample:
    start = context.index(answer) if answer in context else None
    return QuestionExample("1", "is good", context, (answer,), start)


def test_an_answer_is_found_again_in_its_window(tokenizer: Tokenizer) -> None:
    """Every window that holds the answer points at it, the others at their first token."""
    context = "the film is a story with music and a plot very dull and poor"
    example = question(context, "music and")
    task = load_task("squad").replace(stride=2)
    found = tokenize([example], tokenizer, task, max_length=12)
    assert len(found) > 1
    assert found.owners is not None and found.places is not None
    assert max(found.lengths) == 12
    texts = []
    for index in range(len(found)):
        offsets = found.places[found.starts[index] : found.starts[index + 1]]
        first = found.targets["start_positions"][index]
        last = found.targets["end_positions"][index]
        text = context[offsets[first, 0] : offsets[last, 1]] if first else ""
        assert text in ("", "music and")
        texts.append(text)
        seen = context[offsets[offsets[:, 0] >= 0][0, 0] : offsets[offsets[:, 0] >= 0][-1, 1]]
        assert ("music and" in seen) == (text != "")
    assert "music and" in texts
    length = int(found.lengths.max())
    rows: dict[str, Any] = {"start": [], "end": []}
    for index in range(len(found)):  # a model that knows
        for end in ("start", "end"):
            scores = np.zeros(length, np.float32)
            position = found.targets[f"{end}_positions"][index]
            scores[position] = 5.0 if position else 9.0  # its first token is no answer
            rows[end].append(scores)
    assert KINDS["question_answering"].answers(rows, found, []) == ["music and"]


def test_questions_that_cannot_be_learned(tokenizer: Tokenizer) -> None:
    examples = [question("a film", "film"), question("a plot", "elephant")]
    task = load_task("squad")
    assert len(tokenize(examples, tokenizer, task, max_length=20)) == 2
    found = tokenize(examples, tokenizer, task, max_length=20, learning=True)
    assert (len(found), found.left_out) == (1, 1)
    with pytest.raises(ValueError, match="none of 1 answers has a place"):
        tokenize(examples[1:], tokenizer, task, max_length=20, learning=True)


def test_a_long_question_leaves_half_to_its_context(tokenizer: Tokenizer) -> None:
    example = QuestionExample("1", "is good " * 50, "the film", ("film",), 4)
    found = tokenize([example], tokenizer, load_task("squad"), max_length=20)
    np.testing.assert_array_equal(found.lengths, [1 + 8 + 1 + 2 + 1])


def test_a_window_has_room_for_question_and_context(tokenizer: Tokenizer) -> None:
    examples, task = [question("the film is a story " * 9, "elephant")], load_task("squad")
    for length in (8, 9, 10, 11):
        found = tokenize(examples, tokenizer, task, max_length=length)
        assert max(found.lengths) == length
    with pytest.raises(ValueError, match="at least 8 for question_answering, got 7"):
        tokenize(examples, tokenizer, task, max_length=7)


def test_choices_stand_together(tokenizer: Tokenizer) -> None:
    examples = [
        ChoiceExample("is a", ("film", "very good story"), 1),
        ChoiceExample("bad", ("a", "plot"), 0),
    ]
    found = tokenize(examples, tokenizer, load_task("commonsenseqa"), max_length=20)
    np.testing.assert_array_equal(found.lengths, [8, 5])
    batch, members = next(Batcher(found, batch_size=2, pad_token_id=PAD, buckets=1).in_order())
    assert {name: x.shape for name, x in batch.inputs.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "token_type_ids"), (2, 2, 8)
    )
    np.testing.assert_array_equal(members, [0, 1])
    row = [CLS, *ids_of(tokenizer, "bad"), SEP, *ids_of(tokenizer, "plot"), SEP]
    np.testing.assert_array_equal(batch.inputs["input_ids"][1, 1], [*row, PAD, PAD, PAD])
    picked = found.select(np.asarray([1]))
    np.testing.assert_array_equal(picked.tokens[5:], row)
    with pytest.raises(ValueError, match="as many choices for every example, got 2 and, for 'x'"):
        tokenize(
            [*examples, ChoiceExample("x", ("a", "b", "c"), 0)],
            tokenizer,
            load_task("commonsenseqa"),
            max_length=20,
        )


@pytest.fixture
def lines(tokenizer: Tokenizer) -> TokenizedExamples:
    examples = [TextExample("the film is good"), TextExample("a story and a plot " * 30)]
    return tokenize(examples, tokenizer, load_task("wikitext2"), max_length=16)


def test_lines_fill_their_examples(lines: TokenizedExamples) -> None:
    np.testing.assert_array_equal(lines.lengths, [16] * 11)
    assert lines.token_targets is not None
    bare = lines.tokens[lines.token_targets != -100]
    assert len(bare) == 4 + 150
    np.testing.assert_array_equal(bare, lines.token_targets[lines.token_targets != -100])


def test_masking_is_berts(tokenizer: Tokenizer) -> None:
    masking = Masking(0.15, 3, 100)
    ids = np.full((200, 100), 50, np.int32)
    targets = np.where(np.arange(100) < 90, 50, -100).astype(np.int32) * np.ones_like(ids)
    hidden, labels = masking(ids, targets, np.random.default_rng(0))
    guessed = labels != -100
    assert not guessed[:, 90:].any()
    assert guessed[:, :90].mean() == pytest.approx(0.15, abs=0.01)
    assert (hidden[guessed] == 3).mean() == pytest.approx(0.8 + 0.001, abs=0.03)
    assert (hidden[guessed] == 50).mean() == pytest.approx(0.1 + 0.001, abs=0.03)
    np.testing.assert_array_equal(hidden[~guessed], 50)
    with pytest.raises(ValueError, match=r"a tokenizer with one of \[MASK\], <mask>"):
        masking_of(tokenizer.backend, 0.15)


@settings(deadline=None)
@given(st.integers(1, 300), st.sampled_from([0.05, 0.15, 0.5, 0.99]), st.integers(0, 99))
def test_there_is_room_for_all_guesses(length: int, probability: float, seed: int) -> None:
    masking = Masking(probability, 3, 100)
    ids = np.full((8, length), 50, np.int32)
    _, labels = masking(ids, ids, np.random.default_rng(seed))
    room = masking.room(length)
    assert room <= length
    places, found = guesses(labels, room)
    assert places.shape == found.shape == (8, room)
    assert places.dtype == found.dtype == np.int32
    assert all(len(set(row)) == room for row in places.tolist())
    again = np.full_like(labels, -100)
    np.put_along_axis(again, places, found, axis=1)
    np.testing.assert_array_equal(again, labels)


def test_guesses_beyond_the_room_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    masking, ids = Masking(0.15, 3, 100), np.full((200, 128), 50, np.int32)
    before = masking(ids, ids, np.random.default_rng(0))[1] != -100
    assert masking.room(128) == 36
    monkeypatch.setattr("ibert_jax.training.masking._DEVIATIONS", 0)
    assert masking.room(128) == 20
    hidden, labels = masking(ids, ids, np.random.default_rng(0))
    kept = labels != -100
    np.testing.assert_array_equal(kept.sum(axis=1), np.minimum(before.sum(axis=1), 20))
    assert not (kept & ~before).any()
    np.testing.assert_array_equal(hidden[~kept], 50)
    assert 0.2 < (before.sum(axis=1) > 20).mean() < 0.6


def test_masks_differ_by_epoch_and_not_by_where_it_is_entered(lines: TokenizedExamples) -> None:
    batcher = Batcher(lines, batch_size=4, pad_token_id=PAD, masking=Masking(0.5, 3, 20))

    def labels(seed: int, start: int = 0) -> list[np.ndarray]:
        return [batch.targets["labels"] for batch in batcher.epoch((seed,), start)]

    whole = labels(1)
    for mine, theirs in zip(labels(1, 2), whole[2:], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert not np.array_equal(np.concatenate(labels(2)), np.concatenate(whole))
