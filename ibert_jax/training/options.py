"""What a training run is asked to do."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# These change how a run is carried out, but not the weights it ends with.
_FREE = ("checkpoint_every", "keep_checkpoints", "log_every", "dev_file")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """A finetuning run: a float stage, then a quantization-aware stage with its own schedule.

    The defaults of the float stage are the usual recipe of BERT classifiers; those of the second
    follow I-BERT: a much smaller learning rate and no warm-up.

    Attributes:
      model: a Hugging Face directory (I-BERT, RoBERTa or BERT; safetensors) with its tokenizer.
      train_files: labelled sentences, read one after the other: .tsv (quotes mean nothing), .csv or
        .jsonl, UTF-8.
      dev_file: labelled sentences for evaluation only: nothing is chosen by them. None: no
        evaluation.
      output: the run directory; a run that was cut short continues from what it finds there.
      text_column, label_column: columns (JSON keys) of the files; a label is a name or an index.
      labels: the names of the labels in the order of their indices. None: those of the model.
      float_epochs, qat_epochs: passes over the data in each stage; 0 leaves a stage out.
      learning_rate, qat_learning_rate: the peak of each stage's schedule.
      warmup, qat_warmup: the share of a stage's steps in which the rate rises linearly; in the
        others it falls linearly to 0.
      batch_size: sentences a step.
      max_length: tokens at which a sentence is cut.
      length_buckets: how many different sentence lengths are compiled, at most.
      weight_decay: AdamW's; not applied to biases and LayerNorm.
      clip_norm: gradients with a larger global norm are scaled down to it.
      dropout, attention_dropout: override the model's configuration.
      scheme: the quantization scheme, "channel" or "reference". None: that of the model.
      calibration_sentences: how many training sentences fill the activation ranges.
      seed: of the order of the data, of dropout and of a new classification head.
      max_steps: ends each stage after so many steps (its schedule too); for trying things out.
      checkpoint_every: steps between checkpoints.
      keep_checkpoints: how many of the latest are kept.
      log_every: steps between lines of the metrics file.
    """

    model: str
    train_files: tuple[str, ...]
    output: str
    dev_file: str | None = None
    text_column: str = "sentence"
    label_column: str = "label"
    labels: tuple[str, ...] | None = None
    float_epochs: int = 2
    qat_epochs: int = 1
    learning_rate: float = 5e-5
    qat_learning_rate: float = 5e-6
    warmup: float = 0.1
    qat_warmup: float = 0.0
    batch_size: int = 32
    max_length: int = 128
    length_buckets: int = 8
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    dropout: float | None = None
    attention_dropout: float | None = None
    scheme: str | None = None
    calibration_sentences: int = 512
    seed: int = 0
    max_steps: int | None = None
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    log_every: int = 20

    def __post_init__(self) -> None:
        if isinstance(self.train_files, str):
            raise TypeError(
                f"TrainOptions: train_files must be a tuple of paths, got the string "
                f"{self.train_files!r}; write ({self.train_files!r},)"
            )
        object.__setattr__(self, "train_files", tuple(map(str, self.train_files)))
        if self.labels is not None:
            object.__setattr__(self, "labels", tuple(map(str, self.labels)))
        problems = list(self._problems())
        if problems:
            raise ValueError("TrainOptions: " + "; ".join(problems))

    def _problems(self):
        """Every value out of range, as `name must be ..., got ...`."""
        if not self.train_files:
            yield "train_files must name at least one file, got none"
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            yield f"labels must differ from each other, got {', '.join(self.labels)}"
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not (_is_integer(value) and value >= least):
                yield f"{name} must be an integer of at least {least}, got {value!r}"
        for name in ("learning_rate", "qat_learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                yield f"{name} must be a positive number, got {getattr(self, name)!r}"
        for name in ("warmup", "qat_warmup", "weight_decay", "dropout", "attention_dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                yield f"{name} must be at least 0 and less than 1, got {value!r}"
        if self.float_epochs == 0 == self.qat_epochs:
            yield "float_epochs and qat_epochs must not both be 0"

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def differences(self, earlier: dict[str, Any]) -> list[str]:
        """What would end in other weights than the options of an earlier run (its `to_dict`).

        Paths are compared as they were given, the output directory not at all.
        """
        mine = self.to_dict()
        return [
            f"{name} was {earlier.get(name)!r} and is {value!r}"
            for name, value in mine.items()
            if name not in (*_FREE, "output") and earlier.get(name) != value
        ]

    @property
    def run_directory(self) -> Path:
        """`output` as a path."""
        return Path(self.output)


_LEAST = {
    "float_epochs": 0,
    "qat_epochs": 0,
    "batch_size": 1,
    "max_length": 3,
    "length_buckets": 1,
    "calibration_sentences": 1,
    "seed": 0,
    "max_steps": 1,
    "checkpoint_every": 1,
    "keep_checkpoints": 1,
    "log_every": 1,
}


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
