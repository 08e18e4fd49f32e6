"""The integer model on disk: one safetensors file of integers and one JSON file about them.

``integer_model.json`` holds the format's version, the configuration, the output scales, those
of the hidden states, the kind and the static settings of every integer leaf, and the SHA-256 of
``integer_model.safetensors``. The tensors are written whole under a name of their own, the JSON is
renamed into its place, and then they into theirs: whoever is killed in between leaves the model of
before (perhaps without its certificate) or the new one, and halves of two are refused.
``certificate.json``, where there is one, is the certificate of this very model: it names the
model's hash, which ``load`` checks. Nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load as read_tensors
from safetensors.numpy import save as pack_tensors

from ibert_jax import models
from ibert_jax.checks import check_kind
from ibert_jax.config import IBertConfig
from ibert_jax.files import alone_in, read_json_object, write_whole
from ibert_jax.frozen.consistency import check_settings
from ibert_jax.frozen.fingerprint import fingerprint
from ibert_jax.frozen.network import frozen_network
from ibert_jax.frozen.program import EMBEDS, IntegerModel
from ibert_jax.frozen.states import StateScales
from ibert_jax.integer.dyadic import Multiplier
from ibert_jax.layers.activation import IntegerAct, IntegerNarrowAct, IntegerPass
from ibert_jax.layers.attention import FloatContext, IntegerContext, IntegerScores
from ibert_jax.layers.decoder import IntegerDecoder
from ibert_jax.layers.dropout import IntegerDropout
from ibert_jax.layers.embedding import IntegerEmbedding
from ibert_jax.layers.gelu import FloatGELU, IntegerGELU
from ibert_jax.layers.layernorm import FloatLayerNorm, IntegerLayerNorm
from ibert_jax.layers.linear import IntegerLinear
from ibert_jax.layers.softmax import FloatSoftmax, IntegerSoftmax
from ibert_jax.layers.tanh import IntegerTanh
from ibert_jax.models.layer_stack import Apart
from ibert_jax.models.pretrained import IBertPreTrainedModel

FORMAT = "ibert_jax integer model"
VERSION = 1
TENSORS_FILE = "integer_model.safetensors"
MANIFEST_FILE = "integer_model.json"
CERTIFICATE_FILE = "certificate.json"
ARRAY = "array"
"""Stands in the manifest for an array, which is in the other file under the field's path."""

KINDS = {
    kind.__name__: kind
    for kind in (
        FloatContext,
        FloatGELU,
        FloatLayerNorm,
        FloatSoftmax,
        IntegerAct,
        IntegerContext,
        IntegerDecoder,
        IntegerDropout,
        IntegerEmbedding,
        IntegerGELU,
        IntegerLayerNorm,
        IntegerLinear,
        IntegerNarrowAct,
        IntegerPass,
        IntegerScores,
        IntegerSoftmax,
        IntegerTanh,
        Multiplier,
    )
}
ARCHITECTURES: dict[str, type[IBertPreTrainedModel]] = {
    name: getattr(models, name) for name in models.__all__
}


def save(model: IntegerModel, directory: str | os.PathLike[str], certificate: Any = None) -> None:
    """Write a model into ``directory``, which is made if need be; other files there stay.

    Args:
        certificate: the model's ``Certificate``, written beside it. Without one, that of the
            model that was there before is removed.

    Raises:
        ValueError: the certificate of another model, or a folder in which another process goes
            on writing for a minute.
        TypeError: what is no certificate.
    """
    if certificate is not None:
        check_kind("a certificate", certificate, "model_hash", "ib.certify(program)")
        if certificate.model_hash != sha256(model):
            raise ValueError(
                f"expected the certificate of this model, {sha256(model)[:12]}, got that of "
                f"{certificate.model_hash[:12]}: certify the model that you save"
            )
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    described, arrays = _describe_program(model)
    packed = pack_tensors({name: np.asarray(array) for name, array in arrays.items()})
    digest = hashlib.sha256(packed).hexdigest()
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        **described,
        "config": model.config.to_dict(),
        "sha256": digest,
    }
    if model.states is not None:
        manifest["hidden_states"] = model.states.to_json()
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    with alone_in(folder, patience=60):  # two at once would leave halves of both
        write_whole(_upcoming(folder, digest), packed)
        certificate_before = _content(folder / CERTIFICATE_FILE)
        (folder / CERTIFICATE_FILE).unlink(missing_ok=True)  # of what is replaced now
        try:
            write_whole(folder / MANIFEST_FILE, text)  # by which ``load`` finds the tensors
        except OSError:  # a full disk: what was there before stays, whole
            _upcoming(folder, digest).unlink(missing_ok=True)
            if certificate_before is not None:
                write_whole(folder / CERTIFICATE_FILE, certificate_before)
            raise
        _upcoming(folder, digest).replace(folder / TENSORS_FILE)
        for left in folder.glob(f".*.{TENSORS_FILE}*"):  # by a save that was killed
            left.unlink(missing_ok=True)
        if certificate is not None:
            save_certificate(certificate, folder)


def _upcoming(folder: Path, digest: Any) -> Path:
    """Where tensors of this SHA-256 wait until the manifest names them."""
    return folder / f".{str(digest)[:64]}.{TENSORS_FILE}"  # a damaged manifest's may be too long


def save_certificate(certificate: Any, directory: str | os.PathLike[str]) -> None:
    """Write a certificate beside the model that it is about."""
    write_whole(Path(directory) / CERTIFICATE_FILE, f"{certificate.to_json()}\n")


def sha256(model: IntegerModel) -> str:
    """SHA-256 of all that decides a model's integers, and of the scales of its outputs.

    Not of those of hidden states. What else the configuration says of integers, ``load`` holds
    against the leaves.
    """
    described, arrays = _describe_program(model)
    decisive = {name: getattr(model.config, name) for name in ("vocab_size", "pad_token_id")}
    bits = model.config.quantization.width("weight_bits", "embeddings.word_embeddings")
    if bits != 8:  # of ``inputs_embeds``; left out as it was before it counted
        decisive["embedding_bits"] = bits
    return fingerprint({**described, **decisive}, arrays)


def _describe_program(model: IntegerModel) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest's entries about the program, and by name what NumPy makes its arrays of."""
    network, arrays = model.with_kernels("xla").network, {}
    leaves = {path: _describe(path, leaf, arrays) for path, leaf in _integer_leaves(network)}
    return {
        "architecture": type(network).__name__,
        "scales": dict(model.scales),
        "leaves": leaves,
    }, arrays


def load(directory: str | os.PathLike[str]) -> IntegerModel:
    """Read a model that ``save`` wrote, also while another one is saved in its place.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: another format or version, tensors that were truncated or altered, settings
            that are not the integers', or a certificate of another model.
    """
    folder = Path(directory)
    manifest = folder / MANIFEST_FILE
    while True:
        before = _version(manifest)
        try:
            return _load(folder, read_json_object(manifest))
        except (FileNotFoundError, ValueError):
            if _version(manifest) == before:  # else the rest was that of another model by then
                raise


def _version(path: Path) -> tuple[int, int] | None:
    """What tells a file from one that was put in its place; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _load(folder: Path, manifest: dict[str, Any]) -> IntegerModel:
    """The model of a folder in which this manifest was found."""
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise ValueError(
            f"{folder / MANIFEST_FILE} is {manifest.get('format')!r} version "
            f"{manifest.get('version')!r}, expected {FORMAT!r} version {VERSION}: freeze the "
            "model again with this version of ibert_jax"
        )
    arrays = _read_arrays(folder, manifest.get("sha256"))
    try:
        config = IBertConfig.from_dict(manifest["config"])
        scales = {str(name): float(scale) for name, scale in manifest["scales"].items()}
        leaves = {
            path: _rebuild(path, described, arrays)
            for path, described in manifest["leaves"].items()
        }
        check_settings(config, leaves)
        states = manifest.get("hidden_states")  # absent from what older versions wrote
        states = None if states is None else StateScales.from_json(states)
        network = frozen_network(ARCHITECTURES[manifest["architecture"]], config, leaves)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / MANIFEST_FILE} does not describe a model ({error!r}); it was altered or "
            "damaged, freeze the model again"
        ) from None
    if not all(math.isfinite(scale) and scale > 0 for scale in scales.values()):
        raise ValueError(f"{folder / MANIFEST_FILE} holds scales that are not positive: {scales}")
    if not scales.keys() - {EMBEDS}:
        raise ValueError(
            f"{folder / MANIFEST_FILE} holds no scale of an output; it was altered or damaged, "
            "freeze the model again"
        )
    wanted = (config.num_hidden_layers + 1, config.hidden_size)
    if states is not None and (found := states.arrays()[0].shape) != wanted:
        raise ValueError(
            f"{folder / MANIFEST_FILE} holds scales of hidden states of shape {list(found)}, "
            f"expected {list(wanted)}; it was altered or damaged, freeze the model again"
        )
    model = IntegerModel.of(network, config, scales, states)
    _check_certificate(folder / CERTIFICATE_FILE, model)
    return model


def _check_certificate(path: Path, model: IntegerModel) -> None:
    try:
        certified = read_json_object(path).get("model_hash")
    except FileNotFoundError:
        return
    found = sha256(model)
    if certified != found:
        raise ValueError(
            f"{path} certifies the model {str(certified)[:12]}, the one beside it is {found[:12]}: "
            "the model was altered after it was certified; copy it again, or remove the "
            "certificate and certify it anew"
        )


def _read_arrays(folder: Path, expected: Any) -> dict[str, np.ndarray]:
    path = folder / TENSORS_FILE
    content = _content(_upcoming(folder, expected))  # there before the last step of ``save``
    content = _content(path) if content is None else content
    if content is None:
        raise FileNotFoundError(f"{path} does not exist; is {folder} a frozen model?")
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ValueError(
            f"{path} has SHA-256 {found[:16]}..., its manifest says {str(expected)[:16]}...: the "
            "file was truncated or altered, copy it again"
        )
    try:
        return read_tensors(content)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error}); copy it again") from None


def _content(path: Path) -> bytes | None:
    """The bytes of a file; None if there is none."""
    try:
        return path.read_bytes() if path.is_file() else None
    except FileNotFoundError:  # renamed in between
        return None


def _integer_leaves(network: nnx.Module) -> Iterator[tuple[str, Any]]:
    """(path, integer leaf) of a frozen network, in the order of its attributes."""
    for path, module in sorted(nnx.iter_modules(network), key=lambda item: str(item[0])):
        for name, value in sorted(vars(module).items()):
            if type(value).__name__ in KINDS:
                yield ".".join(map(str, (*path, name))), value


def _describe(path: str, node: Any, arrays: dict[str, Any]) -> Any:
    """The manifest's entry of a leaf or of a part of it; its arrays go to ``arrays``."""
    if isinstance(node, jax.Array | Apart):
        arrays[path] = node
        return ARRAY
    if isinstance(node, tuple):
        return [_describe(f"{path}.{index}", part, arrays) for index, part in enumerate(node)]
    if dataclasses.is_dataclass(node):
        fields = {
            field.name: _describe(f"{path}.{field.name}", getattr(node, field.name), arrays)
            for field in dataclasses.fields(node)
        }
        return {"kind": type(node).__name__, **fields}
    return node


def _rebuild(path: str, described: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The inverse of ``_describe``."""
    if described == ARRAY:
        return arrays[path]
    if isinstance(described, list):
        parts = enumerate(described)
        return tuple(_rebuild(f"{path}.{index}", part, arrays) for index, part in parts)
    if isinstance(described, dict):
        fields = dict(described)
        kind = KINDS[fields.pop("kind")]
        return kind(**{n: _rebuild(f"{path}.{n}", part, arrays) for n, part in fields.items()})
    return described
