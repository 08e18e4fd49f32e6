"""An exported program: StableHLO for JAX alone, a description, vectors to check a deployment."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax import export as jax_export
from safetensors.numpy import save as pack_tensors

import ibert_jax
from ibert_jax.deploy.signature import Signature
from ibert_jax.files import write_whole
from ibert_jax.frozen import IntegerModel

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
PROGRAM_FILE = "integer_program.jax"
DESCRIPTION_FILE = "integer_program.json"
GOLDEN_FILE = "golden.safetensors"


def export(program: IntegerModel, directory: str | os.PathLike[str]) -> None:
    """Write an integer program, weights included, as a file that runs with JAX alone.

        import jax
        program = jax.export.deserialize(bytearray(open("integer_program.jax", "rb").read()))
        program.call(input_ids, attention_mask)["logits"]

    Arguments and results are int32; batch and length are free, and each shape is compiled when
    it first comes. The integers are those of ``program.integers``, on every platform.

    Args:
        program: what is exported.
        directory: made if need be. Besides ``integer_program.jax`` it gets
            ``integer_program.json`` (arguments, results and their scales, the configuration, the
            model's hash) and ``golden.safetensors``: arguments, and the integers that must come
            out for them.

    Raises:
        ValueError: a program that keeps operations in float.
        ModuleNotFoundError: flatbuffers, with which JAX writes and reads such files, is missing.
    """
    if program.config.force_dequant != "none":
        raise ValueError(
            f"expected an integer program, got one with force_dequant="
            f"{program.config.force_dequant!r}; freeze a model with 'none'"
        )
    signature = Signature.of(program)
    content = _serialized(signature)
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / PROGRAM_FILE, content)
    write_whole(folder / GOLDEN_FILE, pack_tensors(signature.golden()))
    text = json.dumps(_description(signature), indent=1, ensure_ascii=False) + "\n"
    write_whole(folder / DESCRIPTION_FILE, text)


def _serialized(signature: Signature) -> bytes:
    """Of every platform the fast form, of which JAX chooses where the file runs."""
    exporting = jax_export.export(jax.jit(signature.function), platforms=PLATFORMS)
    exported = exporting(*signature.abstract())
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise ModuleNotFoundError(
            f"expected the package flatbuffers, with which JAX writes such files ({error}); "
            'pip install "ibert_jax[export]"'
        ) from None


def _description(signature: Signature) -> dict[str, Any]:
    program, scales = signature.program, dict(signature.program.scales)
    return {
        "arguments": {name: list(signature.dimensions) for name in signature.arguments},
        "maximum_length": program.config.max_sequence_length,
        "outputs": {name: {"dtype": "int32", "scale": scales[name]} for name in signature.outputs},
        "platforms": list(PLATFORMS),
        "model_hash": program.sha256(),
        "versions": {"ibert_jax": ibert_jax.__version__, "jax": version("jax")},
        "config": program.config.to_dict(),
    }
