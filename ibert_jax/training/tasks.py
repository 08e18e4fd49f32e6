"""What a task is: a table of facts, not code."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ibert_jax.settings import number_problem, settle_numbers

KINDS = (
    "classification",
    "regression",
    "token_classification",
    "question_answering",
    "multiple_choice",
    "masked_lm",
)
LAYOUTS = ("tsv", "csv", "json", "parquet", "conll", "lines")
METRICS = {
    "classification": ("accuracy", "matthews", "f1"),
    "regression": ("pearson", "spearman"),
    "token_classification": ("f1", "precision", "recall", "accuracy"),
    "question_answering": ("f1", "exact_match"),
    "multiple_choice": ("accuracy",),
    "masked_lm": ("perplexity", "accuracy"),
}
"""What is measured of each kind, the usual choice of `Task.metric` first."""

LEAST_LENGTH = {**dict.fromkeys(KINDS, 3), "question_answering": 8}
"""Of `Task.max_length`: a token of text beside the special ones; of a question, a token of it and
more of its context."""

_FIELDS = {
    "token_classification": ("tokens", "tags"),
    "question_answering": ("question", "answers"),
    "masked_lm": ("text", ""),
}
"""The usual `text` and `label` of a kind, where they are not `sentence` and `label`."""
_BUILT_IN = Path(__file__).with_name("tasks.toml")
_TEXTS = ("columns", "choices", "metric", "labels", "unlabelled", "hub", "splits")
_STRINGS = ("name", "kind", "text", "pair", "label", "layout")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Which fields of a row mean what, and how answers are measured.

    A field is named as the file names it: a column, a JSON key, or keys joined by dots.

    Attributes:
      name: what it is called.
      kind: one of `KINDS`. A classification or regression with a `pair` is one of pairs.
      text: the sentence, the question, the text before the choices, the words (a list).
      pair: the second sentence; the context of a question; for multiple choice, what stands
        before each choice.
      label: a label's name or index, a number, a list of tags, or a question's answers.
      labels: the labels' names in the order of their indices. None: those of the model, or for
        token classification those that the training files hold.
      unlabelled: labels whose rows are passed over.
      choices: for multiple choice, one field that holds a list, or one field a choice. Elements
        of a list are strings, or objects with `text` and `label` (which `label` then names).
      metric: one of the kind's `METRICS`, or several, whose mean then counts (as in GLUE).
      layout: how files are written, one of `LAYOUTS`. None: as their names' ends tell.
      columns: the columns' names, for tables without a header line.
      max_length: tokens at which an example is cut, 3 or more; questions have windows of so many,
        8 or more.
      stride: tokens by which the windows of a long context overlap, 0 or more; a third of a
        window's room at most, whatever is asked for.
      mask_probability: the share of tokens to be guessed in masked language modelling.
      hub: the data set's id for Hugging Face `datasets`, and its configuration, if any.
      splits: its splits for training and evaluation.

    Raises:
      ValueError: every field that makes no sense, in one message.
    """

    name: str
    kind: str
    text: str = ""
    pair: str | None = None
    label: str = ""
    labels: tuple[str, ...] | None = None
    unlabelled: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    metric: tuple[str, ...] = ()
    layout: str | None = None
    columns: tuple[str, ...] | None = None
    max_length: int | None = None
    stride: int = 128
    mask_probability: float = 0.15
    hub: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("train", "validation")

    def __post_init__(self) -> None:
        settle_numbers(self)
        problems = list(self._wrong_types())
        if not problems:
            self._settle()
            problems = list(self._problems())
        if problems:
            raise ValueError(f"task {self.name!r}: " + "; ".join(problems))

    def _wrong_types(self):
        """Every field of text that holds something else."""
        for name in _STRINGS:
            value = getattr(self, name)
            if not isinstance(value, str) and (name in ("name", "kind") or value is not None):
                yield f"{name} must be a string, got {value!r}"
        for name in _TEXTS:
            value = getattr(self, name)
            left_out = value is None is getattr(type(self), name)
            if not left_out and not isinstance(value, Iterable):
                yield f"{name} must be a list of strings, got {value!r}"

    def _settle(self) -> None:
        """The usual values for what was not given, and tuples for lists."""
        for name in _TEXTS:
            value = getattr(self, name)
            if value is not None:
                words = (value,) if isinstance(value, str) else tuple(map(str, value))
                object.__setattr__(self, name, words)
        text, label = _FIELDS.get(self.kind, ("sentence", "label"))
        defaults: dict[str, Any] = {
            "text": text,
            "label": label,
            "metric": METRICS.get(self.kind, ())[:1],
            "max_length": 384 if self.kind == "question_answering" else 128,
        }
        if self.kind == "question_answering":
            defaults["pair"] = "context"
        for name, default in defaults.items():
            if getattr(self, name) in (None, "", ()):
                object.__setattr__(self, name, default)

    def _problems(self):
        """Every field that makes no sense."""
        if self.kind not in KINDS:
            yield f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}"
            return
        unknown = [name for name in self.metric if name not in METRICS[self.kind]]
        if unknown:
            known = ", ".join(METRICS[self.kind])
            yield f"metric must be among {known} for {self.kind}, got {', '.join(unknown)}"
        if self.layout is not None and self.layout not in LAYOUTS:
            yield f"layout must be one of {', '.join(LAYOUTS)}, got {self.layout!r}"
        if (self.kind == "multiple_choice") != bool(self.choices):
            yield "choices must be given for multiple_choice, and for nothing else"
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            yield f"labels must differ from each other, got {', '.join(self.labels)}"
        if len(self.splits) != 2:
            yield f"splits must name two, for training and evaluation, got {len(self.splits)}"
        for name, least in (("max_length", LEAST_LENGTH[self.kind]), ("stride", 0)):
            problem = number_problem(name, getattr(self, name), least, math.inf, int)
            if problem is not None:
                yield problem
        share = self.mask_probability
        if not isinstance(share, int | float) or not 0 < share < 1:
            yield f"mask_probability must be between 0 and 1, got {share!r}"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], name: str = "task") -> Self:
        """The task of a table; `name` where the table has none.

        Raises ValueError for a field that is not known, or missing.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown or "kind" not in values:
            what = f"unknown fields {', '.join(unknown)}" if unknown else "no kind"
            raise ValueError(f"task {name!r}: expected fields {', '.join(known)}, got {what}")
        return cls(**{"name": name, **values})

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them; `from_dict` reads them."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def replace(self, **changes: Any) -> Self:
        """A copy with changes; those that are None are left out."""
        given = {name: value for name, value in changes.items() if value is not None}
        return dataclasses.replace(self, **given)

    def primary(self, measured: Mapping[str, float]) -> float:
        """The one number that counts, from all that was measured."""
        return sum(measured[name] for name in self.metric) / len(self.metric)

    @property
    def rising(self) -> bool:
        """Whether more is better."""
        return self.metric != ("perplexity",)


def load_task(name: str | Path) -> Task:
    """A built-in task by its name, or one from a .toml or .json file.

    Raises:
      ValueError: neither; or the file holds no table of a task.
    """
    built_in = built_in_tasks()
    if str(name) in built_in:
        return built_in[str(name)]
    path = Path(str(name))
    if path.suffix.lower() not in (".toml", ".json") or not path.is_file():
        raise ValueError(
            f"expected a task's name ({', '.join(built_in)}) or a .toml or .json file that "
            f"describes one, got {str(name)!r}"
        )
    return Task.from_dict(_read_table(path), path.stem)


def built_in_tasks() -> dict[str, Task]:
    """The tasks that are known by name."""
    return {name: Task.from_dict(table, name) for name, table in _read_table(_BUILT_IN).items()}


def _read_table(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
        values = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except ValueError as error:  # the decoders' errors are all of this kind
        raise ValueError(
            f"expected a task's table in {path}, could not read it ({error})"
        ) from None
    if not isinstance(values, dict):
        raise ValueError(f"expected a task's table in {path}, got a {type(values).__name__}")
    return values
