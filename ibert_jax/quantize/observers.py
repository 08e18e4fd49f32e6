"""How ranges follow the activations while a model is trained quantization-aware."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from flax import nnx

Model = TypeVar("Model", bound=nnx.Module)

KINDS = ("ema", "minmax", "frozen")


def set_observers(model: Model, kind: str, *, momentum: float = 0.95) -> Model:
    """Choose how the ranges of a model move in quantization-aware training, in place.

    A model starts with what its configuration's ``momentum`` says. What is chosen here is static:
    a jitted training step compiles once more after a change, such as this one after ``n`` steps::

        if step == n:
            ib.set_observers(model, "frozen")

    Args:
        model: one of this package's models, or a part of one.
        kind: ``ema``, the exponential moving average of each batch's minimum and maximum;
            ``minmax``, the running minimum and maximum; ``frozen``, ranges stay as they are.
        momentum: share of the old range that each update of ``ema`` keeps, 0 <= m < 1.

    Returns:
        ``model``.

    Raises:
        ValueError: no such kind, or a momentum out of range.
        TypeError: what has no ranges.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be at least 0 and below 1, got {momentum!r}")
    found: Iterable[Any] = nnx.iter_modules(model) if isinstance(model, nnx.Module) else ()
    observers: list[Any] = [module for _, module in found if hasattr(module, "x_min")]
    if not observers:
        raise TypeError(
            f"expected a model of this package with activation ranges, got {type(model).__name__}"
        )
    for observer in observers:
        observer.frozen = kind == "frozen"
        if kind != "frozen":
            observer.momentum = momentum if kind == "ema" else -1
    return model
