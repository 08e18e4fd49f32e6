"""The files of an export: the program, its description, vectors to check a deployment by."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.numpy import save as pack_tensors

import ibert_jax
from ibert_jax.checks import check_kind
from ibert_jax.deploy.onnx_model import to_onnx
from ibert_jax.deploy.signature import Signature
from ibert_jax.deploy.stablehlo import to_stablehlo
from ibert_jax.files import read_json_object, write_through, written_together
from ibert_jax.frozen import IntegerModel

FORMATS: dict[str, tuple[str, Callable[[Signature], bytes]]] = {
    "jax": ("integer_program.jax", to_stablehlo),
    "onnx": ("integer_program.onnx", to_onnx),
}
"""Format -> its file's name and what makes the content."""
DESCRIPTION_FILE = "integer_program.json"
GOLDEN_FILE = "golden.safetensors"


def export(
    program: IntegerModel, directory: str | os.PathLike[str], formats: Iterable[str] = ("jax",)
) -> None:
    """Write an integer program, weights included, in forms that run without this package.

        import jax
        program = jax.export.deserialize(bytearray(open("integer_program.jax", "rb").read()))
        program.call(input_ids, attention_mask)["logits"]

        import onnxruntime
        session = onnxruntime.InferenceSession("integer_program.onnx")
        session.run(["logits"], {"input_ids": input_ids, "attention_mask": attention_mask})

    Arguments are int32; batch and length are free. A model with more than one token type takes
    ``token_type_ids`` as a third one. The results are the integers of
    ``program.integers``, bit for bit.

    Args:
        program: what is exported.
        directory: made if need be; another model's export there is replaced. Besides a file for
            each format it gets ``integer_program.json`` (arguments, results and their scales, the
            configuration, the model's hash) and ``golden.safetensors``: arguments, and the integers
            that must come out for them.
        formats: ``jax``, StableHLO with the fast form for every platform; ``onnx``, integer
            operators of ONNX, for where there is no Python (not built for speed).

    Raises:
        ValueError: an unknown format, or a program that keeps operations in float.
        TypeError: what is no ``IntegerModel``.
        ModuleNotFoundError: the package that writes a format is missing.
    """
    check_kind("an integer program", program, IntegerModel, "ib.freeze(model)")
    wanted = [formats] if isinstance(formats, str) else list(formats)
    if not wanted or not set(wanted) <= set(FORMATS):
        raise ValueError(f"expected formats of {', '.join(FORMATS)}, got {wanted}")
    if program.config.force_dequant != "none":
        raise ValueError(
            f"expected an integer program, got one with force_dequant="
            f"{program.config.force_dequant!r}; freeze a model with 'none'"
        )
    signature = Signature.of(program)
    contents = {FORMATS[name][0]: FORMATS[name][1](signature) for name in wanted}
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    contents[GOLDEN_FILE] = pack_tensors(signature.golden())
    text = json.dumps(_description(signature), indent=1, ensure_ascii=False) + "\n"
    contents[DESCRIPTION_FILE] = text.encode()
    names = list(contents)
    if _described_hash(folder) not in (None, program.sha256()):
        # Another model's, which would be taken for this one's, go.
        names = list(dict.fromkeys([*(name for name, _ in FORMATS.values()), *contents]))
    with written_together([folder / name for name in names]) as temporary:
        for name, content in contents.items():
            write_through(temporary, folder / name, content)


def _described_hash(folder: Path) -> str | None:
    """The hash of the model that was exported there before; None if there was none."""
    try:
        return str(read_json_object(folder / DESCRIPTION_FILE).get("model_hash"))
    except (FileNotFoundError, ValueError):
        return None


def _description(signature: Signature) -> dict[str, Any]:
    program, scales = signature.program, dict(signature.program.scales)
    return {
        "arguments": {name: list(signature.dimensions) for name in signature.arguments},
        "maximum_length": program.config.max_sequence_length,
        "outputs": {
            name: {"dtype": dtype, "scale": scales[name]}
            for name, dtype in signature.outputs.items()
        },
        "model_hash": program.sha256(),
        "versions": {"ibert_jax": ibert_jax.__version__, "jax": version("jax")},
        "config": program.config.to_dict(),
    }
