"""Safetensors files in a model directory: opened with every doubt spoken, written all at once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  makes "bfloat16" a dtype that NumPy, hence safetensors, knows
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ibert_jax.files import naming, read_json_object

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
RANGES_FILE = "ranges.safetensors"

_SHOWN = 20
_FLOATS = ("F32", "F16", "BF16", "F64")


class CheckpointError(ValueError):
    """Everything that is wrong with a checkpoint; ``problems`` holds one sentence each."""

    def __init__(self, directory: str | os.PathLike[str], problems: Iterable[str]):
        self.problems = tuple(problems)
        lines = list(self.problems[:_SHOWN])
        if len(self.problems) > _SHOWN:
            lines.append(f"... and {len(self.problems) - _SHOWN} more")
        super().__init__(f"checkpoint {os.fspath(directory)}: " + "\n  ".join(lines))


@dataclass(frozen=True)
class Entry:
    """One tensor of an open file, not read yet."""

    file: Any  # safetensors' handle
    key: str

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.file.get_slice(self.key).get_shape())

    @property
    def is_float(self) -> bool:
        return self.dtype in _FLOATS

    @property
    def dtype(self) -> str:
        return self.file.get_slice(self.key).get_dtype()

    def read(self) -> np.ndarray:
        """The tensor as float32: exact from float16 and bfloat16, rounded from float64."""
        with np.errstate(over="ignore"):  # the caller refuses infinities
            return self.file.get_tensor(self.key).astype(np.float32)


def open_weights(directory: Path, problems: list[str]) -> dict[str, Entry]:
    """The tensors of model.safetensors or of its shards; adds to ``problems``."""
    entries: dict[str, Entry] = {}
    for name, promised in _weight_files(directory, problems).items():
        found = open_file(directory / name, problems)
        problems += [
            f"{name} lacks {key}, though {INDEX_FILE} says it is there; copy both again"
            for key in promised
            if found and key not in found
        ]
        problems += [
            f"tensor {key} is in two shards, one of them {name}" for key in found if key in entries
        ]
        entries |= found
    return entries


def open_file(path: Path, problems: list[str]) -> dict[str, Entry]:
    """The tensors of one safetensors file; adds to ``problems`` if it cannot be read."""
    try:
        path.open("rb").close()
    except OSError as error:  # of which safetensors says that there is no such file
        problems.append(f"{path.name} cannot be read: {error.strerror}; may you read it?")
        return {}
    try:
        file = safe_open(path, framework="np")
        return {key: Entry(file, key) for key in file.keys()}  # noqa: SIM118  no mapping
    except (SafetensorError, OSError) as error:
        problems.append(
            f"{path.name} is no complete safetensors file ({error}); it may be truncated, "
            f"copy it again"
        )
        return {}


def metadata(path: Path) -> Mapping[str, str]:
    with safe_open(path, framework="np") as file:
        return file.metadata() or {}


def _weight_files(directory: Path, problems: list[str]) -> dict[str, list[str]]:
    """The files to open, each with the tensors that an index promises in it."""
    if (directory / WEIGHTS_FILE).is_file():
        return {WEIGHTS_FILE: []}
    if (directory / INDEX_FILE).is_file():
        return indexed_files(directory, INDEX_FILE, problems)
    pickles = sorted(path.name for path in directory.glob("*.bin"))
    advice = (
        f"; {pickles[0]} must first become safetensors (python -m conversion.from_bin, or "
        f"save_pretrained in transformers)"
        if pickles
        else ""
    )
    problems.append(f"{WEIGHTS_FILE} is missing{advice}")
    return {}


def indexed_files(directory: Path, index: str, problems: list[str]) -> dict[str, list[str]]:
    """The files that an index names, without those that are missing, and what each should hold."""
    try:
        weight_map = read_json_object(directory / index).get("weight_map")
    except ValueError as error:
        problems.append(str(error))
        return {}
    if not isinstance(weight_map, dict) or not weight_map:
        problems.append(f"{index} has no weight_map from tensors to files")
        return {}
    files: dict[str, list[str]] = {}
    for key, name in sorted(weight_map.items()):
        files.setdefault(str(name), []).append(key)
    for name in sorted(files):
        if Path(name).name != name:  # an index must not reach outside of its directory
            problems.append(f"{index} names {name!r}, which is no file beside it")
            del files[name]
        elif not (directory / name).is_file():
            problems.append(f"{name} is missing, though {index} names it")
            del files[name]
    return {name: files[name] for name in sorted(files)}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], info: Mapping[str, str]) -> None:
    """Writes one safetensors file, in the order of the names; same content, same bytes."""
    ordered = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    content = save(ordered, metadata=dict(info))
    size = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + size]
    if len(info) > 1:  # the library writes these in random order
        header = {**json.loads(text), "__metadata__": dict(sorted(info.items()))}
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size)
    with naming(path), path.open("wb") as file:
        for part in (content[:8], text, memoryview(content)[8 + size :]):
            file.write(part)
