"""Configuration of the network and of its quantization.

:class:`IBertConfig` carries the field names and defaults of Hugging Face's ``IBertConfig``, reads
the ``config.json`` of I-BERT, RoBERTa and BERT checkpoints and writes one that Hugging Face reads.
What is ours, how the network becomes integers, is a :class:`QuantConfig` inside it.

Both are immutable and hashable, so they can be static attributes of modules under ``jax.jit``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn, Self

from ibert_jax.files import read_json_object, write_whole
from ibert_jax.quant_config import QuantConfig
from ibert_jax.settings import (
    choice_problem,
    number_problem,
    plain_number,
    raise_if_any,
    settle_numbers,
)

ROBERTA_LIKE = ("ibert", "roberta", "xlm-roberta", "camembert")
"""Model types whose positions start at ``pad_token_id + 1``, as ours do."""

MODEL_TYPES = (*ROBERTA_LIKE, "bert")
FORCE_DEQUANT = ("none", "gelu", "softmax", "layernorm", "nonlinear")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


def _refuse(*_: object, **__: object) -> NoReturn:
    raise TypeError("a configuration cannot be changed in place; use config.replace(...)")


class _FixedDict(dict[Any, Any]):
    """A dict that cannot change: it lives in hashable objects."""

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = _refuse
    setdefault = update = _refuse  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


class _FixedList(list[Any]):
    """A list that cannot change."""

    __setitem__ = __delitem__ = __iadd__ = __imul__ = append = clear = extend = _refuse
    insert = pop = remove = reverse = sort = _refuse  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (list(self),)


def _copied(value: Any, mapping: type[dict] = dict, sequence: type[list] = list) -> Any:
    """A JSON value anew, of such mappings and sequences and Python's numbers."""
    if isinstance(value, Mapping):
        return mapping({k: _copied(v, mapping, sequence) for k, v in value.items()})
    if isinstance(value, list | tuple):
        return sequence(_copied(v, mapping, sequence) for v in value)
    return plain_number(value)


def _fixed(value: Any) -> Any:
    """The same where nothing can be changed."""
    return _copied(value, _FixedDict, _FixedList)


# name, smallest, largest, type
_NUMBERS: tuple[tuple[str, float, float, type], ...] = (
    ("vocab_size", 1, math.inf, int),
    ("hidden_size", 1, math.inf, int),
    ("num_hidden_layers", 1, math.inf, int),
    ("num_attention_heads", 1, math.inf, int),
    ("intermediate_size", 1, math.inf, int),
    ("max_position_embeddings", 1, math.inf, int),
    ("type_vocab_size", 1, math.inf, int),
    ("num_labels", 1, math.inf, int),
    ("pad_token_id", 0, math.inf, int),
    ("hidden_dropout_prob", 0, 1, float),
    ("attention_probs_dropout_prob", 0, 1, float),
    ("initializer_range", 0, math.inf, float),
    ("layer_norm_eps", 0, math.inf, float),
)
_FLAGS = ("quant_mode", "output_attentions", "output_hidden_states", "return_dict")

# What config.json says of the file it lay beside (we write float32), and what is read elsewhere.
# A masked language model's decoder is the table of words here, as is Hugging Face's default.
_NOT_KEPT = ("quantization", "dtype", "torch_dtype", "transformers_version", "tie_word_embeddings")

# What transformers takes for a model type's tokenizer; for "ibert", as we write it, RoBERTa's.
_TOKENIZERS = {
    "bert": "BertTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
}

# Settings that Hugging Face leaves out of config.json while they have their default value.
_WRITTEN_IF_SET: Mapping[str, Any] = {
    "problem_type": None,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
}


@dataclass(frozen=True)
class IBertConfig:
    """The network, in Hugging Face's names and defaults.

    Positions count from ``pad_token_id + 1`` (RoBERTa's convention), so the longest sequence is
    ``max_position_embeddings - pad_token_id - 1``: see :attr:`max_sequence_length`.

    Labels: give ``num_labels`` (names become LABEL_0, LABEL_1, ...), ``id2label`` or ``label2id``;
    they must agree. The default is two labels.

    Attributes that are not Hugging Face's:
      quantization: a :class:`QuantConfig`, or a mapping of its settings.
      extra: entries of a config.json that mean nothing here; kept and written back.

    >>> IBertConfig(vocab_size=50265, max_position_embeddings=514).max_sequence_length
    512

    Raises:
      ValueError: every setting that is out of range or unsupported, in one message.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    position_embedding_type: str = "absolute"
    quant_mode: bool = False
    force_dequant: str = "none"
    num_labels: int = None  # type: ignore[assignment]  # an int once constructed
    id2label: dict[int, str] = None  # type: ignore[assignment]
    label2id: dict[str, int] = None  # type: ignore[assignment]
    problem_type: str | None = None
    output_attentions: bool = False
    output_hidden_states: bool = False
    return_dict: bool = True
    quantization: QuantConfig = field(default_factory=QuantConfig)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settle_numbers(self)
        for name in ("eos_token_id", "extra"):
            object.__setattr__(self, name, _fixed(getattr(self, name)))
        self._settle_labels()
        if isinstance(self.quantization, Mapping):
            object.__setattr__(self, "quantization", QuantConfig.from_dict(self.quantization))
        if not isinstance(self.extra, Mapping):
            raise ValueError(f"IBertConfig: extra must be a mapping, got {self.extra!r}")
        raise_if_any("IBertConfig", self._problems())
        for name, *_, kind in _NUMBERS:  # Hugging Face refuses a file with 0 for 0.0
            object.__setattr__(self, name, kind(getattr(self, name)))

    def _settle_labels(self) -> None:
        """Derives whichever of num_labels, id2label and label2id was not given."""
        count, names, numbers = self.num_labels, self.id2label, self.label2id
        if numbers is not None and not isinstance(numbers, Mapping):
            raise ValueError(f"IBertConfig: label2id must map names to numbers, got {numbers!r}")
        if names is None and numbers:
            names = {number: name for name, number in numbers.items()}
        if names is None:
            count = 2 if count is None else count
            size = count if isinstance(count, int) else 0  # a wrong type is reported later
            names = {i: f"LABEL_{i}" for i in range(size)}
        try:
            names = {int(i): str(name) for i, name in names.items()}
        except (AttributeError, TypeError, ValueError):
            raise ValueError(
                f"IBertConfig: id2label must map 0..num_labels-1 to names, got {self.id2label!r}"
            ) from None
        inverse = {name: i for i, name in names.items()}
        if numbers and dict(numbers) != inverse:
            raise ValueError(
                f"IBertConfig: label2id must number the names of id2label, {names}, each its own, "
                f"got {dict(numbers)}; give only one of the two"
            )
        count = len(names) if count is None else count
        object.__setattr__(self, "num_labels", count)
        object.__setattr__(self, "id2label", _FixedDict(names))
        object.__setattr__(self, "label2id", _FixedDict(inverse))

    def _problems(self) -> list[str | None]:
        problems = [
            number_problem(name, getattr(self, name), low, high, kind)
            for name, low, high, kind in _NUMBERS
        ]
        problems.extend(self._token_problems())
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                problems.append(f"{name} must be true or false, got {getattr(self, name)!r}")
        problems.append(choice_problem("force_dequant", self.force_dequant, FORCE_DEQUANT))
        if not isinstance(self.quantization, QuantConfig):
            problems.append(
                f"quantization must be a QuantConfig or its settings, got {self.quantization!r}"
            )
        if self.problem_type is not None:
            problems.append(choice_problem("problem_type", self.problem_type, PROBLEM_TYPES))
        if self.hidden_act != "gelu":
            problems.append(
                f"hidden_act must be 'gelu', the only activation with an integer form here, "
                f"got {self.hidden_act!r}"
            )
        if self.position_embedding_type != "absolute":
            problems.append(
                "position_embedding_type must be 'absolute', relative positions are not "
                f"supported, got {self.position_embedding_type!r}"
            )
        for name in ("is_decoder", "add_cross_attention"):
            if self.extra.get(name):
                problems.append(f"{name} must be false, only encoders are supported")
        if not any(problems):
            problems.extend(self._relations())
        return problems

    def _token_problems(self) -> list[str]:
        """What is wrong with the special tokens that a sequence begins and ends with."""
        ends = self.eos_token_id
        numbers = {
            "bos_token_id": [self.bos_token_id],
            "eos_token_id": list(ends) if isinstance(ends, list | tuple) else [ends],
        }
        return [
            f"{name} must be an integer or null, got {getattr(self, name)!r}"
            for name, given in numbers.items()
            if not all(n is None or (isinstance(n, int) and not isinstance(n, bool)) for n in given)
        ]

    def _relations(self) -> list[str | None]:
        """What must hold between settings that are each valid alone."""
        problems: list[str | None] = []
        if self.hidden_size % self.num_attention_heads:
            problems.append(
                f"hidden_size must be a multiple of num_attention_heads, got {self.hidden_size} "
                f"and {self.num_attention_heads}"
            )
        if self.pad_token_id >= self.vocab_size:
            problems.append(
                f"pad_token_id must be below vocab_size {self.vocab_size}, got {self.pad_token_id}"
            )
        if self.max_sequence_length < 1:
            problems.append(
                f"max_position_embeddings must be at least pad_token_id + 2 = "
                f"{self.pad_token_id + 2}, got {self.max_position_embeddings}"
            )
        if sorted(self.id2label) != list(range(self.num_labels)):
            problems.append(
                f"id2label must name the labels 0..{self.num_labels - 1} (num_labels is "
                f"{self.num_labels}), got {dict(self.id2label)}; give only one of the two"
            )
        if len(self.label2id) != len(self.id2label):
            problems.append(
                f"id2label must give each label its own name, got {dict(self.id2label)}"
            )
        return problems

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def max_sequence_length(self) -> int:
        """Longest sequence the position table covers, in tokens."""
        return self.max_position_embeddings - self.pad_token_id - 1

    def keeps_float(self, nonlinearity: str) -> bool:
        """Whether ``gelu``, ``softmax`` or ``layernorm`` stays in float once quantized."""
        return self.force_dequant in (nonlinearity, "nonlinear")

    def replace(self, **changes: Any) -> Self:
        """A copy with changes.

        One of ``num_labels``, ``id2label`` and ``label2id`` settles the others; changing
        ``num_labels`` to its present value keeps the label names. ``quantization`` may be a
        QuantConfig or a dict of some of its settings.
        """
        unknown = sorted(set(changes) - {f.name for f in dataclasses.fields(self)})
        if unknown:
            raise TypeError(f"IBertConfig has no settings named {', '.join(unknown)}")
        if changes.keys() & {"num_labels", "id2label", "label2id"}:
            if changes.get("num_labels") == self.num_labels and "label2id" not in changes:
                changes.setdefault("id2label", self.id2label)
            for name in ("num_labels", "id2label", "label2id"):
                changes.setdefault(name, None)
        quantization = changes.get("quantization")
        if isinstance(quantization, Mapping):
            changes["quantization"] = self.quantization.replace(**quantization)
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads the content of a Hugging Face config.json.

        A BERT config is translated: its positions count from 0, ours from ``pad_token_id + 1``, so
        ``max_position_embeddings`` grows by that many unused rows. They are counted as RoBERTa's:
        a padding token before or between others has none, where BERT would count it, too. A
        checkpoint trained by I-BERT (``quant_mode`` true and no ``quantization`` of ours) gets the
        "reference" scheme.

        Raises:
          ValueError: an unsupported model_type, or any invalid setting.
        """
        values = dict(values)
        model_type = values.pop("model_type", "ibert")
        raise_if_any("IBertConfig", [choice_problem("model_type", model_type, MODEL_TYPES)])
        if model_type == "bert":
            values = _from_bert(values)
        if model_type in _TOKENIZERS and values.get("tokenizer_class") is None:
            values["tokenizer_class"] = _TOKENIZERS[model_type]
        # Hugging Face writes null for "not set", which is our default.
        nullable = ("bos_token_id", "eos_token_id")
        names = {f.name for f in dataclasses.fields(cls)} - {"extra", "quantization"}
        known: dict[str, Any] = {
            name: value
            for name, value in values.items()
            if name in names and (value is not None or name in nullable)
        }
        if known.get("id2label") is not None:
            known.pop("num_labels", None)  # as in Hugging Face's files, the names count
            known.pop("label2id", None)
        known["quantization"] = _quantization(values, bool(values.get("quant_mode")))
        extra = {k: v for k, v in values.items() if k not in names and k not in _NOT_KEPT}
        return cls(**known, extra=extra)

    @classmethod
    def from_json_file(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a config.json.

        Raises:
          FileNotFoundError: no such file.
          ValueError: not UTF-8, not a JSON object, or invalid settings; the message names the file.
        """
        return cls.from_dict(read_json_object(path))

    def to_dict(self) -> dict[str, Any]:
        """The content of a Hugging Face config.json of model_type "ibert", plus "quantization"."""
        values = {f.name: _copied(getattr(self, f.name)) for f in dataclasses.fields(self)}
        extra = values.pop("extra")
        values.pop("num_labels")
        values["quantization"] = self.quantization.to_dict()
        values["id2label"] = {str(i): name for i, name in sorted(self.id2label.items())}
        values["label2id"] = dict(sorted(self.label2id.items(), key=lambda item: item[1]))
        for name, default in _WRITTEN_IF_SET.items():
            if values[name] == default:
                del values[name]
        return {**extra, "model_type": "ibert", **values}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes config.json; the file appears complete or not at all."""
        write_whole(path, self.to_json())

    def to_json(self) -> str:
        """The text of config.json."""
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False)
        return text + "\n"

    @cached_property
    def _hash(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True, default=repr))

    def __hash__(self) -> int:
        return self._hash


def _from_bert(values: dict[str, Any]) -> dict[str, Any]:
    """A BERT config with the position rows of :func:`IBertConfig.from_dict` and BERT's defaults."""
    padding = plain_number(values.get("pad_token_id"))
    padding = 0 if padding is None else padding
    positions = plain_number(values.get("max_position_embeddings", 512))
    if isinstance(padding, int) and isinstance(positions, int):  # else reported by the validation
        positions += padding + 1
    defaults = {"bos_token_id": None, "eos_token_id": None}
    return {
        **defaults,
        **values,
        "pad_token_id": padding,
        "max_position_embeddings": positions,
    }


def _quantization(values: Mapping[str, Any], trained_by_ibert: bool) -> QuantConfig:
    given = values.get("quantization")
    if given is None:
        return QuantConfig(scheme="reference") if trained_by_ibert else QuantConfig()
    if not isinstance(given, Mapping):
        raise ValueError(f"IBertConfig: quantization must be an object of settings, got {given!r}")
    return QuantConfig.from_dict(given)
