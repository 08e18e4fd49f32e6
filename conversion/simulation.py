"""Hugging Face's quantized I-BERT, its known defects mended one by one, with every result kept.

The published code simulates integers in float32: a tensor is a float, beside it the scale of
which it is a multiple. Here the same modules run, and what is wrong with them is replaced while
they do:

- ``handed_on``: each layer gets the scale of its input, which the published encoder loses after
  the first layer (what follows then divides by nothing and is no integer any more);
- ``exact``: float64 instead of float32, which cannot hold products of more than 24 bits;
- ``settled``: softmax quantizes its exponentials to the range that they have. The published range
  is a moving average of integers whose unit, the squared scale of the scores, moves with it: where
  it lags behind, the largest weights saturate.

All on, this is what the published design means.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.ibert import modeling_ibert, quant_modules

from ibert_jax.checkpoints import CheckpointError


class Result(NamedTuple):
    """What a module returned: float64 values, and the scale of which they are multiples.

    ``scale`` has shape [] or [C]; None, where the published code works in float.
    """

    value: np.ndarray
    scale: np.ndarray | None

    @property
    def integers(self) -> np.ndarray:
        """The integers, as float64 (they may be wide)."""
        assert self.scale is not None
        return np.round(self.value / self.scale)


INPUT = "input of "
"""Before a module's name: what entered it."""


def load(directory: str | os.PathLike[str]) -> Any:
    """The quantized model of a directory, in evaluation, float32.

    Raises:
        CheckpointError: no I-BERT of Hugging Face's, or one that was not quantized.
    """
    directory = Path(directory)
    try:
        config = json.loads((directory / "config.json").read_text())
        kind = getattr(transformers, config["architectures"][0])
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise CheckpointError(directory, ["config.json names no architecture of I-BERT"]) from None
    if not issubclass(kind, modeling_ibert.IBertPreTrainedModel) or not config.get("quant_mode"):
        raise CheckpointError(
            directory, ["this must be an I-BERT of Hugging Face's layout with quant_mode true"]
        )
    return kind.from_pretrained(directory).eval()


def run(
    model: Any,
    inputs: dict[str, np.ndarray],
    *,
    handed_on: bool = True,
    exact: bool = True,
    settled: bool = True,
) -> dict[str, Result]:
    """The result of every module by its name, without the prefix ``ibert.``.

    Of a module that runs twice, the last. Results of heads and the model's ``logits`` have no
    scale. ``model`` is left as it was.
    """
    results: dict[str, Result] = {}
    dtype = torch.float64 if exact else torch.float32
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_in_precision(model, dtype))
        if handed_on:
            stack.enter_context(_handing_on())
        softmaxes = [m for m in model.modules() if isinstance(m, quant_modules.IntSoftmax)]
        for softmax in softmaxes if settled else ():
            stack.callback(softmax.act.register_forward_pre_hook(_settle).remove)
        for name, module in model.named_modules():
            name = name.removeprefix("ibert.")
            handle = module.register_forward_hook(_keeper(results, name), with_kwargs=True)
            stack.callback(handle.remove)
        out = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    if "logits" in out:
        results["logits"] = Result(_array(out.logits), None)
    return results


def _settle(act: Any, given: tuple[Any, ...]) -> None:
    """Give a softmax's activation the range of what enters it: up to the exponential of 0."""
    act.x_min, act.x_max = torch.zeros_like(act.x_min), given[0].max().reshape(1)


def _keeper(results: dict[str, Result], name: str) -> Any:
    def keep(module: Any, given: tuple[Any, ...], named: Any, returned: Any) -> None:
        del module, named
        pair = returned if isinstance(returned, tuple) else (returned, None)
        if len(pair) == 2 and isinstance(pair[0], torch.Tensor):
            results[name] = _result(*pair)
        if len(given) >= 2 and all(isinstance(x, torch.Tensor) for x in given[:2]):
            results[INPUT + name] = _result(*given[:2])

    return keep


def _result(value: Any, scale: Any) -> Result:
    if not isinstance(scale, torch.Tensor | float):
        return Result(_array(value), None)
    scale = np.asarray(_array(scale) if isinstance(scale, torch.Tensor) else scale, np.float64)
    flat = scale.reshape(-1)
    return Result(_array(value), flat if flat.size > 1 else flat.reshape(()))


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float64).numpy()


@contextlib.contextmanager
def _in_precision(model: Any, dtype: torch.dtype) -> Iterator[None]:
    """Parameters, buffers and requantizations in ``dtype``; as they were afterwards.

    The forward passes write buffers, so the buffers are put back too.
    """
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    roots = [m for m in model.modules() if isinstance(m, quant_modules.IntLayerNorm)]
    modules: Any = quant_modules
    published = modules.FixedPointMul
    try:
        model.to(dtype)
        for norm in roots:  # sqrt(C), which it would otherwise take in float32
            norm.dim_sqrt = torch.tensor(math.sqrt(len(norm.weight)), dtype=dtype)
        if dtype == torch.float64:
            modules.FixedPointMul = _Requantization
        yield
    finally:
        modules.FixedPointMul = published
        model.to(torch.float32)
        model.load_state_dict(state)
        for norm in roots:
            norm.dim_sqrt = None


class _Requantization:
    """In the place of the published requantization, whose results pass through float32."""

    @staticmethod
    def apply(
        value: torch.Tensor,
        scale: torch.Tensor,
        bits: int,
        output_scale: torch.Tensor,
        other: torch.Tensor | None = None,
        other_scale: Any = None,
    ) -> torch.Tensor:
        """Each operand as integers of the output's scale, added, and clipped to ``bits``."""
        total = torch.round(torch.round(value / scale) * (scale / output_scale))
        if other is not None:
            total = total + torch.round(
                torch.round(other / other_scale) * (other_scale / output_scale)
            )
        return torch.clamp(total, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@contextlib.contextmanager
def _handing_on() -> Iterator[None]:
    """Encoders that give every layer the scale of its input."""
    encoder: Any = modeling_ibert.IBertEncoder
    published = encoder.forward

    def forward(
        self: Any, hidden: Any, scale: Any, attention_mask: Any = None, **ignored: Any
    ) -> Any:
        del ignored
        for layer in self.layer:
            (attended, *_), (attended_scale, *_) = layer.attention(hidden, scale, attention_mask)
            hidden, scale = layer.feed_forward_chunk(attended, attended_scale)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden)

    encoder.forward = forward
    try:
        yield
    finally:
        encoder.forward = published
