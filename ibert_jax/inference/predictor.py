"""Rows in, answers out: in input order, with few compiled shapes, in constant memory."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ibert_jax.checks import check_kind
from ibert_jax.inference.engine import Engine
from ibert_jax.inference.loading import default_directory, load_model
from ibert_jax.inference.results import Refused, Result
from ibert_jax.inference.spans import QuestionAnswering, TokenClassification
from ibert_jax.inference.tasks import (
    Embeddings,
    MaskedLM,
    MultipleChoice,
    SequenceClassification,
    Task,
)
from ibert_jax.settings import number_problem, plain_number, raise_if_any
from ibert_jax.tokenizer import Encoding, Tokenizer

TASKS: dict[str, type[Task]] = {
    task.head: task
    for task in (
        SequenceClassification,
        TokenClassification,
        QuestionAnswering,
        MaskedLM,
        MultipleChoice,
        Embeddings,
    )
}
"""What can be asked, by the head that answers it."""

# Batches that are tokenized, sorted by length and dispatched together. More means less padding,
# fewer means that the first answers come sooner; memory grows with it and with nothing else.
_BATCHES_PER_WINDOW = 32
# A window of long texts ends sooner, for the sake of memory.
_WINDOW_CHARACTERS = 2**22


@dataclass
class Statistics:
    """What a `Predictor` did since it was made or since `reset_statistics`.

    tokens counts real tokens, padded_tokens all that were computed; seconds is the time spent in
    tokenizing and computing, not what the caller did between two answers.
    """

    rows: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    truncated: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Real tokens a second; 0 before anything ran."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class _Window:
    """Rows that are computed together. refusals: row's number in the window -> what is wrong."""

    rows: list[Any]
    refusals: dict[int, Exception]


# A row with its encodings, or with why it has none.
_Encoded = list[list[Encoding] | Exception]


class Predictor:
    """Answers rows with a frozen program, or with a model in its float or quantization-aware life.

    What a row is, and its answer, depends on the model's head (see `results`):

    | head | row | answer |
    |---|---|---|
    | sequence classification | text, or (text, text) | `Prediction` |
    | token classification | text | `Entities` |
    | question answering | (question, context) | `Answer` |
    | masked language model | text with masks | `Filled` |
    | multiple choice | (prompt, choices) | `Choice` |
    | encoder | text | `Embedding` |

    Rows are tokenized in windows (the next one in a thread, while this one is computed), sorted by
    length, padded to one of a few lengths and batch sizes (so that few shapes are compiled; more
    of them once they are worth it), and answered in input order. Memory does not grow with the
    number of rows.

    >>> predictor = Predictor.default()  # or Predictor.load(directory)
    >>> for answer in predictor.predict(["a moving, funny film", "a tired sequel"]):
    ...     print(f"{answer.label:8} {answer.score:.2f}  {answer.text}")
    positive 1.00  a moving, funny film
    negative 1.00  a tired sequel

    program: an `IntegerModel` or an `IBertFor...` model. tokenizer: its `Tokenizer`.
    batch_size: rows of a full batch. max_length: tokens a text is cut to, at most what the model's
    positions allow; if None that, or the tokenizer's model_max_length where it is less.
    devices: those that share each batch, all local ones if None.
    options: those of the task, the fields of its class in `TASKS`.

    Raises ValueError where tokenizer and model do not fit each other, and for an option that makes
    no sense; TypeError for what is no program or no tokenizer of this package, and for an option
    that the task does not have.
    """

    def __init__(
        self,
        program: Any,
        tokenizer: Tokenizer,
        *,
        batch_size: int = 32,
        max_length: int | None = None,
        devices: Sequence[Any] | None = None,
        **options: Any,
    ) -> None:
        check_kind("a program or a model", program, "config", "ib.freeze(model)")
        check_kind(
            "a tokenizer", tokenizer, Tokenizer, "ibert_jax.tokenizer.Tokenizer.load(folder)"
        )
        config = program.config
        batch_size = _whole_number("batch_size", batch_size)
        if tokenizer.vocab_size > config.vocab_size:
            raise ValueError(
                f"expected a tokenizer of at most {config.vocab_size} tokens, as the model's "
                f"vocabulary, got {tokenizer.vocab_size}; tokenizer and model are not of one kind"
            )
        self.config = config
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.max_length = _usable_length(config, tokenizer, max_length)
        self.task = task_for(program, tokenizer, self.max_length, **options)
        self.statistics = Statistics()
        self._engine = Engine(program, self.task, batch_size=batch_size, devices=devices)

    @classmethod
    def load(cls, directory: str | Path, *, task: str | None = None, **options: Any) -> Predictor:
        """Read a model directory, frozen or not, with its tokenizer.

        directory: a folder, or a checkpoint's id on the Hugging Face hub. task: which head to
        read a checkpoint for, a key of `ibert_jax.inference.TASKS` ("model", which gives vectors,
        can be read of any); by default the one that it declares. options: as for the constructor.
        Raises FileNotFoundError or ValueError in one sentence where something is missing or
        damaged.
        """
        return cls(load_model(directory, task), Tokenizer.load(directory), **options)

    @classmethod
    def default(cls, **options: Any) -> Predictor:
        """The sentiment model that ships inside the package; needs no other file and no network."""
        return cls.load(default_directory(), **options)

    def __call__(self, rows: Sequence[Any]) -> list[Any]:
        """Answer a list of rows, in its order."""
        return list(self.predict(rows))

    def predict(self, rows: Iterable[Any]) -> Iterator[Any]:
        """Answer any number of rows one by one, in their order.

        Raises TypeError or ValueError for what is no row, naming it by its number, from 0; the
        answers to the windows before it have been given by then.
        """
        number = itertools.count()
        for window, encoded, parts in self._windows(rows):
            for row, own, part in zip(window.rows, encoded, parts, strict=True):
                index = next(number)
                if isinstance(own, Exception):
                    raise type(own)(f"row {index}: {own}")
                yield self.task.answer(row, own, part)

    def stream(self, rows: Iterable[Any]) -> Iterator[list[Result | Refused]]:
        """Answer any number of rows window by window; what is no row is refused with its reason.

        A `Refused` among the rows comes back as it is, in its place. Where a window ends depends
        on nothing but its own rows and the batch size.
        """
        for window, encoded, parts in self._windows(rows):
            yield [
                (row if isinstance(row, Refused) else Refused(str(own)))
                if isinstance(own, Exception)
                else self.task.answer(row, own, part)
                for row, own, part in zip(window.rows, encoded, parts, strict=True)
            ]

    def logits(self, texts: Iterable[Any]) -> np.ndarray:
        """A sequence classifier's float32 logits, [texts, labels], in input order."""
        if not isinstance(self.task, SequenceClassification):
            raise TypeError(f"expected a sequence classifier, this model is of {self.task.head}")
        found: list[np.ndarray] = []
        for _, encoded, parts in self._windows(texts):
            for own, part in zip(encoded, parts, strict=True):
                if isinstance(own, Exception):
                    raise type(own)(f"row {len(found)}: {own}")
                found.append(part[0])
        return np.stack(found) if found else np.zeros((0, self.config.num_labels), np.float32)

    def reset_statistics(self) -> None:
        """Start counting anew, for instance after a first run that had to compile."""
        self.statistics = Statistics()

    def _windows(self, rows: Iterable[Any]) -> Iterator[tuple[_Window, _Encoded, list[Any]]]:
        """Windows of rows with each row's encodings and the parts of its answer.

        The rows are drawn in the caller's thread, one window ahead; a failure of their source
        waits until the windows before it are answered.
        """
        if isinstance(rows, str):
            raise TypeError("expected a list of texts, got one string; put it in a list")
        if isinstance(rows, Mapping):
            raise TypeError("expected a list of texts, got a mapping; pass the list in it")
        source = iter(rows)
        failure: Exception | None = None
        pending: tuple[_Window, Future[_Encoded]] | None = None
        pool = ThreadPoolExecutor(1, thread_name_prefix="ibert_jax-tokenize")
        try:
            while True:
                upcoming = None
                if failure is None:
                    window, failure = self._draw(source)
                    if window.rows:
                        upcoming = window, pool.submit(self._encode, window)
                if pending is not None:
                    started = time.perf_counter()
                    window, future = pending
                    encoded = future.result()
                    parts = self._compute(encoded)
                    self.statistics.seconds += time.perf_counter() - started
                    yield window, encoded, parts
                pending = upcoming
                if pending is None:
                    if failure is not None and not isinstance(failure, StopIteration):
                        raise failure
                    return
        finally:
            pool.shutdown(wait=False)  # to wait is no longer possible where Python itself ends

    def _draw(self, source: Iterator[Any]) -> tuple[_Window, Exception | None]:
        """The next window, and what ended it early: StopIteration, or a failure that spoils it."""
        window, characters = _Window([], {}), 0
        most = self.batch_size * _BATCHES_PER_WINDOW
        while len(window.rows) < most and characters < _WINDOW_CHARACTERS:
            try:
                row = next(source)
            except StopIteration as end:
                return window, end
            except Exception as error:
                return _Window([], {}), error
            try:
                if isinstance(row, Refused):
                    raise ValueError(row.reason)
                self.task.check(row)
                characters += self.task.size(row)
            except (TypeError, ValueError) as error:
                # A copy: its own traceback would hold on to all that is open here.
                window.refusals[len(window.rows)] = type(error)(str(error))
            window.rows.append(row)
        return window, None

    def _encode(self, window: _Window) -> _Encoded:
        """Tokenize a window; runs in a thread of its own."""
        numbers = [n for n in range(len(window.rows)) if n not in window.refusals]
        rows = [window.rows[number] for number in numbers]
        encodings = iter(self._encode_rows(rows))
        return [
            window.refusals[n] if n in window.refusals else next(encodings)
            for n in range(len(window.rows))
        ]

    def _encode_rows(self, rows: list[Any]) -> _Encoded:
        """Tokenize rows together and, where the tokenizer gives up, one by one."""
        try:
            return list(self.task.encode(rows)) if rows else []
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of the tokenizers library is no Exception
            if len(rows) == 1:
                return [ValueError(f"the tokenizer could not read this text ({error})")]
            return [self._encode_rows([row])[0] for row in rows]

    def _compute(self, encoded: _Encoded) -> list[Any]:
        """The parts of each row's answer, None for a refused one."""
        groups = [own for own in encoded if not isinstance(own, Exception)]
        flat = [encoding for own in groups for encoding in own]
        before = self._engine.padded_tokens
        parts = iter(self._engine.run(flat))
        self.statistics.padded_tokens += self._engine.padded_tokens - before
        self.statistics.rows += len(groups)
        self.statistics.tokens += sum(len(encoding.ids) for encoding in flat)
        self.statistics.truncated += sum(any(e.truncated for e in own) for own in groups)
        return [
            None if isinstance(own, Exception) else [next(parts) for _ in own] for own in encoded
        ]


def task_for(program: Any, tokenizer: Tokenizer, max_length: int, **options: Any) -> Task:
    """The task that a model's head does.

    Raises TypeError for an option that it does not have, ValueError for one that makes no sense and
    where the tokenizer pads with another token than the model.
    """
    tokenizer.check_padding(program.config.pad_token_id)
    kind = getattr(program, "kind", program)  # a frozen program names the class it was
    task = TASKS[getattr(kind, "head", SequenceClassification.head)]
    own = {field.name for field in fields(task)} - {field.name for field in fields(Task)}
    unknown = sorted(set(options) - own)
    if unknown:
        raise TypeError(
            f"a model of {task.head} has no option {', '.join(unknown)}; it has "
            f"{', '.join(sorted(own)) or 'none'}"
        )
    plain = {name: plain_number(value) for name, value in options.items()}
    return task(program.config, tokenizer, max_length, **plain)


def _usable_length(config: Any, tokenizer: Tokenizer, max_length: int | None) -> int:
    """The longest input in tokens: what was asked for, if the model's positions allow it."""
    positions = config.max_sequence_length
    if max_length is None:
        return min(positions, tokenizer.model_max_length or positions)
    max_length = _whole_number("max_length", max_length)
    if not 3 <= max_length <= positions:
        raise ValueError(
            f"expected max_length from 3 to {positions}, the model's positions, got {max_length}"
        )
    return max_length


def _whole_number(name: str, value: Any) -> int:
    """An integer of Python's or NumPy's, at least 1.

    Raises:
      ValueError: what is none.
    """
    value = plain_number(value)
    raise_if_any("Predictor", [number_problem(name, value, 1, math.inf, int)])
    return value
