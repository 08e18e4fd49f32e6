"""The base of every leaf: which of the three lives it is in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from ibert_jax.quantize.ranges import empty_bounds, is_empty, moving_bounds, observed_bounds


class Leaf(nnx.Module):
    """A layer that does arithmetic, as opposed to a graph module, which only routes.

    A leaf lives in the float life or, once ``quantized``, in the quantization-aware life.
    There it builds its own integer leaf (the third life) from its current weights and ranges
    and calls that one: the integers of training are the integers of the frozen program
    because the same object computes them.

    Attributes:
        quantized: False, float arrays in and out; True, quantized tensors in and out.
        observing: whether ranges are updated by what passes through even where they would
            not be; they are, in any case, in quantization-aware training.
        deterministic: whether dropout is off.
        recording: whether a call in the quantization-aware life keeps its integer leaf in
            ``integer`` (how a model is frozen).
    """

    def __init__(self) -> None:
        self.quantized = False
        self.observing = False
        self.deterministic = True
        self.recording = False
        self.integer: Any = nnx.data(None)

    def record(self, integer: Any) -> Any:
        """Keep the integer leaf of this call where ``freeze`` will look for it; return it."""
        if self.recording:
            self.integer = nnx.data(integer)
        return integer


class ObservingLeaf(Leaf):
    """A leaf with an activation range: ``x_min``, ``x_max`` float32, scalar or per channel [C].

    Attributes:
        momentum: of the range's moving average; -1 for running minimum and maximum.
        frozen: whether training leaves the range as it is; see ``quantize.observers``.
    """

    def __init__(self, shape: tuple[int, ...], momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.frozen = False
        self.x_min, self.x_max = empty_bounds(shape)

    def observe(self, value: jax.Array) -> None:
        """Let the range follow ``value`` [..., C]: while calibrating, and while training.

        Raises:
            ValueError: the quantized leaf answers from a range that holds nothing, which would make
                zeros of everything. Within ``jax.jit`` there is no telling.
        """
        training = self.quantized and not self.deterministic
        if self.observing or (training and not self.frozen):
            old = self.x_min[...], self.x_max[...]
            new = observed_bounds(jax.lax.stop_gradient(value), old[0].shape)
            self.x_min[...], self.x_max[...] = moving_bounds(old, new, self.momentum)
        elif self.quantized and not isinstance(self.x_min[...], Tracer) and not self.calibrated:
            raise ValueError(
                "expected activation ranges to quantize with, got one that was never calibrated; "
                "call ib.calibrate(model, batches) first, or train() and run a batch"
            )

    def absolute_range(self) -> jax.Array:
        """max(|x_min|, |x_max|), float32, of the range's shape; an empty range gives inf."""
        return jnp.maximum(jnp.abs(self.x_min[...]), jnp.abs(self.x_max[...]))

    @property
    def needed(self) -> bool:
        """Whether the quantized leaf uses its range at all."""
        return True

    @property
    def calibrated(self) -> bool:
        """Whether every part of the range has been observed (concrete arrays only)."""
        return not is_empty(self.x_min[...], self.x_max[...])


def check_calibrated(leaves: Mapping[str, Leaf]) -> None:
    """Refuse a model some of whose ranges hold nothing, which would pass for numbers.

    Raises:
        ValueError: naming them.
    """
    missing = [
        path
        for path, leaf in leaves.items()
        if isinstance(leaf, ObservingLeaf) and leaf.needed and not leaf.calibrated
    ]
    if missing:
        raise ValueError(
            f"{len(missing)} activation ranges were never calibrated ({_listed(missing)}); call "
            "ib.calibrate(model, batches) or train quantization-aware first"
        )


def check_answering(model: nnx.Module) -> None:
    """Refuse what ``check_calibrated`` does, if the model is to answer in the quantized life."""
    leaves = leaves_of(model).items()
    check_calibrated({path: leaf for path, leaf in leaves if leaf.quantized})


def check_finite(model: nnx.Module) -> None:
    """Refuse a model with parameters or ranges that no integers stand for.

    Raises:
        ValueError: naming them.
    """
    parameters = nnx.to_flat_state(nnx.state(model, nnx.Param))
    wrong = [
        ".".join(map(str, path))
        for path, parameter in parameters
        if not np.isfinite(parameter[...]).all()
    ]
    for path, leaf in leaves_of(model).items():
        if isinstance(leaf, ObservingLeaf) and leaf.needed:
            low, high = np.asarray(leaf.x_min[...]), np.asarray(leaf.x_max[...])
            observed = ~(low > high)  # also where one of them is no number
            if not np.isfinite([low, high])[:, observed].all():
                wrong.append(f"the range of {path}")
    if wrong:
        raise ValueError(
            f"{_listed(wrong)} hold NaN or infinities; training may have failed, or calibration "
            "met numbers too large for float32"
        )


def _listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if names[8:] else "")


def set_life(model: nnx.Module, **attributes: bool) -> None:
    """Set ``quantized``, ``observing``, ``deterministic`` or ``recording`` on every leaf."""
    for leaf in leaves_of(model).values():
        for name, value in attributes.items():
            setattr(leaf, name, value)


def recorded(model: nnx.Module) -> dict[str, Any]:
    """Every integer leaf by path, after a call that recorded them."""
    return {path: leaf.integer for path, leaf in leaves_of(model).items()}


def leaves_of(model: nnx.Module) -> dict[str, Leaf]:
    """Every leaf by its path, e.g. ``attention.self.query``."""
    return {
        ".".join(map(str, path)): module
        for path, module in nnx.iter_modules(model)
        if isinstance(module, Leaf)
    }
