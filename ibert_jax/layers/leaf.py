"""The base of every leaf: which of the three lives it is in."""

from __future__ import annotations

from flax import nnx


class Leaf(nnx.Module):
    """A layer that does arithmetic, as opposed to a graph module, which only routes.

    A leaf lives in the float life or, once ``quantized``, in the quantization-aware life.
    There it builds its own integer leaf (the third life) from its current weights and ranges
    and calls that one: the integers of training are the integers of the frozen program
    because they come out of the same object.

    Attributes:
        quantized: False, float arrays in and out; True, quantized tensors in and out.
        observing: whether ranges are updated by what passes through.
        deterministic: whether dropout is off.
        recording: whether a call in the quantization-aware life keeps its integer leaf in
            ``integer`` (how a model is frozen).
    """

    def __init__(self) -> None:
        self.quantized = False
        self.observing = False
        self.deterministic = True
        self.recording = False
        self.integer: nnx.Module | None = nnx.data(None)

    def record(self, integer: nnx.Module) -> None:
        """Keep the integer leaf of this call where ``freeze`` will look for it."""
        if self.recording:
            self.integer = integer


def set_life(model: nnx.Module, **attributes: bool) -> None:
    """Set ``quantized``, ``observing``, ``deterministic`` or ``recording`` on every leaf."""
    for _, module in nnx.iter_modules(model):
        if isinstance(module, Leaf):
            for name, value in attributes.items():
                setattr(module, name, value)
