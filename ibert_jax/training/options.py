"""What a training run is asked to do."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ibert_jax.config import FORCE_DEQUANT
from ibert_jax.quant_config import QuantConfig
from ibert_jax.settings import (
    choice_problem,
    flag_problem,
    number_problem,
    plain_number,
    settle_numbers,
)
from ibert_jax.training.tasks import Task, load_task

# These change how a run is carried out, but not the weights it ends with.
_FREE = ("output", "checkpoint_every", "keep_checkpoints", "log_every", "tensorboard")
_EVALUATION = ("dev_file", "max_dev_examples")
QUANTIZATION = ("scheme", "weight_bits", "activation_bits", "momentum")
"""Options that are settings of the `QuantConfig` by the same name."""
_FLAGS = ("continue_float", "select_best", "bfloat16", "tensorboard")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """A finetuning run: a float stage, then a quantization-aware stage with its own schedule.

    The defaults of the float stage are the usual recipe of BERT classifiers; those of the second
    follow I-BERT: a much smaller learning rate and no warm-up. A third run may go on from the end
    of the float stage in float, under the second's schedule, so that the two can be compared.

    Attributes:
      model: a Hugging Face directory (I-BERT, RoBERTa or BERT; safetensors) with its tokenizer.
      task: a `Task`, its table, or the name or file of one; None is `classification`, of single
        sentences.
      train_files: labelled examples, read one file after the other, UTF-8. None at all: the
        task's data set from the Hugging Face hub.
      dev_file: labelled examples for evaluation. None: no evaluation (or the hub's split).
      output: the run directory; a run that was cut short continues from what it finds there.
      text_column, label_column: the task's `text` and `label`, where the files name them
        otherwise; a label is a name or an index.
      labels: the names of the labels in the order of their indices. None: the task's, or else
        those of the model.
      max_train_examples, max_dev_examples: read no more than the first so many.
      float_epochs, qat_epochs: passes over the data in each stage; 0 leaves a stage out.
      continue_float: do the third run as well, of `qat_epochs`, 1 or more; its model is
        `float_continued`.
      select_best: end each stage with the weights of its best epoch on the dev file. By default
        with those of the last step: nothing is chosen.
      learning_rate, qat_learning_rate: the peak of each stage's schedule.
      warmup, qat_warmup: the share of a stage's steps in which the rate rises linearly; in the
        others it falls linearly to 0.
      batch_size: examples a step.
      accumulate: equal parts of a batch, computed one after the other to save memory; the step
        stays one step on the gradient of the whole batch.
      bfloat16: the float stages round the operands of matmuls to bfloat16 on GPUs and TPUs;
        sums, activations, weights and the optimizer's state stay float32. Without it they are what
        JAX makes of float32 there: TensorFloat-32 on newer GPUs, unless
        `jax.default_matmul_precision` says otherwise.
      devices: how many local devices share each batch. None: as many as can have equal shares.
      max_length: tokens at which an example is cut; questions have windows of so many. None:
        the task's.
      length_buckets: how many different lengths are compiled, at most.
      weight_decay: AdamW's; not applied to biases and LayerNorm.
      clip_norm: gradients with a larger global norm are scaled down to it.
      rate_factors: pattern of parameters' names -> factor of their learning rate, such as
        {"classifier.*": 10, "embeddings.*": 0}. Names are without the backbone's `ibert.`; `*`
        matches dots too; where several match, the last counts.
      dropout, attention_dropout: override the model's configuration.
      scheme, weight_bits, activation_bits, momentum: override those settings of the model's
        `QuantConfig`; momentum -1 is the running minimum and maximum.
      bit_overrides: more `overrides` of the `QuantConfig`, pattern of leaves -> settings.
      force_dequant: nonlinear functions left in float once quantized, as of `IBertConfig`.
      calibration_sentences: how many training examples fill the activation ranges.
      freeze_ranges_after: steps of the quantization-aware stage after which its ranges stay as
        they are. None: they follow the activations to its end.
      seed: of the order of the data, of dropout and of a new head.
      max_steps: ends each stage after so many steps (its schedule too); for trying things out.
      checkpoint_every: steps between checkpoints.
      keep_checkpoints: how many of the latest are kept.
      log_every: steps between lines of the metrics file.
      tensorboard: write the metrics for TensorBoard, too, to `tensorboard/` of the run.

    Raises:
      ValueError: every value that makes no sense, in one message.
      TypeError: one string in place of a tuple of them.
    """

    model: str
    output: str
    train_files: tuple[str, ...] = ()
    dev_file: str | None = None
    task: Any = None
    text_column: str | None = None
    label_column: str | None = None
    labels: tuple[str, ...] | None = None
    max_train_examples: int | None = None
    max_dev_examples: int | None = None
    float_epochs: int = 2
    qat_epochs: int = 1
    continue_float: bool = False
    select_best: bool = False
    learning_rate: float = 5e-5
    qat_learning_rate: float = 5e-6
    warmup: float = 0.1
    qat_warmup: float = 0.0
    batch_size: int = 32
    accumulate: int = 1
    bfloat16: bool = False
    devices: int | None = None
    max_length: int | None = None
    length_buckets: int = 8
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    rate_factors: Any = ()
    dropout: float | None = None
    attention_dropout: float | None = None
    scheme: str | None = None
    weight_bits: int | None = None
    activation_bits: int | None = None
    momentum: float | None = None
    bit_overrides: Any = ()
    force_dequant: str | None = None
    calibration_sentences: int = 512
    freeze_ranges_after: int | None = None
    seed: int = 0
    max_steps: int | None = None
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    log_every: int = 20
    tensorboard: bool = False

    def __post_init__(self) -> None:
        settle_numbers(self)
        object.__setattr__(self, "train_files", _texts("train_files", self.train_files))
        if self.labels is not None:
            object.__setattr__(self, "labels", _texts("labels", self.labels))
        for name in ("model", "output", "dev_file"):
            if isinstance(getattr(self, name), os.PathLike):
                object.__setattr__(self, name, str(getattr(self, name)))
        object.__setattr__(self, "rate_factors", _factors(self.rate_factors))
        object.__setattr__(self, "task", self._settled_task())
        problems = list(self._problems())
        if problems:
            raise ValueError("TrainOptions: " + "; ".join(problems))
        overrides = QuantConfig(overrides=self.bit_overrides).overrides
        settled = tuple((pattern, dict(settings)) for pattern, settings in overrides)
        object.__setattr__(self, "bit_overrides", settled)

    def _settled_task(self) -> Task:
        """The task with what the options change of it."""
        task = self.task or "classification"
        if isinstance(task, dict):
            task = Task.from_dict(task)
        elif not isinstance(task, Task):
            task = load_task(task)
        return task.replace(
            text=self.text_column,
            label=self.label_column,
            labels=self.labels,
            max_length=self.max_length,
        )

    def _problems(self):
        """Every value out of range, as `name must be ..., got ...`."""
        if not self.train_files and not self.task.hub:
            yield "train_files must name at least one file, got none"
        tagging = self.task.kind == "token_classification"
        if not self.train_files and tagging and self.task.labels is None:
            yield "labels must be named for tags of the hub, which only files are searched for"
        if self.select_best and not self.evaluates:
            yield "select_best needs a dev_file, got none"
        for name in ("model", "output", "dev_file"):
            if not (isinstance(getattr(self, name), str) or self._is_left_out(name)):
                yield f"{name} must be a path, got {getattr(self, name)!r}"
        yield from filter(None, (flag_problem(name, getattr(self, name)) for name in _FLAGS))
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not (self._is_left_out(name) or (_is_integer(value) and value >= least)):
                yield f"{name} must be an integer of at least {least}, got {value!r}"
        for name in ("learning_rate", "qat_learning_rate", "clip_norm"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 < value < math.inf):
                yield f"{name} must be a positive number, got {value!r}"
        for name in ("warmup", "qat_warmup", "weight_decay", "dropout", "attention_dropout"):
            value = getattr(self, name)
            if not (self._is_left_out(name) or (_is_number(value) and 0 <= value < 1)):
                yield f"{name} must be at least 0 and less than 1, got {value!r}"
        for pattern, factor in self.rate_factors:
            problem = number_problem(f"rate_factors of {pattern!r}", factor, 0, math.inf, float)
            if problem is not None:
                yield problem
        yield from self._quantization_problems()
        shares = self.accumulate, self.devices or 1
        numbers = all(map(_is_integer, (*shares, self.batch_size))) and min(shares) > 0
        if numbers and self.batch_size % math.prod(shares):
            yield (
                f"batch_size must be a multiple of accumulate times devices, {math.prod(shares)}, "
                f"got {self.batch_size}"
            )
        if self.float_epochs == 0 == self.qat_epochs:
            yield "float_epochs and qat_epochs must not both be 0"
        if self.continue_float and self.qat_epochs == 0:
            yield "continue_float goes on for qat_epochs, which must then be at least 1, got 0"

    def quantization(self) -> dict[str, Any]:
        """What the options change of the model's `QuantConfig`, besides its overrides."""
        given = {name: getattr(self, name) for name in QUANTIZATION}
        return {name: value for name, value in given.items() if value is not None}

    def _quantization_problems(self) -> Iterator[str]:
        """What the configurations that will hold them would refuse."""
        try:
            QuantConfig(**self.quantization(), overrides=self.bit_overrides)
        except ValueError as error:
            yield str(error).removeprefix("QuantConfig: ")
        if self.force_dequant is not None:
            problem = choice_problem("force_dequant", self.force_dequant, FORCE_DEQUANT)
            if problem is not None:
                yield problem

    def _is_left_out(self, name: str) -> bool:
        """Whether an option that may be None is."""
        return getattr(self, name) is None and getattr(type(self), name, "") is None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def differences(self, earlier: dict[str, Any]) -> list[str]:
        """What would end in other weights than the options of an earlier run (its `to_dict`).

        Paths are compared as they were given, the output directory not at all.
        """
        mine = self.to_dict()
        # What an earlier version did not know had the value that is its default now.
        earlier = _defaults() | earlier
        # What is evaluated on matters where it chooses.
        free = _FREE if self.select_best else (*_FREE, *_EVALUATION)
        return [
            said
            for name, value in mine.items()
            if name not in free
            for said in _differences(name, earlier.get(name), value)
        ]

    @property
    def evaluates(self) -> bool:
        """Whether there are examples to evaluate on."""
        return self.dev_file is not None or not self.train_files


def _differences(name: str, earlier: Any, value: Any) -> Iterator[str]:
    """How a value differs from an earlier one, key by key where both are tables."""
    if isinstance(earlier, dict) and isinstance(value, dict):
        for key in {**earlier, **value}:
            yield from _differences(f"{name}.{key}", earlier.get(key), value.get(key))
    elif earlier != value:
        yield f"{name} was {earlier!r} and is {value!r}"


_LEAST = {
    "float_epochs": 0,
    "qat_epochs": 0,
    "batch_size": 1,
    "accumulate": 1,
    "devices": 1,
    "freeze_ranges_after": 0,
    "max_train_examples": 1,
    "max_dev_examples": 1,
    "length_buckets": 1,
    "calibration_sentences": 1,
    "seed": 0,
    "max_steps": 1,
    "checkpoint_every": 1,
    "keep_checkpoints": 1,
    "log_every": 1,
}


def _defaults() -> dict[str, Any]:
    """Of the options that have one, as JSON would hold it."""
    found = {field.name: field.default for field in dataclasses.fields(TrainOptions)}
    given = {name: value for name, value in found.items() if value is not dataclasses.MISSING}
    return json.loads(json.dumps(given))


def _texts(name: str, given: Any) -> tuple[str, ...]:
    """Paths or names; one alone would be read letter by letter."""
    if isinstance(given, str | os.PathLike):
        raise TypeError(
            f"TrainOptions: {name} must be a tuple, got {given!r} alone; write ({given!r},)"
        )
    if not isinstance(given, Iterable):
        raise ValueError(f"TrainOptions: {name} must be a tuple of strings, got {given!r}")
    return tuple(map(str, given))


def _factors(given: Any) -> tuple[tuple[str, Any], ...]:
    """`rate_factors` as pairs, whose order counts."""
    try:
        pairs = given.items() if isinstance(given, Mapping) else given
        return tuple((str(key), plain_number(value)) for key, value in pairs)
    except (TypeError, ValueError):
        raise ValueError(
            f"TrainOptions: rate_factors must map patterns of names to values, got {given!r}"
        ) from None


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_integer(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
