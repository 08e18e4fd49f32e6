"""Each head's answers, with programs whose scores can be told from the tokens by hand."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from ibert_jax.config import IBertConfig
from ibert_jax.inference import Predictor, Refused, interpret, record
from ibert_jax.inference.spans import Word, merged
from ibert_jax.tokenizer import Tokenizer

from .conftest import make_config

WORDS = (
    *("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "anna", "##s", "lives", "in", "new", "york"),
    *("where", "?", "bob", "and"),
)
ID = {word: index for index, word in enumerate(WORDS)}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    backend = Backend(WordPiece(ID, unk_token="[UNK]"))
    backend.pre_tokenizer = BertPreTokenizer()
    backend.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[MASK]"])
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return Tokenizer(backend)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TableProgram:
    """Scores of a token are a row of a table, whatever stands around it."""

    table: jax.Array
    config: IBertConfig = field(metadata={"static": True})
    kind: Any = field(metadata={"static": True})

    def __call__(
        self, input_ids: Any, *, attention_mask: Any, scored_tokens: Any = None, **_: Any
    ) -> Any:
        rows = self.table[input_ids]
        if self.kind.head == "question_answering":
            return SimpleNamespace(start_logits=rows[..., 0], end_logits=rows[..., 1])
        if self.kind.head == "masked_lm":  # what stands before, once more
            before = jnp.roll(rows, 1, axis=1)
            return SimpleNamespace(logits=before[jnp.arange(len(rows))[:, None], scored_tokens])
        if self.kind.head == "multiple_choice":
            return SimpleNamespace(logits=jnp.where(attention_mask == 1, rows[..., 0], 0).sum(-1))
        return SimpleNamespace(logits=rows)

    def integers(self, input_ids: Any, **_: Any) -> Any:
        return States(self.table[input_ids].astype(jnp.int32))

    def scale_of(self, output: str) -> float:
        assert output == "last_hidden_state"
        return 0.25


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class States:
    last_hidden_state: Any


def program(head: str, scores: dict[str, list[float]], **settings: Any) -> TableProgram:
    """scores: by token; all others have zeros."""
    width = len(next(iter(scores.values())))
    table = np.zeros((len(WORDS), width), np.float32)
    for word, row in scores.items():
        table[ID[word]] = row
    values = {"vocab_size": len(WORDS), "hidden_size": 8, "num_attention_heads": 2} | settings
    config = IBertConfig(max_position_embeddings=41, pad_token_id=0, **values)
    return TableProgram(jnp.asarray(table), config, Kind(head))


@dataclass(frozen=True)
class Kind:
    head: str


ENTITIES = program(
    "token_classification",
    {
        "[CLS]": [0, 9, 0, 0, 0],  # special tokens are no words
        "[SEP]": [0, 9, 0, 0, 0],
        "[UNK]": [8, 0, 0, 0, 0],
        "anna": [0, 8, 0, 0, 0],
        "bob": [0, 8, 0, 0, 0],
        "##s": [0, 0, 0, 0, 9],  # not the first of its word: does not count
        "lives": [8, 0, 0, 0, 0],
        "in": [8, 0, 0, 0, 0],
        "and": [8, 0, 0, 0, 0],
        "new": [0, 0, 0, 8, 0],
        "york": [0, 0, 0, 0, 7],
    },
    id2label=dict(enumerate(("O", "B-PER", "I-PER", "B-LOC", "I-LOC"))),
)


def test_entities(tokenizer: Tokenizer) -> None:
    text = "  annas lives in   new york, anna bob"
    (found,) = Predictor(ENTITIES, tokenizer)([text])
    assert [(e.label, e.text) for e in found.entities] == [
        ("PER", "annas"),
        ("LOC", "new york"),
        ("PER", "anna"),
        ("PER", "bob"),
    ]
    assert [text[e.start : e.end] for e in found.entities] == [e.text for e in found.entities]
    new, york = (math.exp(x) / (math.exp(x) + 4) for x in (8, 7))
    assert found.entities[1].score == pytest.approx((new + york) / 2)
    assert (found.tokens, found.truncated) == (11, False)


def test_entities_of_long_texts(tokenizer: Tokenizer) -> None:
    """Every word is read once, wherever the stretches end."""
    text = " ".join(["annas lives in new york and bob ?"] * 40)
    predictor = Predictor(ENTITIES, tokenizer, max_length=16, overlap=5)
    (found,) = predictor([text])
    assert [e.text for e in found.entities] == ["annas", "new york", "bob"] * 40
    assert not found.truncated
    assert Predictor(ENTITIES, tokenizer)(["", "  "])[0].entities == ()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("B-A I-A O I-A", ["A:ab", "A:d"]),
        ("B-A B-A I-B", ["A:a", "A:b", "B:c"]),
        ("I-A I-B B-B", ["A:a", "B:b", "B:c"]),
        ("B-A E-A I-A S-A", ["A:ab", "A:c", "A:d"]),  # BIOES
        ("U-A U-A B-A L-A", ["A:a", "A:b", "A:cd"]),  # BILOU
        ("A A B O", ["A:ab", "B:c"]),  # no scheme
        ("B I O B", ["B:ab", "B:d"]),  # no types
        ("O O O", []),
    ],
)
def test_merging(labels: str, expected: list[str]) -> None:
    text = "abcd"
    words = [Word(i, i + 1, label, 1.0) for i, label in enumerate(labels.split())]
    assert [f"{e.label}:{e.text}" for e in merged(text, words)] == expected


ANSWERS = program("question_answering", {"new": [9.0, 0], "york": [3, 8], "where": [50, 50]})


def test_answers(tokenizer: Tokenizer) -> None:
    context = "anna lives in new  york and bob"
    (found,) = Predictor(ANSWERS, tokenizer, top_k=2)([("where ?", context)])
    assert (found.answer, found.start, found.end) == ("new  york", 14, 23)
    assert context[found.start : found.end] == found.answer
    starts, ends = math.exp(9) + math.exp(3) + 5, math.exp(8) + 6  # seven tokens of the context
    assert found.score == pytest.approx(math.exp(9 + 8) / starts / ends)
    assert [span.text for span in found.others] == ["york"]
    assert not found.truncated


def test_answers_in_long_contexts(tokenizer: Tokenizer) -> None:
    before = "anna lives in and bob " * 30
    context = before + "new york" + " and bob" * 50
    predictor = Predictor(ANSWERS, tokenizer, max_length=20, overlap=6)
    (found,) = predictor([("where ?", context)])
    assert (found.answer, found.start) == ("new york", len(before))
    assert not found.truncated
    # A question that would leave no room for the context is cut.
    (cut,) = predictor([("where ? " * 30, context)])
    assert (cut.answer, cut.truncated) == ("new york", True)


def test_no_answer(tokenizer: Tokenizer) -> None:
    none = program("question_answering", {"[CLS]": [6.0, 6], "new": [5, 0], "york": [0, 5]})
    row = ("where ?", "in new york")
    (found,) = Predictor(none, tokenizer, no_answer=True, top_k=2)([row])
    assert (found.answer, found.start, found.end) == ("", 0, 0)
    pool = math.exp(6) + math.exp(5) + 2
    assert found.score == pytest.approx(math.exp(12) / pool**2)
    assert found.others[0].text == "new york"
    assert Predictor(none, tokenizer)([row])[0].answer == "new york"
    (empty,) = Predictor(none, tokenizer)([("where ?", "")])
    assert (empty.answer, empty.score) == ("", 0.0)


def test_masks(tokenizer: Tokenizer) -> None:
    rows = {word: np.eye(len(WORDS), dtype=np.float32)[ID[word]] * 5 for word in WORDS}
    echo = program("masked_lm", {word: row.tolist() for word, row in rows.items()})
    text = "anna [MASK] in [MASK]"
    filled, none = Predictor(echo, tokenizer, top_k=3)([text, "new york"])
    assert [text[mask.start : mask.end] for mask in filled.masks] == ["[MASK]", "[MASK]"]
    best = [mask.candidates[0] for mask in filled.masks]
    assert [each.token for each in best] == ["anna", "in"]
    high = math.exp(5) / (math.exp(5) + len(WORDS) - 1)
    assert best[0].score == pytest.approx(high)
    # Of the others, all equal, those of the smallest ids.
    assert [c.token_id for c in filled.masks[0].candidates[1:]] == [0, 1]
    assert filled.filled.split() == ["anna", "anna", "in", "in"]
    assert (none.masks, none.filled.split()) == ((), ["new", "york"])


def test_masks_need_a_token(tokenizer: Tokenizer) -> None:
    echo = program("masked_lm", {"new": [1.0]})
    plain = Tokenizer(Backend(WordPiece({"[UNK]": 0, "new": 1}, unk_token="[UNK]")))
    with pytest.raises(ValueError, match="a mask token, this one has none"):
        Predictor(echo, plain)


def test_choices(tokenizer: Tokenizer) -> None:
    likes = program("multiple_choice", {"new": [1.0], "york": [2.0]})
    rows = [("where ?", ["in anna", "in york", "in new"]), ("in", ["new"])]
    first, second = Predictor(likes, tokenizer)(rows)
    assert (first.choice, first.index) == ("in york", 1)
    weights = [1, math.exp(2), math.exp(1)]
    assert first.probabilities == pytest.approx([w / sum(weights) for w in weights])
    assert (second.index, second.score) == (0, 1.0)
    with pytest.raises(ValueError, match="row 0: expected at least one choice, got none"):
        Predictor(likes, tokenizer)([("in", [])])
    task = Predictor(likes, tokenizer).task
    assert task.row(["in", "new", "york"]) == ("in", ("new", "york"))
    for one in ("new", 3):  # a column of choices holds a list
        with pytest.raises(TypeError, match="a list of choices, or a column for each, got one"):
            task.check(task.row(["in", one]))


def test_embeddings(tokenizer: Tokenizer) -> None:
    states = program("model", {"anna": [4.0, 0], "[SEP]": [0, 2], "[PAD]": [1000, 1000]})
    texts = ["anna", "anna and bob in new york " * 3, ""]
    first, _, empty = Predictor(states, tokenizer)(texts)
    np.testing.assert_array_equal(first.vector, np.float32([4 / 3 * 0.25, 2 / 3 * 0.25]))
    np.testing.assert_array_equal(empty.vector, np.float32([0, 0.25]))
    alone = Predictor(states, tokenizer, batch_size=1)
    for text, one in zip(texts, Predictor(states, tokenizer)(texts), strict=True):
        np.testing.assert_array_equal(alone([text])[0].vector, one.vector)
    (unit,) = Predictor(states, tokenizer, normalize=True)(["anna"])
    assert float(np.sqrt((unit.vector**2).sum())) == pytest.approx(1)
    assert record(unit, inputs=False).keys() == {"vector", "tokens", "truncated"}


def test_rows_that_are_none(tokenizer: Tokenizer) -> None:
    predictor = Predictor(ANSWERS, tokenizer)
    good = ("where ?", "in new york")
    with pytest.raises(TypeError, match="row 1: expected the question and the context, got str"):
        predictor([good, "where ?"])
    with pytest.raises(ValueError, match="row 0: expected the context to be Unicode"):
        predictor([("where ?", "\ud800")])
    rows = [good, "no", Refused("as before"), ("a", 3), good]
    (results,) = predictor.stream(iter(rows))
    assert results[0] == results[4]
    reasons = [each.reason for each in results if isinstance(each, Refused)]
    assert reasons == [
        "expected the question and the context, got str",
        "as before",
        "expected the context to be a string, got int",
    ]


def test_a_tokenizer_that_gives_up_spoils_one_row(tokenizer: Tokenizer) -> None:
    predictor = Predictor(ANSWERS, tokenizer)
    encode = predictor.task.encode

    class Panic(BaseException):
        """As the tokenizers library throws them."""

    def panicking(rows: list[Any]) -> Any:
        if any("bob" in row[1] for row in rows):
            raise Panic("index out of bounds")
        return encode(rows)

    object.__setattr__(predictor.task, "encode", panicking)
    rows = [("where ?", "in new york"), ("where ?", "bob"), ("where ?", "new york")]
    (results,) = predictor.stream(rows)
    assert [getattr(each, "answer", None) for each in results] == ["new york", None, "new york"]
    assert results[1] == Refused("the tokenizer could not read this text (index out of bounds)")


def test_unknown_options_are_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(TypeError, match=r"no option stride; it has .*no_answer"):
        Predictor(ANSWERS, tokenizer, stride=3)


def test_pairs(tokenizer: Tokenizer) -> None:
    """Both texts are seen, the second as such, beside single ones."""

    @jax.tree_util.register_dataclass
    @dataclass(frozen=True)
    class Types:
        weight: jax.Array
        config: Any = field(metadata={"static": True})

        def __call__(self, input_ids: Any, *, token_type_ids: Any, **_: Any) -> Any:
            second = jnp.where(token_type_ids == 1, self.weight, 0)
            return SimpleNamespace(
                logits=jnp.stack([jnp.sum(input_ids != 0, 1), jnp.sum(second, 1)], 1).astype(
                    jnp.float32
                )
            )

    config = IBertConfig(vocab_size=len(WORDS), max_position_embeddings=33, pad_token_id=0)
    rows = ["anna", ("anna bob", "new"), ("in", "new york in"), "bob in new york"]
    counts = [[3, 0], [6, 2], [7, 4], [6, 0]]
    predictor = Predictor(Types(jnp.int32(1), config), tokenizer)
    np.testing.assert_array_equal(predictor.logits(rows), counts)
    assert [answer.pair for answer in predictor(rows)] == [None, "new", "new york in", None]
    one_type = config.replace(type_vocab_size=1)
    alone = Predictor(Types(jnp.int32(1), one_type), tokenizer)
    np.testing.assert_array_equal(alone.logits(rows)[:, 1], 0)


def test_a_token_counts_where_it_lies_furthest_from_an_edge(tokenizer: Tokenizer) -> None:
    task = Predictor(ENTITIES, tokenizer, max_length=16, overlap=5).task
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


def test_one_stretch_may_hold_the_answer_that_others_do_not(tokenizer: Tokenizer) -> None:
    task = Predictor(ANSWERS, tokenizer, max_length=12, overlap=2, no_answer=True).task
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


def test_answers_are_no_longer_than_asked_for(tokenizer: Tokenizer) -> None:
    row = ("where ?", "in new and bob york")
    (long,), (short,) = (
        Predictor(ANSWERS, tokenizer, max_answer_tokens=most)([row]) for most in (4, 3)
    )
    assert long.answer == "new and bob york"
    assert len(short.answer.split()) <= 3


def test_one_half_is_not_above_one_half() -> None:
    config = make_config(problem_type="multi_label_classification")
    assert interpret(np.asarray([0.0, 1.0], np.float32), config)[0] == "positive"


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        (
            "question_answering",
            {"top_k": 0, "overlap": -1},
            "top_k must be .*got 0; overlap must be .*got -1",
        ),
        (
            "question_answering",
            {"max_answer_tokens": "4"},
            "max_answer_tokens must be an integer, got '4'",
        ),
        ("question_answering", {"no_answer": "no"}, "no_answer must be True or False, got 'no'"),
        ("token_classification", {"overlap": 1.5}, "overlap must be an integer, got 1.5"),
        ("masked_lm", {"top_k": 2.5}, "top_k must be an integer, got 2.5"),
        ("model", {"normalize": "no"}, "normalize must be True or False, got 'no'"),
    ],
)
def test_options_that_make_no_sense(
    tokenizer: Tokenizer, head: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Predictor(program(head, {"new": [1.0, 0]}), tokenizer, **options)


def test_options_may_be_numpy_numbers(tokenizer: Tokenizer) -> None:
    """A job's options are written down as JSON, which knows none."""
    task = Predictor(ANSWERS, tokenizer, top_k=np.int64(2), no_answer=np.bool_(True)).task
    assert json.dumps([task.top_k, task.no_answer]) == "[2, true]"  # type: ignore[attr-defined]
