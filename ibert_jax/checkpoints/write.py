"""Writes a directory that Hugging Face's I-BERT classes load."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ibert_jax.checkpoints import keys
from ibert_jax.checkpoints.buffers import PublishedBuffers
from ibert_jax.checkpoints.files import (
    CONFIG_FILE,
    RANGES_FILE,
    WEIGHTS_FILE,
    CheckpointError,
    sha256,
    write_tensors,
)
from ibert_jax.checks import check_kind
from ibert_jax.config import IBertConfig
from ibert_jax.files import write_through, written_together


def write_checkpoint(
    directory: str | os.PathLike[str],
    config: IBertConfig,
    tensors: Mapping[str, Any],
    published: PublishedBuffers | None = None,
) -> None:
    """Writes ``config.json``, ``model.safetensors`` and, if calibrated, ``ranges.safetensors``.

    All of them are complete before any takes its place. Hugging Face's class finds every tensor
    it looks for and no other. ``ranges.safetensors`` holds the activation ranges as they are; only
    we read it. The published buffers get their extremes, which is all they can hold.

    Args:
      directory: made if it does not exist; other files in it are left alone.
      config: the configuration.
      tensors: float32 NumPy or JAX arrays by our names: the backbone, one head (the pooler may be
        absent) and activation ranges, all or some, of the names and shapes that
        ``keys.activation_ranges`` lists; a range whose minimum exceeds its maximum was never
        observed and is left out.
      published: buffers that came with the tensors (see ``Checkpoint``), written as they were
        where the tensors still are, too; the others get the published initial values.

    Raises:
      CheckpointError: names, shapes or dtypes other than the configuration's, or NaN; nothing is
        written. A ValueError.
      TypeError: what is no configuration, or no mapping.
    """
    check_kind("a configuration", config, IBertConfig, "model.config")
    check_kind("tensors by name", tensors, Mapping, "model.tensors()")
    directory = Path(directory)
    arrays = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    ranges = {name: arrays.pop(name) for name in list(arrays) if name.endswith(keys.STATISTICS)}
    ranges = _observed(ranges)
    head = _head_of(config, arrays)
    problems = _parameter_problems(config, head, arrays) + _range_problems(config, head, ranges)
    if problems:
        raise CheckpointError(directory, problems)

    kept = {} if published is None else published.still_valid(arrays | ranges)
    stored = {
        keys.checkpoint_key(head, name): array
        for name, array in (arrays | _published(config, ranges, kept)).items()
    }
    extra = {**config.extra, "architectures": [keys.HEADS[head].architecture]}
    directory.mkdir(parents=True, exist_ok=True)
    names = (WEIGHTS_FILE, RANGES_FILE, CONFIG_FILE)
    with written_together([directory / name for name in names]) as temporary:
        weights, own_ranges, _ = temporary.values()
        write_tensors(weights, stored, {"format": "pt"})  # Hugging Face insists on "pt"
        if ranges:
            info = {"weights_sha256": sha256(weights), "scheme": config.quantization.scheme}
            write_tensors(own_ranges, ranges, info)
        text = config.replace(extra=extra).to_json()
        write_through(temporary, directory / CONFIG_FILE, text)
        (directory / RANGES_FILE).unlink(missing_ok=True)  # never beside weights not their own


def _head_of(config: IBertConfig, arrays: Mapping[str, np.ndarray]) -> str:
    """The head whose parameters are there; "model" if there is none."""

    def fit(head: str) -> int:
        own = keys.head_parameters(config, head).keys()
        return len(own & arrays.keys()) - len(own - arrays.keys())

    return max(keys.HEADS, key=fit)


def _parameter_problems(
    config: IBertConfig, head: str, arrays: Mapping[str, np.ndarray]
) -> list[str]:
    backbone, own = keys.backbone_parameters(config), keys.head_parameters(config, head)
    expected = backbone | own
    without_pooler = head == "model" and not own.keys() & arrays.keys()
    wanted = backbone if without_pooler else expected
    return _tensor_problems(
        arrays, wanted, expected, f"parameter of {keys.HEADS[head].architecture}"
    )


def _range_problems(config: IBertConfig, head: str, ranges: Mapping[str, np.ndarray]) -> list[str]:
    expected = keys.activation_ranges(config, head)
    given = {keys.leaf_of(name) for name in ranges}
    wanted = [name for name in expected if keys.leaf_of(name) in given]
    scheme = config.quantization.scheme
    what = f"range of {keys.HEADS[head].architecture} in the {scheme!r} scheme"
    return _tensor_problems(ranges, wanted, expected, what)


def _tensor_problems(
    arrays: Mapping[str, np.ndarray],
    wanted: Iterable[str],
    expected: Mapping[str, tuple[int, ...]],
    what: str,
) -> list[str]:
    """What is missing, or not as expected; ``what`` others are not."""
    problems = [f"{name} is missing" for name in wanted if name not in arrays]
    for name, array in arrays.items():
        if name in expected:
            problems += _array_problems(name, array, expected[name])
        else:
            problems.append(f"{name} is no {what}")
    return problems


def _array_problems(name: str, array: np.ndarray, shape: tuple[int, ...]) -> list[str]:
    if array.shape != shape:
        return [f"{name} has shape {list(array.shape)}, expected {list(shape)}"]
    if array.dtype != np.float32:
        return [f"{name} has dtype {array.dtype}, expected float32"]
    if not np.isfinite(array).all():
        return [f"{name} holds NaN or infinities; training may have failed"]
    return []


def _observed(ranges: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The ranges without the leaves that never saw a value (minimum above maximum)."""
    empty = set()
    for leaf in map(keys.leaf_of, ranges):
        low, high = ranges.get(f"{leaf}.x_min"), ranges.get(f"{leaf}.x_max")
        if low is None or high is None or low.shape != high.shape:
            continue  # which is told of later
        if (low > high).any():
            empty.add(leaf)
    return {name: array for name, array in ranges.items() if keys.leaf_of(name) not in empty}


def _published(
    config: IBertConfig, ranges: Mapping[str, np.ndarray], kept: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The buffers of the published implementation, with the extremes of our ranges."""
    shapes = keys.published_ranges(config) | keys.published_buffers(config)
    values = {
        name: np.full(shape, keys.buffer_value(name), np.float32) for name, shape in shapes.items()
    }
    for layer in range(config.num_hidden_layers):
        values |= _exponentials(config, f"encoder.layer.{layer}.attention.self", ranges)
    values |= {name: value for name, value in kept.items() if name in shapes}
    for name in keys.published_ranges(config).keys() & ranges.keys():
        extreme = np.min if name.endswith(".x_min") else np.max
        values[name] = np.full(shapes[name], extreme(ranges[name]), np.float32)
    return values


def _exponentials(
    config: IBertConfig, attention: str, ranges: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The range of the published softmax's exponentials, from those of query and key."""
    scales = []
    for operand in ("query", "key"):
        ends = [ranges.get(f"{attention}.{operand}_activation.x_{end}") for end in ("min", "max")]
        if any(end is None for end in ends):
            return {}
        scales.append(max(1e-8, *(float(np.abs(end).max()) for end in ends)) / 127)  # type: ignore[arg-type]
    largest = _published_exp_of_zero(scales[0] * scales[1] / math.sqrt(config.head_size))
    return {
        f"{attention}.{keys.SOFTMAX}.x_min": np.zeros(1, np.float32),
        f"{attention}.{keys.SOFTMAX}.x_max": np.full(1, largest, np.float32),
    }


def _published_exp_of_zero(scale: float) -> float:
    """The largest integer that the published i-exp returns for scores of this scale.

    It is the polynomial 0.35815147 (x + 1.353)^2 + 0.344 at 0, as an integer on the grid of
    0.35815147 * scale^2, times 2^30. (Published ranges of exponentials count in these integers.)
    """
    return math.floor(1.0 / (0.35815147 * scale**2)) * 2.0**30
