"""How the network becomes integers: the settings that are ours, not Hugging Face's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Self

from ibert_jax.settings import (
    choice_problem,
    number_problem,
    plain_number,
    raise_if_any,
    settle_numbers,
)

SCHEMES = ("channel", "reference")
WIDTHS = ("weight_bits", "activation_bits")
"""The settings of a :class:`QuantConfig` that a leaf may have its own value of."""
Overrides = tuple[tuple[str, tuple[tuple[str, int], ...]], ...]


@dataclass(frozen=True)
class QuantConfig:
    """How the network becomes integers.

    Attributes:
      scheme: "channel" (free scales per channel where they cost nothing, LayerNorm as residual) or
        "reference" (I-BERT's own: one scale per tensor, 8-bit residual stream).
      weight_bits: bits of weights and embeddings, 2..8.
      activation_bits: bits of what enters a matmul, 2..8.
      momentum: share of the old range kept by each exponential-moving-average update, 0 <= m < 1,
        or -1 for the running minimum and maximum.
      layernorm_migration: exponent alpha in the channel factor
        ``range**alpha / largest_weight**(1 - alpha)`` after LayerNorm; 0..1; only the "channel"
        scheme uses it. (After GELU and on the attention values, where that scheme gives each
        channel the scale of its own range, less than alpha = 1 was measured to be worse.)
      overrides: widths of particular leaves, glob pattern -> settings, such as
        ``{"encoder.layer.0.*": {"activation_bits": 4}}``. A pattern is held against a leaf's whole
        path as :meth:`leaves` of a model gives it, without the ``ibert.`` of the backbone; ``*``
        matches dots too. Where several match, the last counts. Given as a mapping (or pairs), kept
        as pairs in order. A pattern without effect is an error once a model is quantized.

    >>> config = QuantConfig(weight_bits=4, overrides={"classifier.*": {"weight_bits": 8}})
    >>> config.width("weight_bits", "classifier.dense"), config.width("weight_bits", "pooler.dense")
    (8, 4)
    """

    scheme: str = "channel"
    weight_bits: int = 8
    activation_bits: int = 8
    momentum: float = 0.95
    layernorm_migration: float = 0.8
    overrides: Overrides = ()

    def __post_init__(self) -> None:
        settle_numbers(self)
        overrides, problems = _settle_overrides(self.overrides)
        object.__setattr__(self, "overrides", overrides)
        problems += [
            choice_problem("scheme", self.scheme, SCHEMES),
            number_problem("weight_bits", self.weight_bits, 2, 8, int),
            number_problem("activation_bits", self.activation_bits, 2, 8, int),
        ]
        if self.momentum != -1:
            below_one = math.nextafter(1.0, 0.0)
            problems.append(number_problem("momentum", self.momentum, 0, below_one, float))
        problems.append(
            number_problem("layernorm_migration", self.layernorm_migration, 0, 1, float)
        )
        raise_if_any("QuantConfig", problems)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`; an unknown name is a ValueError."""
        values = {k: v for k, v in values.items() if (k, v) not in _ONCE_WRITTEN}
        _check_known(values)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; ``overrides`` as pairs, for their order counts, and only where there are."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["overrides"] = [[pattern, dict(settings)] for pattern, settings in self.overrides]
        if not self.overrides:
            del values["overrides"]
        return values

    def replace(self, **changes: Any) -> Self:
        """A copy with changes; raises ValueError as the constructor does."""
        _check_known(changes)
        return dataclasses.replace(self, **changes)

    def width(self, setting: str, path: str) -> int:
        """The bits of one leaf: ``setting`` is one of ``WIDTHS``, ``path`` without ``ibert.``."""
        found: int = getattr(self, setting)
        for pattern, settings in self.overrides:
            if fnmatchcase(path, pattern):
                found = dict(settings).get(setting, found)
        return found


def _check_known(names: Iterable[str]) -> None:
    known = [field.name for field in dataclasses.fields(QuantConfig)]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(
            f"QuantConfig: unknown settings {', '.join(unknown)}; it knows {', '.join(known)}"
        )


# Settings of former versions, at the only value that was ever accepted.
_ONCE_WRITTEN = (("gelu_migration", 1.0), ("value_migration", 1.0))


def _settle_overrides(given: Any) -> tuple[Overrides, list[str | None]]:
    """``overrides`` as nested pairs, and what is wrong with them."""
    shape = (
        "overrides must map patterns of leaf paths to settings, such as "
        f'{{"encoder.layer.0.*": {{"activation_bits": 4}}}}, got {given!r}'
    )
    try:
        pairs = [
            (pattern, {name: plain_number(value) for name, value in dict(settings).items()})
            for pattern, settings in (given.items() if isinstance(given, Mapping) else given)
        ]
    except (TypeError, ValueError):
        return (), [shape]
    problems: list[str | None] = []
    for pattern, settings in pairs:
        if not isinstance(pattern, str) or not settings:
            problems.append(shape)
        for name, value in settings.items():
            if name in WIDTHS:
                where = f"{name} of {pattern!r} in overrides"
                problems.append(number_problem(where, value, 2, 8, int))
            else:
                problems.append(
                    f"overrides of {pattern!r} know {' and '.join(WIDTHS)}, got {name!r}"
                )
    in_order = [(pattern, tuple(sorted(settings.items(), key=str))) for pattern, settings in pairs]
    return tuple(in_order), problems
