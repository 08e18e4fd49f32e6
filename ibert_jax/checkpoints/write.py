"""Writes a directory that Hugging Face's I-BERT classes load."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ibert_jax.checkpoints import keys
from ibert_jax.checkpoints.files import (
    CONFIG_FILE,
    RANGES_FILE,
    WEIGHTS_FILE,
    CheckpointError,
    sha256,
    temporary_name,
    write_tensors,
)
from ibert_jax.config import IBertConfig


def write_checkpoint(
    directory: str | os.PathLike[str],
    config: IBertConfig,
    tensors: Mapping[str, Any],
    ranges: Mapping[str, Any] | None = None,
) -> None:
    """Writes ``config.json``, ``model.safetensors`` and, if needed, ``ranges.safetensors``.

    Each file appears complete or not at all. Hugging Face's class finds every tensor it looks for
    and no other. Ranges that its buffers cannot hold as they are (those of a pooler or a head,
    those of single channels) go to ``ranges.safetensors``, which only we read; its buffer then
    gets the extremes.

    Args:
      directory: made if it does not exist; other files in it are left alone.
      config: the configuration.
      tensors: float32 NumPy or JAX arrays by our names: the backbone and one head; the pooler may
        be absent.
      ranges: calibrated activation ranges, as :func:`read_checkpoint` returns them.

    Raises:
      CheckpointError: names, shapes or dtypes other than the configuration's, or NaN; nothing is
        written. A ValueError.
    """
    directory = Path(directory)
    arrays = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    own_ranges = {name: np.asarray(tensor) for name, tensor in (ranges or {}).items()}
    head = _head_of(arrays)
    problems = _parameter_problems(config, head, arrays)
    for name, array in own_ranges.items():
        problems += _array_problems(name, array, None)
    if problems:
        raise CheckpointError(directory, problems)

    published, rest = _split_ranges(config, own_ranges)
    buffers = {
        name: np.zeros(shape, np.float32) for name, shape in keys.published_buffers(config).items()
    }
    heads_own = keys.head_parameters(config, head)
    prefix = keys.HEADS[head].prefix
    stored = {
        (name if name in heads_own else prefix + name): array
        for name, array in (arrays | published | buffers).items()
    }
    directory.mkdir(parents=True, exist_ok=True)
    _write_files(directory, stored, rest)
    extra = {**config.extra, "architectures": [keys.HEADS[head].architecture]}
    config.replace(extra=extra).save(directory / CONFIG_FILE)


def _head_of(arrays: Mapping[str, np.ndarray]) -> str:
    """The head with most of its leaves among the names; "model" if there is none."""

    def found(head: str) -> int:
        leaves = [f"{leaf.name}." for leaf in keys.HEADS[head].leaves]
        return sum(name.startswith(leaf) for name in arrays for leaf in leaves)

    return max(keys.HEADS, key=found)


def _parameter_problems(
    config: IBertConfig, head: str, arrays: Mapping[str, np.ndarray]
) -> list[str]:
    backbone, own = keys.backbone_parameters(config), keys.head_parameters(config, head)
    expected = backbone | own
    without_pooler = head == "model" and not own.keys() & arrays.keys()
    wanted = backbone if without_pooler else expected
    problems = [f"{name} is missing" for name in wanted if name not in arrays]
    for name, array in arrays.items():
        if name in expected:
            problems += _array_problems(name, array, expected[name])
        else:
            problems.append(f"{name} is no parameter of {keys.HEADS[head].architecture}")
    return problems


def _array_problems(name: str, array: np.ndarray, shape: tuple[int, ...] | None) -> list[str]:
    if shape is not None and array.shape != shape:
        return [f"{name} has shape {list(array.shape)}, expected {list(shape)}"]
    if array.dtype != np.float32:
        return [f"{name} has dtype {array.dtype}, expected float32"]
    if not np.isfinite(array).all():
        return [f"{name} holds NaN or infinities; training may have failed"]
    return []


def _split_ranges(
    config: IBertConfig, ranges: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The published buffers, all of them, and the ranges that they cannot hold as they are."""
    published = {
        name: np.full(shape, keys.untouched(name), np.float32)
        for name, shape in keys.published_ranges(config).items()
    }
    held = set()
    for leaf in {name.rpartition(".")[0] for name in published}:
        low, high = ranges.get(f"{leaf}.x_min"), ranges.get(f"{leaf}.x_max")
        if low is None or high is None:
            continue
        published[f"{leaf}.x_min"] = low.min(keepdims=True).reshape(1)
        published[f"{leaf}.x_max"] = high.max(keepdims=True).reshape(1)
        if low.shape == high.shape == (1,) and not keys.is_untouched(low, high):
            held |= {f"{leaf}.x_min", f"{leaf}.x_max"}
    return published, {name: array for name, array in ranges.items() if name not in held}


def _write_files(
    directory: Path, stored: Mapping[str, np.ndarray], rest: Mapping[str, np.ndarray]
) -> None:
    weights, own_ranges = directory / WEIGHTS_FILE, directory / RANGES_FILE
    new_weights, new_ranges = temporary_name(weights), temporary_name(own_ranges)
    try:
        write_tensors(new_weights, stored, {"format": "pt"})  # Hugging Face insists on "pt"
        if rest:
            write_tensors(new_ranges, rest, {"weights_sha256": sha256(new_weights)})
        own_ranges.unlink(missing_ok=True)
        new_weights.replace(weights)
        if rest:
            new_ranges.replace(own_ranges)
    finally:
        new_weights.unlink(missing_ok=True)
        new_ranges.unlink(missing_ok=True)
