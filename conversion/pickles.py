"""PyTorch's pickled files, read without executing anything that they hold."""

from __future__ import annotations

import argparse
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch

from ibert_jax.checkpoints import CheckpointError

_REFUSED = re.compile(r"GLOBAL ([\w.]+)")
"""How torch's message names the object that it would have had to import."""


def load_pickle(path: str | os.PathLike[str]) -> Any:
    """What ``torch.save`` wrote: tensors, plain containers and ``argparse.Namespace``.

    Raises:
        CheckpointError: no such file, not a complete PyTorch file, or one that wants to import
            anything else; nothing of it was executed.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(path, ["this is a directory, expected a file that torch.save wrote"])
    if not path.is_file():
        raise CheckpointError(path, ["there is no such file"])
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(path, [_refusal(str(error))]) from None
    except Exception:  # torch raises whatever its readers meet in a damaged file
        raise CheckpointError(path, [_INCOMPLETE]) from None


_INCOMPLETE = (
    "this is no complete PyTorch file; it may be truncated or a Git LFS pointer, download it again"
)


def _refusal(message: str) -> str:
    found = _REFUSED.search(message)
    if found is None:
        return _INCOMPLETE
    return (
        f"this pickle asks to import {found[1]}, which is refused because loading it could run "
        "any code; save the tensors alone with torch.save(model.state_dict()), or ask whoever "
        "made it for safetensors"
    )


_DTYPES = (
    *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.complex64),
)
"""What NumPy, with ml_dtypes, and safetensors have, too."""


def as_arrays(path: Path, tensors: object, problems: list[str]) -> dict[str, np.ndarray]:
    """The NumPy arrays of a state dict; adds to ``problems`` what cannot be one."""
    if not isinstance(tensors, Mapping):
        problems.append(
            f"{path.name} must hold a dict of tensors by name, got {type(tensors).__name__}"
        )
        return {}
    arrays = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            problems.append(f"{path.name}: {name} must be a tensor, got {type(tensor).__name__}")
        elif tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta:
            problems.append(f"{path.name}: {name} must be a dense, plain tensor with values")
        elif tensor.dtype not in _DTYPES:
            problems.append(
                f"{path.name}: {name} has dtype {tensor.dtype}, which NumPy or safetensors lacks; "
                "save it as float32"
            )
        else:
            arrays[str(name)] = as_array(tensor)
    return arrays


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """The same bits in NumPy."""
    dense = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if dense.dtype == torch.bfloat16:  # NumPy knows it through ml_dtypes alone
        return dense.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return dense.numpy()


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """The inverse of :func:`as_array`; a copy."""
    copy = np.array(array, order="C")
    if copy.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(copy.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(copy)
