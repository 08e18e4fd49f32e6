"""Ranges that the published implementation does not store, from those that it does.

The published code keeps heads in float and computes GELU on whatever comes; here both need a
range. Each rule below is a fact about the operation, so that a quantization-aware trained
checkpoint freezes without calibration and loses nothing by it. What no fact gives stays empty,
and freezing refuses it by name. Ranges are float32, shape [], and None where the source is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ibert_jax.config import IBertConfig

Range = tuple[np.ndarray, np.ndarray]

GELU_SHORTFALL = 0.169972
"""x - GELU(x) is at most this for x > 0 (at 0.7518), and so is -GELU(x) by symmetry."""

TANH_OUTPUT: Range = (np.asarray(-1, np.float32), np.asarray(1, np.float32))
"""All that tanh can return."""


def gelu_input(output: Range) -> Range:
    """The range that GELU's input needs, from the 8-bit range of its output.

    GELU rises for x > 0 and GELU(x) >= x - ``GELU_SHORTFALL``, so an input above the returned
    maximum gives an output beyond the stored range, which saturates: nothing is lost. The lower
    end is never used (GELU vanishes there); it repeats the output's.
    """
    low, high = output
    covered = np.maximum(np.abs(low), np.abs(high)) + np.float32(GELU_SHORTFALL)
    return np.asarray(np.minimum(low, high)), np.asarray(covered, np.float32)


def layer_norm_output(weight: np.ndarray, bias: np.ndarray) -> Range:
    """The range of LayerNorm's output, whatever its input.

    One of C numbers of mean 0 and variance 1 is at most sqrt(C - 1) in absolute value, reached
    when all others are equal. A bound, not an observation: some three times what text reaches.

    Args:
      weight, bias: float32 [C].
    """
    reach = np.abs(weight) * np.float32(np.sqrt(max(len(weight) - 1, 1)))
    return np.asarray(np.min(bias - reach)), np.asarray(np.max(bias + reach))


def linear_output(weight: np.ndarray, bias: np.ndarray, absolute: np.ndarray) -> Range:
    """The range of ``x @ weight.T + bias`` for every x in [-absolute, absolute]: a bound.

    Args:
      weight: float32 [N, K].
      bias: float32 [N].
      absolute: float32, shape [].
    """
    reach = np.max(np.abs(weight).sum(axis=1) * absolute + np.abs(bias))
    return np.asarray(-reach, np.float32), np.asarray(reach, np.float32)


def derived_ranges(
    config: IBertConfig,
    head: str,
    ranges: Mapping[str, np.ndarray],
    tensors: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """The ranges that follow from the published ones, by name; nothing from none.

    Args:
      config: of the model.
      head: a key of ``keys.HEADS``.
      ranges: the published ranges that were filled.
      tensors: the parameters.
    """
    if not ranges:
        return {}
    found: dict[str, Range] = {}
    for index in range(config.num_hidden_layers):
        block = f"encoder.layer.{index}.intermediate"
        output = _range(ranges, f"{block}.output_activation")
        if output is not None:
            found[f"{block}.intermediate_act_fn"] = gelu_input(output)
    last = _range(ranges, f"encoder.layer.{config.num_hidden_layers - 1}.output.output_activation")
    if head == "sequence_classification":
        found["classifier.hidden_act"] = TANH_OUTPUT
    elif head == "multiple_choice":
        found["hidden_act"] = TANH_OUTPUT
    elif head == "masked_lm" and last is not None and "lm_head.dense.weight" in tensors:
        found |= _language_model(tensors, last)
    return {
        f"{leaf}.{end}": bound
        for leaf, bounds in found.items()
        for end, bound in zip(("x_min", "x_max"), bounds, strict=True)
    }


def _language_model(tensors: Mapping[str, np.ndarray], last: Range) -> dict[str, Range]:
    """Bounds all through the head: wide, but only the last of them costs accuracy (8 bits)."""
    head = {name: tensors[f"lm_head.{name}"] for name in _LANGUAGE_MODEL}
    absolute = np.maximum(np.abs(last[0]), np.abs(last[1]))
    dense = linear_output(head["dense.weight"], head["dense.bias"], absolute)
    return {
        "lm_head.activation": dense,
        "lm_head.ln_input_act": (np.asarray(-GELU_SHORTFALL, np.float32), dense[1]),
        "lm_head.output_act": layer_norm_output(head["layer_norm.weight"], head["layer_norm.bias"]),
    }


_LANGUAGE_MODEL = ("dense.weight", "dense.bias", "layer_norm.weight", "layer_norm.bias")


def _range(ranges: Mapping[str, np.ndarray], leaf: str) -> Range | None:
    low, high = ranges.get(f"{leaf}.x_min"), ranges.get(f"{leaf}.x_max")
    return None if low is None or high is None else (low, high)
