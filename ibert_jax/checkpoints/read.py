"""Reads a Hugging Face directory of I-BERT, RoBERTa or BERT."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ibert_jax.checkpoints import keys
from ibert_jax.checkpoints.buffers import PublishedBuffers, keep
from ibert_jax.checkpoints.derived import derived_ranges
from ibert_jax.checkpoints.files import (
    CONFIG_FILE,
    RANGES_FILE,
    WEIGHTS_FILE,
    CheckpointError,
    Entry,
    metadata,
    open_file,
    open_weights,
    sha256,
)
from ibert_jax.config import MODEL_TYPES, IBertConfig
from ibert_jax.files import read_json_object

_POSITIONS = "embeddings.position_embeddings.weight"


@dataclass(frozen=True)
class Checkpoint:
    """What a directory held, in our names and as float32.

    Attributes:
      config: the configuration, overrides applied.
      head: a key of ``keys.HEADS``.
      tensors: the parameters of backbone and head, exactly those of the model but
        ``missing_head``; matrices are [out, in] as in PyTorch.
      ranges: calibrated activation ranges of the configured scheme, name to array; a range of a
        whole tensor has shape []. Empty for a float checkpoint, and for one of another scheme.
      missing_head: parameters of the head that the directory lacks: initialize them and say so.
      unused: keys of other heads that were passed over.
      published: buffers of the published implementation, for :func:`write_checkpoint`.
    """

    config: IBertConfig
    head: str
    tensors: dict[str, np.ndarray]
    ranges: dict[str, np.ndarray]
    missing_head: tuple[str, ...]
    unused: tuple[str, ...]
    published: PublishedBuffers = field(default_factory=PublishedBuffers)


@dataclass
class _Sorted:
    """Keys of a checkpoint, sorted by what becomes of them."""

    parameters: dict[str, Entry] = field(default_factory=dict)
    ranges: dict[str, Entry] = field(default_factory=dict)
    buffers: dict[str, Entry] = field(default_factory=dict)
    copies: dict[str, Entry] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)


def read_checkpoint(
    directory: str | os.PathLike[str],
    head: str | None = None,
    config_overrides: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Reads ``config.json`` and ``model.safetensors`` (or its shards).

    BERT's positions count from 0 and ours from ``pad_token_id + 1``: that many zero rows, which no
    token uses, come before its position table. float16, bfloat16 and float64 become float32.
    A model that was trained quantization-aware by the published code is of the "reference" scheme,
    and ranges that the code does not store are derived (see ``derived``).

    Args:
      directory: of Hugging Face's layout, or written by :func:`write_checkpoint`.
      head: which network to read it for, a key of ``keys.HEADS``; by default the one the directory
        declares, "model" (encoder and pooler) if that is none of these.
      config_overrides: settings that replace those of config.json, e.g. ``{"num_labels": 3}``.

    Raises:
      CheckpointError: every problem at once: files missing or truncated, keys that are unknown,
        missing or double, shapes, dtypes, NaN. A ValueError.
      FileNotFoundError: ``directory`` is none.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(
            f"{directory} is not a directory; give the one that holds {CONFIG_FILE} and "
            f"{WEIGHTS_FILE}"
        )
    if head is not None and head not in keys.HEADS:
        raise ValueError(f"head must be one of {', '.join(keys.HEADS)}, got {head!r}")
    problems: list[str] = []
    raw, config = _read_config(directory, config_overrides or {}, problems)
    entries = open_weights(directory, problems)
    if problems or config is None:
        raise CheckpointError(directory, problems)

    model_type = str(raw["model_type"])
    declared = keys.declared_head(raw.get("architectures"))
    if head is None:
        head = declared if declared and declared in keys.HEADS else "model"
    found = _sort(entries, config, model_type, head, declared, problems)
    shift = config.pad_token_id + 1 if model_type == "bert" else 0
    for name, original in keys.COPIES.items():
        if name in found.copies:
            found.parameters.setdefault(original, found.copies[name])
    tensors, missing_head = _read_parameters(found.parameters, config, head, shift, problems)
    _compare_copies(found.copies, tensors, problems)
    published, buffers = _read_published(found, config, problems)
    ranges = _read_own_ranges(directory, config.quantization.scheme, problems)
    if ranges is None:
        ranges = published
        if _was_trained_by_hugging_face(config, published, config_overrides or {}):
            scheme = config.quantization.replace(scheme="reference")
            config = config.replace(quantization=scheme)
        if config.quantization.scheme == "reference":
            ranges |= derived_ranges(config, head, ranges, tensors)
        else:
            ranges = {}  # one range per tensor says too little about channels
    if problems:
        raise CheckpointError(directory, problems)
    unused = tuple(sorted(found.unused))
    kept = keep(buffers, tensors | ranges)
    return Checkpoint(config, head, tensors, ranges, missing_head, unused, kept)


def missing_from_head(directory: Path, head: str) -> tuple[str, ...]:
    """The parameters of a head, a key of ``keys.HEADS``, that a directory lacks, by names alone.

    Of files that cannot be read none are missing: ``read_checkpoint`` says what is wrong.
    """
    problems: list[str] = []
    raw, config = _read_config(directory, {}, problems)
    entries = open_weights(directory, problems)
    if problems or config is None:
        return ()
    model_type = str(raw["model_type"])
    declared = keys.declared_head(raw.get("architectures"))
    found = _sort(entries, config, model_type, head, declared, problems)
    stored = {*found.parameters, *(keys.COPIES[name] for name in found.copies)}
    return tuple(name for name in keys.head_parameters(config, head) if name not in stored)


def _was_trained_by_hugging_face(
    config: IBertConfig, published: Mapping[str, np.ndarray], overrides: Mapping[str, Any]
) -> bool:
    """Whether the published code trained the ranges, though the settings may once have been ours.

    Hugging Face hands our "quantization" on when it saves what it read from us; its ranges are
    of the reference scheme all the same.
    """
    return config.quant_mode and bool(published) and "quantization" not in overrides


def _read_config(
    directory: Path, overrides: Mapping[str, Any], problems: list[str]
) -> tuple[dict[str, Any], IBertConfig | None]:
    try:
        raw = read_json_object(directory / CONFIG_FILE)
        if not raw.get("model_type"):
            # A BERT taken for a RoBERTa has every shape right, and every position wrong.
            problems.append(
                f'{CONFIG_FILE} does not say what the model is: add "model_type": "bert" to it, or '
                f"another of {', '.join(MODEL_TYPES)}"
            )
        return raw, IBertConfig.from_dict(raw).replace(**overrides)
    except FileNotFoundError:
        problems.append(f"{CONFIG_FILE} is missing")
    except ValueError as error:
        problems.append(str(error))
    return {}, None


def _sort(
    entries: Mapping[str, Entry],
    config: IBertConfig,
    model_type: str,
    head: str,
    declared: str | None,
    problems: list[str],
) -> _Sorted:
    """Finds for every key what it is here; an unknown or double key is a problem."""
    parameters = keys.backbone_parameters(config) | keys.head_parameters(config, head)
    found = _Sorted()
    places = (
        (parameters, found.parameters),
        (keys.published_ranges(config), found.ranges),
        (keys.published_buffers(config), found.buffers),
        (keys.COPIES if head == "masked_lm" else (), found.copies),
    )
    for key, entry in sorted(entries.items()):
        name = keys.our_name(key, model_type, head, declared)
        if name is None:
            found.unused.append(key)
            continue
        target = next((place for known, place in places if name in known), None)
        if target is not None:
            if name in target:
                problems.append(f"{key} and {target[name].key} are both {name}; keep one of them")
            target[name] = entry
        elif keys.OTHER_HEADS.fullmatch(name):
            found.unused.append(key)
        elif name not in keys.CONSTANTS:
            problems.append(
                f"{key} is unknown for model_type {model_type!r} with "
                f"{config.num_hidden_layers} layers; is this {CONFIG_FILE} of another model?"
            )
    return found


def _read_parameters(
    entries: Mapping[str, Entry],
    config: IBertConfig,
    head: str,
    shift: int,
    problems: list[str],
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Reads what is there; returns with it the names of the head that are not."""
    backbone, own = keys.backbone_parameters(config), keys.head_parameters(config, head)
    tensors = {}
    for name, shape in (backbone | own).items():
        rows = shift if name == _POSITIONS else 0
        if name not in entries:
            if name in backbone:
                problems.append(f"{name} is missing")
            continue
        tensor = _read(entries[name], (shape[0] - rows, *shape[1:]), problems)
        if tensor is not None:
            padding = np.zeros((rows, *shape[1:]), np.float32)
            tensors[name] = np.concatenate([padding, tensor]) if rows else tensor
    return tensors, tuple(name for name in own if name not in entries)


def _compare_copies(
    copies: Mapping[str, Entry], tensors: Mapping[str, np.ndarray], problems: list[str]
) -> None:
    """A tensor that is stored twice must be the same twice."""
    for name, entry in copies.items():
        original = keys.COPIES[name]
        if original in tensors:
            copy = _read(entry, tensors[original].shape, problems)
            if copy is not None and not np.array_equal(copy, tensors[original]):
                problems.append(
                    f"{entry.key} differs from {original}: only language models that share the "
                    f"two (tie_word_embeddings) are supported"
                )


def _read(
    entry: Entry, shape: tuple[int, ...] | None, problems: list[str], *, finite: bool = True
) -> np.ndarray | None:
    """One tensor as float32; None, and a problem, if it is not what the configuration says."""
    if shape is not None and entry.shape != shape:
        problems.append(
            f"{entry.key} has shape {list(entry.shape)}, but {CONFIG_FILE} and overrides want "
            f"{list(shape)}"
        )
    elif not entry.is_float:
        problems.append(f"{entry.key} has dtype {entry.dtype}, expected a floating-point one")
    else:
        tensor = entry.read()
        if not finite or np.isfinite(tensor).all():
            return tensor
        problems.append(
            f"{entry.key} holds NaN or infinities (as float32); training may have failed"
        )
    return None


def _read_own_ranges(
    directory: Path, scheme: str, problems: list[str]
) -> dict[str, np.ndarray] | None:
    """Those of ``ranges.safetensors``; None if there is none, or one of another scheme."""
    path, weights = directory / RANGES_FILE, directory / WEIGHTS_FILE
    if not path.is_file():
        return None
    entries = open_file(path, problems)
    if not entries:
        return None
    info = metadata(path)
    if not weights.is_file() or info.get("weights_sha256") != sha256(weights):
        problems.append(
            f"{RANGES_FILE} belongs to other weights than {WEIGHTS_FILE}; "
            f"delete it and calibrate again"
        )
        return None
    if info.get("scheme") != scheme:
        return None
    tensors = {name: _read(entry, None, problems) for name, entry in entries.items()}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _read_published(
    found: _Sorted, config: IBertConfig, problems: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The published ranges that were calibrated, shape []; and every buffer as it is."""
    shapes = keys.published_buffers(config)
    raw = {name: _read(entry, (1,), problems) for name, entry in found.ranges.items()}
    buffers = {
        name: _read(entry, shapes[name], problems, finite=False)  # nothing is computed from them
        for name, entry in found.buffers.items()
    }
    ranges = {name: tensor.reshape(()) for name, tensor in raw.items() if tensor is not None}
    for leaf in {keys.leaf_of(name) for name in found.ranges}:
        low, high = ranges.get(f"{leaf}.x_min"), ranges.get(f"{leaf}.x_max")
        if low is None or high is None:
            problems.append(f"{leaf} must have both x_min and x_max, got one of them")
        elif keys.is_untouched(low, high):
            del ranges[f"{leaf}.x_min"], ranges[f"{leaf}.x_max"]
        elif low > high:
            problems.append(f"{leaf}.x_min is {low}, above its x_max {high}")
    everything = raw | buffers
    return ranges, {name: tensor for name, tensor in everything.items() if tensor is not None}
