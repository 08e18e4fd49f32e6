"""What each head is asked and answers: rows to tokens, and the model's numbers to results.

A row becomes one or several encodings (stretches of a long text, choices, masks). The model
computes each on its own; the task selects what leaves the device, reduces it to a part as soon as
its batch is there, and makes one result of a row's parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ibert_jax.inference.results import (
    Candidate,
    Choice,
    Embedding,
    Filled,
    Mask,
    Prediction,
    Result,
)
from ibert_jax.quantize.tensor import QuantizedTensor, value_of
from ibert_jax.settings import flag_problem, number_problem, raise_if_any
from ibert_jax.tokenizer import Encoding, Stretch, Tokenizer, check_text


@dataclass(frozen=True)
class Task:
    """One kind of task. Subclasses add their options as fields.

    config: the model's. tokenizer: the model's. max_length: tokens of an encoding, at most.
    """

    config: Any
    tokenizer: Tokenizer
    max_length: int

    head: ClassVar[str]
    """The head of the models that do this task, a key of ``TASKS``."""
    result: ClassVar[type[Result]]
    """What it answers."""
    asks: ClassVar[str]
    """What a row is, for people."""
    columns: ClassVar[tuple[tuple[str, ...], ...]]
    """What a file's columns may be called; the first of these that are all there are read."""
    integers: ClassVar[bool] = False
    """Whether ``select`` wants the integers of a frozen program, not the floats they stand for."""

    def row(self, cells: Sequence[Any]) -> Any:
        """The row that a file's cells make; raises ValueError if there are too few or many."""
        if len(cells) != len(self.columns[0]):
            raise ValueError(f"expected columns for {self.asks}, got {len(cells)}")
        return cells[0] if len(cells) == 1 else tuple(cells)

    def check(self, row: Any) -> None:
        """Raise TypeError or ValueError, in one sentence, for what is no row of this task."""
        check_text(row, "the text")

    def size(self, row: Any) -> int:
        """Characters of a checked row."""
        return len(row)

    def encode(self, rows: Sequence[Any]) -> list[list[Encoding]]:
        """The encodings of each of some checked rows, one row's together."""
        return [[encoding] for encoding in self.tokenizer.encode(rows, max_length=self.max_length)]

    def extra(self, encodings: Sequence[Encoding]) -> dict[str, np.ndarray]:
        """More arguments of ``select``, each with a row for every encoding of a batch."""
        return {}

    def known_types(self, token_type_ids: np.ndarray) -> np.ndarray:
        """Token types that the model has: RoBERTa knows one, whatever its tokenizer says."""
        return np.minimum(token_type_ids, self.config.type_vocab_size - 1)

    @staticmethod
    def arguments(batch: dict[str, Any]) -> dict[str, Any]:
        """What the model is called with, of a batch's arrays, [B, T] each."""
        return {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}

    @staticmethod
    def select(outputs: Any, batch: dict[str, jax.Array]) -> Any:
        """What leaves the device, of the model's outputs: arrays with a row for each encoding."""
        return value_of(outputs.logits)

    def reduce(self, arrays: Any, encoding: Encoding) -> Any:
        """One encoding's part, of its rows of those arrays (NumPy)."""
        return np.asarray(arrays, np.float32)

    def answer(self, row: Any, encodings: Sequence[Encoding], parts: Sequence[Any]) -> Any:
        """The result for a row from the parts of its encodings."""
        raise NotImplementedError


def check_options(task: Task, *flags: str, **least: int) -> None:
    """Refuse options of a task that make no sense, all of them in one message.

    flags: those that are True or False. least: those that are integers, and how small they may be.

    Raises ValueError, naming them.
    """
    numbers = [
        number_problem(name, getattr(task, name), low, math.inf, int) for name, low in least.items()
    ]
    others = [flag_problem(name, getattr(task, name)) for name in flags]
    raise_if_any(type(task).__name__, numbers + others)


def check_texts(row: Any, names: Sequence[str]) -> None:
    """Refuse what is not as many texts as names."""
    if not isinstance(row, tuple | list) or len(row) != len(names):
        got = f"{len(row)} things" if isinstance(row, tuple | list) else type(row).__name__
        raise TypeError(f"expected {' and '.join(names)}, got {got}")
    for text, name in zip(row, names, strict=True):
        check_text(text, name)


def tokens_of(encodings: Sequence[Encoding]) -> tuple[int, bool]:
    """How many tokens the model saw, and whether anything was cut off."""
    return sum(len(e.ids) for e in encodings), any(e.truncated for e in encodings)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis, on the host and in float64."""
    wide = logits.astype(np.float64)
    values = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return values / values.sum(axis=-1, keepdims=True)


def interpret(logits: np.ndarray, config: Any) -> tuple[str, float, dict[str, float]]:
    """Label, score and probabilities of one row of float32 logits [labels].

    The softmax (sigmoid for independent labels) runs here, on the host and in float64: the model's
    own answer ends at the logits. A regression has a number for its score; one of several numbers
    has them all, by their labels' names, in place of probabilities.
    """
    names = [config.id2label[index] for index in range(config.num_labels)]
    regression = config.problem_type == "regression"
    if regression or (config.problem_type is None and config.num_labels == 1):
        several = dict(zip(names, logits.tolist(), strict=True)) if len(names) > 1 else {}
        return "", float(logits[0]), several
    if config.problem_type == "multi_label_classification":
        values = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
        chosen = [name for name, value in zip(names, values, strict=True) if value > 0.5]
        label = ", ".join(chosen)
    else:
        values = softmax(logits)
        label = names[int(values.argmax())]
    return label, float(values.max()), dict(zip(names, values.tolist(), strict=True))


@dataclass(frozen=True)
class SequenceClassification(Task):
    """Labels or a number for texts, or for pairs of texts."""

    head = "sequence_classification"
    result = Prediction
    asks = "a text, or a pair of texts"
    columns = (
        ("sentence1", "sentence2"),
        ("premise", "hypothesis"),
        ("text", "text_pair"),
        ("sentence",),
        ("text",),
    )

    def row(self, cells: Sequence[Any]) -> Any:
        if len(cells) > 2:
            raise ValueError(f"expected one column of texts, or two of pairs, got {len(cells)}")
        return cells[0] if len(cells) == 1 else tuple(cells)

    def check(self, row: Any) -> None:
        if isinstance(row, tuple | list):
            check_texts(row, ("the first text", "the second"))
        else:
            check_text(row, "the text")

    def size(self, row: Any) -> int:
        return len(row) if isinstance(row, str) else sum(map(len, row))

    def encode(self, rows: Sequence[Any]) -> list[list[Encoding]]:
        paired = [not isinstance(row, str) for row in rows]
        if not any(paired):
            return super().encode(rows)
        if all(paired):
            encodings = self.tokenizer.encode(
                [row[0] for row in rows], [row[1] for row in rows], max_length=self.max_length
            )
            return [[encoding] for encoding in encodings]
        return [self.encode([row])[0] for row in rows]  # mixed: rare, so merely right

    def answer(self, row: Any, encodings: Sequence[Encoding], parts: Sequence[Any]) -> Prediction:
        text, pair = (row, None) if isinstance(row, str) else row
        label, score, probabilities = interpret(parts[0], self.config)
        return Prediction(text, label, score, probabilities, *tokens_of(encodings), pair)


@dataclass(frozen=True)
class MultipleChoice(Task):
    """Which of several choices continues a prompt best.

    Choices are scored one by one, so their number costs no compilation.
    """

    head = "multiple_choice"
    result = Choice
    asks = "a prompt and a list of choices"
    columns = (("prompt", "choices"), ("question", "choices"))

    def row(self, cells: Sequence[Any]) -> Any:
        if len(cells) < 2:
            raise ValueError("expected a column of prompts and at least one of choices, got one")
        return cells[0], cells[1] if len(cells) == 2 else tuple(cells[1:])

    def check(self, row: Any) -> None:
        if not isinstance(row, tuple | list) or len(row) != 2:
            raise TypeError("expected a prompt and a list of choices, got something else")
        check_text(row[0], "the prompt")
        if not isinstance(row[1], tuple | list):
            raise TypeError(
                "expected a list of choices, or a column for each, got one "
                f"{type(row[1]).__name__}; name all columns of choices"
            )
        if not row[1]:
            raise ValueError("expected at least one choice, got none")
        for number, choice in enumerate(row[1], 1):
            check_text(choice, f"choice {number}")

    def size(self, row: Any) -> int:
        return len(row[0]) * len(row[1]) + sum(map(len, row[1]))

    def encode(self, rows: Sequence[Any]) -> list[list[Encoding]]:
        pairs = [(prompt, choice) for prompt, choices in rows for choice in choices]
        encodings = iter(
            self.tokenizer.encode(
                [pair[0] for pair in pairs], [pair[1] for pair in pairs], max_length=self.max_length
            )
        )
        return [[next(encodings) for _ in choices] for _, choices in rows]

    @staticmethod
    def arguments(batch: dict[str, Any]) -> dict[str, Any]:
        return {name: array[:, None] for name, array in Task.arguments(batch).items()}

    def answer(self, row: Any, encodings: Sequence[Encoding], parts: Sequence[Any]) -> Choice:
        prompt, choices = row
        probabilities = softmax(np.concatenate(parts))
        best = int(probabilities.argmax())
        return Choice(
            prompt,
            tuple(choices),
            choices[best],
            best,
            float(probabilities[best]),
            tuple(probabilities.tolist()),
            *tokens_of(encodings),
        )


@dataclass(frozen=True)
class Slot(Stretch):
    """A text with masks, encoded for one of them. slot: where among the tokens that mask is."""

    slot: int


@dataclass(frozen=True)
class MaskedLM(Task):
    """What stands where a token was masked. top_k: how many candidates a mask.

    A text is computed once a mask, and scored at that mask alone.
    """

    top_k: int = 5

    head = "masked_lm"
    result = Filled
    asks = "a text with masks"
    columns = (("text",), ("sentence",))

    def __post_init__(self) -> None:
        if self.tokenizer.mask_token is None:
            raise ValueError("expected a tokenizer with a mask token, this one has none")
        check_options(self, top_k=1)

    def encode(self, rows: Sequence[Any]) -> list[list[Encoding]]:
        mask = self.tokenizer.mask_token
        assert mask is not None
        encoded: list[list[Encoding]] = []
        stretches = self.tokenizer.stretches(rows, max_length=self.max_length, overlap=None)
        for (stretch,) in stretches:
            # A text without a mask is computed as well, for its one slot that nobody asks about.
            slots = np.flatnonzero(stretch.ids == mask[1]).tolist() or [-1]
            encoded.append([Slot(**vars(stretch), slot=slot) for slot in slots])
        return encoded

    def extra(self, encodings: Sequence[Encoding]) -> dict[str, np.ndarray]:
        slots = [max(getattr(encoding, "slot", 0), 0) for encoding in encodings]
        return {"slot": np.asarray(slots, np.int32)}

    @staticmethod
    def arguments(batch: dict[str, Any]) -> dict[str, Any]:
        arguments = Task.arguments(batch)
        if "slot" in batch:  # a sample to calibrate with has none: every token counts there
            arguments["scored_tokens"] = batch["slot"][:, None]
        return arguments

    @staticmethod
    def select(outputs: Any, batch: dict[str, jax.Array]) -> Any:
        return value_of(outputs.logits)[:, 0]

    def reduce(self, arrays: Any, encoding: Encoding) -> Any:
        """The best candidates; of equal ones the smaller id first."""
        logits = np.asarray(arrays, np.float32)
        count = min(self.top_k, len(logits))
        least = np.partition(logits, len(logits) - count)[len(logits) - count]
        ids = np.flatnonzero(logits >= least)
        ids = ids[np.argsort(-logits[ids], kind="stable")][:count]
        return list(zip(ids.tolist(), softmax(logits)[ids].tolist(), strict=True))

    def answer(self, row: Any, encodings: Sequence[Encoding], parts: Sequence[Any]) -> Filled:
        first: Any = encodings[0]
        ids, masks = first.ids.copy(), []
        encoding: Any
        for encoding, part in zip(encodings, parts, strict=True):
            if encoding.slot < 0:
                continue
            ids[encoding.slot] = part[0][0]
            start, end = encoding.spans[encoding.slot].tolist()
            found = (Candidate(self.tokenizer.decode([i]).strip(), i, p) for i, p in part)
            masks.append(Mask(start, end, tuple(found)))
        filled = self.tokenizer.decode(ids, skip_special_tokens=True)
        return Filled(row, filled, tuple(masks), *tokens_of([first]))


@dataclass(frozen=True)
class Embeddings(Task):
    """Vectors: the mean of the last hidden states over a text's tokens.

    Of a frozen program the integers are summed on the device and divided on the host, so that
    the vector depends on neither batch nor padding. normalize: whether to give vectors of
    length 1.
    """

    normalize: bool = False

    head = "model"
    result = Embedding
    asks = "a text"
    columns = (("sentence",), ("text",))
    integers = True

    def __post_init__(self) -> None:
        check_options(self, "normalize")

    @staticmethod
    def select(outputs: Any, batch: dict[str, jax.Array]) -> Any:
        hidden = outputs.last_hidden_state
        scale = jnp.float32(1)
        if isinstance(hidden, QuantizedTensor):  # the integers that the frozen program has
            hidden, scale = hidden.q, hidden.scale
        mask = batch["attention_mask"][:, :, None].astype(hidden.dtype)
        # 16-bit states of some hundred tokens: far inside int32.
        total = jnp.sum(hidden * mask, axis=1, dtype=hidden.dtype)
        return total, jnp.broadcast_to(scale, total.shape)

    def reduce(self, arrays: Any, encoding: Encoding) -> Any:
        total, scale = (np.asarray(array).astype(np.float64) for array in arrays)
        return total * scale / len(encoding.ids)

    def answer(self, row: Any, encodings: Sequence[Encoding], parts: Sequence[Any]) -> Embedding:
        vector = parts[0]
        if self.normalize:
            vector = vector / max(float(np.sqrt((vector**2).sum())), 1e-30)
        return Embedding(row, vector.astype(np.float32), *tokens_of(encodings))
