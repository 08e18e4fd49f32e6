"""Tasks whose answers are stretches of the text: entities, and answers to questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ibert_jax.answers import LONGEST_ANSWER, best_spans
from ibert_jax.entities import entities
from ibert_jax.inference.results import Answer, Entities, Entity, Span
from ibert_jax.inference.tasks import Task, check_options, check_texts, softmax, tokens_of
from ibert_jax.quantize.tensor import value_of
from ibert_jax.tokenizer import Encoding, Stretch


class Word(NamedTuple):
    """A word of the text as the model labelled it."""

    start: int
    end: int
    label: str
    score: float


@dataclass(frozen=True)
class TokenClassification(Task):
    """Entities in texts.

    A word has the label of its first token, which is how such models are trained. Long texts are
    read in stretches that share `overlap` tokens; a token counts in the one where it lies
    furthest from an edge.
    """

    overlap: int = 64

    head = "token_classification"
    result = Entities
    asks = "a text"
    columns = (("text",), ("sentence",))

    def __post_init__(self) -> None:
        check_options(self, overlap=0)

    def encode(self, rows: Sequence[Any]) -> list[list[Encoding]]:
        return [
            list(stretches)
            for stretches in self.tokenizer.stretches(
                rows, max_length=self.max_length, overlap=self.overlap
            )
        ]

    def reduce(self, arrays: Any, encoding: Encoding) -> Any:
        return np.asarray(arrays, np.float32)[: len(encoding.ids)]

    def answer(self, row: Any, encodings: Sequence[Any], parts: Sequence[Any]) -> Entities:
        words = self._words(encodings, parts)
        return Entities(row, merged(row, words), *tokens_of(encodings))

    def _words(self, stretches: Sequence[Stretch], parts: Sequence[np.ndarray]) -> list[Word]:
        """Every word of the text, labelled, from the stretches' logits [T, labels]."""
        best: dict[int, tuple[int, int, tuple[int, int], np.ndarray]] = {}
        for stretch, logits in zip(stretches, parts, strict=True):
            inner = np.flatnonzero(stretch.texts == 0)
            for rank, position in enumerate(inner.tolist()):
                token = stretch.first + rank
                margin = min(rank, len(inner) - 1 - rank)
                if token not in best or margin > best[token][0]:
                    span = stretch.spans[position]
                    word = int(stretch.words[position])
                    best[token] = margin, word, (int(span[0]), int(span[1])), logits[position]
        words: list[Word] = []
        last = None
        for token in sorted(best):
            _, word, (start, end), logits = best[token]
            if word == last:
                words[-1] = words[-1]._replace(end=max(words[-1].end, end))
                continue
            last = word
            probabilities = softmax(logits)
            label = int(probabilities.argmax())
            name = self.config.id2label[label]
            words.append(Word(start, end, name, float(probabilities[label])))
        return words


def merged(text: str, words: Sequence[Word]) -> tuple[Entity, ...]:
    """Words that follow each other and belong together by their labels, as entities.

    One whose type has no name is called by its first word's label.
    """
    return tuple(
        _entity(text, kind or words[first].label, words[first:end])
        for kind, first, end in entities([word.label for word in words])
    )


def _entity(text: str, kind: str, words: Sequence[Word]) -> Entity:
    start, end = _trimmed(text, words[0].start, words[-1].end)
    score = sum(word.score for word in words) / len(words)
    return Entity(kind, score, start, end, text[start:end])


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its edges, which some tokenizers count to a token."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """Where in a context a question is answered.

    top_k: how many spans to give, the answer among them. overlap: tokens that two stretches of a
        long context share. max_answer_tokens: the longest span considered. no_answer: whether a
        model that was trained so may answer that the context holds no answer.
    """

    top_k: int = 1
    overlap: int = 128
    max_answer_tokens: int = LONGEST_ANSWER
    no_answer: bool = False

    head = "question_answering"
    result = Answer
    asks = "a question and a context"
    columns = (("question", "context"),)

    def __post_init__(self) -> None:
        check_options(self, "no_answer", top_k=1, overlap=0, max_answer_tokens=1)

    def check(self, row: Any) -> None:
        check_texts(row, ("the question", "the context"))

    def size(self, row: Any) -> int:
        return len(row[0]) + len(row[1])

    def encode(self, rows: Sequence[Any]) -> list[list[Encoding]]:
        questions, contexts = [row[0] for row in rows], [row[1] for row in rows]
        return [
            list(stretches)
            for stretches in self.tokenizer.stretches(
                questions, contexts, max_length=self.max_length, overlap=self.overlap
            )
        ]

    @staticmethod
    def select(outputs: Any, batch: dict[str, jax.Array]) -> Any:
        return jnp.stack([value_of(outputs.start_logits), value_of(outputs.end_logits)], axis=1)

    def reduce(self, arrays: Any, encoding: Encoding) -> Any:
        return np.asarray(arrays, np.float32)[:, : len(encoding.ids)]

    def answer(self, row: Any, encodings: Sequence[Any], parts: Sequence[Any]) -> Answer:
        """The spans of all stretches against each other.

        A span's probability is that of its start times that of its end, each among the tokens of
        the context in all stretches, and where `no_answer` the first token beside them, which
        stands for none: its lower score over the stretches, since one of them may hold an answer.
        """
        question, context = row
        inner = [stretch.texts == 1 for stretch in encodings]
        logits = [part.astype(np.float64) for part in parts]  # [2, T] each
        pools = [part[:, mask] for part, mask in zip(logits, inner, strict=True)]
        none = min((part[:, 0] for part in logits), key=lambda pair: pair.sum())
        if self.no_answer:
            pools.append(none[:, None])
        pool = np.concatenate(pools, axis=1)
        total = float(_log_sum(pool[0]) + _log_sum(pool[1])) if pool.size else 0.0
        best: dict[tuple[int, int], float] = {}
        for stretch, part, mask in zip(encodings, logits, inner, strict=True):
            spans = stretch.spans[mask]
            begins, ends = part[:, mask]
            # Twice as many as asked for: different spans of tokens may be the same characters.
            for found in best_spans(begins, ends, 2 * self.top_k, self.max_answer_tokens):
                place = int(spans[found.first, 0]), int(spans[found.last, 1])
                start, end = _trimmed(context, *place)
                if start < end:
                    best[start, end] = max(best.get((start, end), -np.inf), found.logit)
        if self.no_answer or not best:
            best[0, 0] = float(none.sum()) if self.no_answer else -np.inf
        order = sorted(best, key=lambda place: (-best[place], place))[: self.top_k]
        first, *others = (
            Span(context[start:end], float(np.exp(best[start, end] - total)), start, end)
            for start, end in order
        )
        return Answer(
            question,
            context,
            first.text,
            first.score,
            first.start,
            first.end,
            tuple(others),
            *tokens_of(encodings),
        )


def _log_sum(logits: np.ndarray) -> float:
    high = logits.max()
    return float(high + np.log(np.exp(logits - high).sum()))
