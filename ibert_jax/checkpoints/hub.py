"""From what a user calls a model to a directory: a local one, or one of the Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ibert_jax.checkpoints.files import CONFIG_FILE, WEIGHTS_FILE

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
"""``name`` or ``organization/name``, as the hub allows them."""

_FETCHED = ("*.json", "*.safetensors", "*.txt", "sentencepiece.bpe.model", "tokenizer.model")
"""Configuration, weights and tokenizer; never a pickle."""


def locate(directory_or_id: str | os.PathLike[str]) -> Path:
    """The directory of a model, downloaded first if it is the id of one on the hub.

    A local directory always wins, and a ``Path`` is nothing else. What huggingface_hub has
    downloaded before is taken from its cache; with ``HF_HUB_OFFLINE=1`` nothing else is.

    Raises:
      FileNotFoundError: neither a local directory nor a model that could be downloaded; the
        message says what it was taken for, and what to do.
    """
    path = Path(directory_or_id)
    if path.is_dir():
        return path
    if path.exists():
        raise FileNotFoundError(
            f"{path} is not a directory; give the one that holds {CONFIG_FILE} and {WEIGHTS_FILE}"
        )
    name = directory_or_id
    if not isinstance(name, str) or _HUB_ID.fullmatch(name) is None or ".." in name:
        raise FileNotFoundError(
            f"{path} is not a directory; give the one that holds {CONFIG_FILE} and {WEIGHTS_FILE}"
            ", or the id of a model on the Hugging Face hub"
        )
    return _download(name)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        found = Path(snapshot_download(name, allow_patterns=list(_FETCHED)))
    except Exception as error:  # network, hub and cache each fail in ways of their own
        raise FileNotFoundError(
            f"{name} is neither a directory here ({Path(name).absolute()} does not exist) nor a "
            f"model that could be downloaded from the Hugging Face hub ({_reason(error)}); give a "
            f"local directory that holds {CONFIG_FILE} and {WEIGHTS_FILE}, or correct the id"
        ) from None
    if (found / CONFIG_FILE).is_file() and not any(found.glob("*.safetensors")):
        raise FileNotFoundError(
            f"the hub's {name} has no {WEIGHTS_FILE}, and pickles are not opened here: fetch it, "
            f"`hf download {name} --local-dir DIRECTORY`, and convert it, `python -m "
            "conversion.from_bin` or save_pretrained in transformers"
        )
    return found


def _reason(error: Exception) -> str:
    """Why a download failed, in a few words."""
    from huggingface_hub import constants, errors

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set and it was not downloaded before: unset it"
    if isinstance(error, errors.GatedRepoError):
        return "access to it must be granted: log in with `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no such model, or a private one"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "the hub cannot be reached and it was not downloaded before"
    if isinstance(error, errors.HfHubHTTPError):
        return f"the hub answered with an error: {type(error).__name__}"
    return f"the hub cannot be reached: {type(error).__name__}"
