"""Sentences in, labels with probabilities out: in input order, with few compiled shapes."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from ibert_jax.inference.buckets import Batch, lengths_up_to, make_batches
from ibert_jax.quantize.tensor import value_of
from ibert_jax.tokenizer import Encoding, Tokenizer

# Batches that are tokenized, sorted by length and dispatched together. More means less padding,
# fewer means that the first answers come sooner; memory grows with it and with nothing else.
_BATCHES_PER_WINDOW = 32


@dataclass(frozen=True)
class Prediction:
    """What the model says about one text.

    text: the text as given. label: the most probable label, for a model of several independent
        labels the list of those above one half joined by ", ", for a regression the empty string.
    score: the label's probability, or a regression's value. probabilities: label to probability,
        in the model's order; empty for a regression. tokens: how many tokens the model saw.
    truncated: whether the text was longer than the model reads, so that its end was not seen.
    """

    text: str
    label: str
    score: float
    probabilities: Mapping[str, float]
    tokens: int
    truncated: bool


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


class Predictor:
    """Classifies texts with a frozen program or with a model in its float life.

    Texts are tokenized in windows, sorted by length, padded to one of a few lengths and batch
    sizes (so that few shapes are ever compiled), and answered in input order. Memory does not grow
    with the number of texts.

        predictor = Predictor.load(directory)
        for prediction in predictor.predict(lines):
            print(prediction.label, prediction.score)

    program: an `IntegerModel` or an `IBertForSequenceClassification`. tokenizer: its `Tokenizer`.
    batch_size: rows of a full batch. max_length: tokens a text is cut to, at most (and by default)
    what the model's positions allow.

    Raises ValueError where tokenizer and model do not fit each other.
    """

    def __init__(
        self,
        program: Any,
        tokenizer: Tokenizer,
        *,
        batch_size: int = 32,
        max_length: int | None = None,
    ) -> None:
        config = program.config
        if batch_size < 1:
            raise ValueError(f"expected batch_size of at least 1, got {batch_size}")
        if tokenizer.vocab_size > config.vocab_size:
            raise ValueError(
                f"expected a tokenizer of at most {config.vocab_size} tokens, as the model's "
                f"vocabulary, got {tokenizer.vocab_size}; tokenizer and model are not of one kind"
            )
        self.config = config
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.max_length = _usable_length(config, max_length)
        self.statistics = Statistics()
        self._lengths = lengths_up_to(self.max_length)
        self._logits = _compiled(program)

    @classmethod
    def load(cls, directory: str | Path, **options: Any) -> Predictor:
        """Read a model directory, frozen or float, with its tokenizer.

        options: as for the constructor. Raises FileNotFoundError or ValueError in one sentence
        where something is missing or damaged.
        """
        return cls(load_classifier(directory), Tokenizer.load(directory), **options)

    @classmethod
    def default(cls, **options: Any) -> Predictor:
        """The sentiment model that ships inside the package; needs no other file and no network."""
        return cls.load(default_directory(), **options)

    def __call__(self, texts: Sequence[str]) -> list[Prediction]:
        """Answer a list of texts, in its order."""
        if isinstance(texts, str):
            raise TypeError("expected a list of texts, got one string; put it in a list")
        return list(self.predict(texts))

    def predict(self, texts: Iterable[str]) -> Iterator[Prediction]:
        """Answer any number of texts one by one, in their order."""
        for rows, encodings, logits in self._windows(texts):
            for text, encoding, row in zip(rows, encodings, logits, strict=True):
                yield self._answer(text, encoding, row)

    def logits(self, texts: Iterable[str]) -> np.ndarray:
        """The model's float32 logits, [texts, labels], in input order."""
        windows = [logits for _, _, logits in self._windows(texts)]
        if not windows:
            return np.zeros((0, self.config.num_labels), np.float32)
        return np.concatenate(windows)

    def reset_statistics(self) -> None:
        """Start counting anew, for instance after a first run that had to compile."""
        self.statistics = Statistics()

    def _windows(
        self, texts: Iterable[str]
    ) -> Iterator[tuple[list[str], list[Encoding], np.ndarray]]:
        """Windows of texts with their encodings and float32 logits [window, labels]."""
        remaining = iter(texts)
        while rows := list(itertools.islice(remaining, self.batch_size * _BATCHES_PER_WINDOW)):
            started = time.perf_counter()
            encodings = self.tokenizer.encode(rows, max_length=self.max_length)
            logits = self._compute(encodings)
            self.statistics.seconds += time.perf_counter() - started
            self.statistics.rows += len(rows)
            self.statistics.tokens += sum(len(encoding.ids) for encoding in encodings)
            self.statistics.truncated += sum(encoding.truncated for encoding in encodings)
            yield rows, encodings, logits

    def _compute(self, encodings: Sequence[Encoding]) -> np.ndarray:
        """Logits of a window: every batch is dispatched before the first result is waited for."""
        batches = make_batches(
            encodings, self._lengths, self.batch_size, pad_token_id=self.config.pad_token_id
        )
        pending: list[tuple[Batch, Any]] = []
        for batch in batches:
            self.statistics.padded_tokens += batch.input_ids.size
            pending.append((batch, self._logits(batch.input_ids, batch.attention_mask)))
        result: np.ndarray | None = None
        for batch, device_logits in pending:
            rows = np.asarray(device_logits, np.float32)[: len(batch.positions)]
            if result is None:
                result = np.empty((len(encodings), rows.shape[1]), np.float32)
            result[batch.positions] = rows
        assert result is not None, "a window holds at least one text"
        return result

    def _answer(self, text: str, encoding: Encoding, logits: np.ndarray) -> Prediction:
        """The prediction for one text from its float32 logits [labels]."""
        label, score, probabilities = interpret(logits, self.config)
        return Prediction(text, label, score, probabilities, len(encoding.ids), encoding.truncated)


def interpret(logits: np.ndarray, config: Any) -> tuple[str, float, dict[str, float]]:
    """Label, score and probabilities of one row of float32 logits [labels].

    The softmax (sigmoid for independent labels) runs here, on the host and in float64: the model's
    own answer ends at the logits.
    """
    if config.problem_type == "regression" or config.num_labels == 1:
        return "", float(logits[0]), {}
    wide = logits.astype(np.float64)
    names = [config.id2label[index] for index in range(config.num_labels)]
    if config.problem_type == "multi_label_classification":
        values = 1.0 / (1.0 + np.exp(-wide))
        chosen = [name for name, value in zip(names, values, strict=True) if value > 0.5]
        label = ", ".join(chosen)
    else:
        values = np.exp(wide - wide.max())
        values /= values.sum()
        label = names[int(values.argmax())]
    return label, float(values.max()), dict(zip(names, values.tolist(), strict=True))


def load_classifier(directory: str | Path) -> Any:
    """Read a sequence classifier: an `IntegerModel` where the directory holds one, else a float
    or quantization-aware `IBertForSequenceClassification`.

    Raises FileNotFoundError where the directory is missing or holds neither.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(
            f"expected a model directory, {directory} is not one; check the path for a typo"
        )
    if (directory / "integer_model.json").is_file():
        from ibert_jax.frozen import IntegerModel

        return IntegerModel.load(directory)
    if (directory / "config.json").is_file():
        return _load_checkpoint(directory)
    raise FileNotFoundError(
        f"expected integer_model.json (a frozen model) or config.json (a checkpoint) in "
        f"{directory}, found neither; it is not a model directory or lost files in copying"
    )


def _load_checkpoint(directory: Path) -> Any:
    """A float or quantization-aware classifier whose head was trained."""
    from ibert_jax.checkpoints.files import open_weights
    from ibert_jax.models import IBertForSequenceClassification

    problems: list[str] = []
    names = open_weights(directory, problems)  # reads names alone, not the weights
    if not problems and not any("classifier" in name for name in names):
        raise ValueError(
            f"expected a classifier in {directory}, got an encoder without a head, whose answers "
            "would be random; train it first"
        )
    model = IBertForSequenceClassification.from_pretrained(directory)
    # A model that was trained quantization-aware answers in the life it was trained for.
    return model.quantize() if model.config.quant_mode else model


def default_directory() -> Path:
    """Where the model that ships inside the package lies."""
    directory = Path(__file__).parents[1] / "assets"
    if not (directory / "integer_model.json").is_file():
        raise FileNotFoundError(
            f"expected the default model in {directory}, it is not there; install the package again"
        )
    return directory


def _usable_length(config: Any, max_length: int | None) -> int:
    """The longest input in tokens: what was asked for, if the model's positions allow it."""
    positions = config.max_sequence_length
    if max_length is None:
        return positions
    if not 3 <= max_length <= positions:
        raise ValueError(
            f"expected max_length from 3 to {positions}, the model's positions, got {max_length}"
        )
    return max_length


def _compiled(program: Any) -> Callable[[np.ndarray, np.ndarray], Any]:
    """A function from input ids and mask, int32 [B, T] each, to logits float32 [B, labels]."""
    if isinstance(program, nnx.Module):
        graph, state = nnx.split(program)
        return functools.partial(_model_logits, graph, state)
    return functools.partial(_program_logits, program)


# Parameters are arguments, not constants of the compiled program, and jit's cache is shared by all
# predictors: a second one for a model of the same shapes compiles nothing.
@functools.partial(jax.jit, static_argnums=0)
def _model_logits(graph: Any, state: Any, input_ids: Any, attention_mask: Any) -> Any:
    model = nnx.merge(graph, state)
    model.eval()
    # A quantization-aware model answers with integers and a scale; what they stand for is wanted.
    return value_of(model(input_ids, attention_mask=attention_mask, return_dict=True).logits)


@jax.jit
def _program_logits(program: Any, input_ids: Any, attention_mask: Any) -> Any:
    return program(input_ids, attention_mask=attention_mask, return_dict=True).logits
