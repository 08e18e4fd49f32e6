"""Many kinds of broken checkpoint: each gets its sentence, no model is begun, no code is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ibert_jax.checkpoints import CheckpointError, keys, read_checkpoint, write_checkpoint
from ibert_jax.config import IBertConfig
from ibert_jax.models import IBertForSequenceClassification

CONFIG = IBertConfig(
    vocab_size=20,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=10,
)
WORDS = "ibert.embeddings.word_embeddings.weight"
QUERY = "ibert.encoder.layer.0.attention.self.query.weight"
NORM = "ibert.embeddings.LayerNorm.weight"
ACT = "ibert.encoder.layer.0.pre_output_act"
WEIGHTS, SETTINGS = "model.safetensors", "config.json"
INDEX = "model.safetensors.index.json"

Tensors = dict[str, np.ndarray]
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that nothing is wrong with, calibrated."""
    random = np.random.default_rng(0)
    shapes = keys.backbone_parameters(CONFIG)
    shapes |= keys.head_parameters(CONFIG, "sequence_classification")
    tensors = {name: random.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    tensors |= {
        f"{ACT[6:]}.x_{end}": np.array(at, np.float32) for end, at in (("min", -1), ("max", 2))
    }
    path = tmp_path_factory.mktemp("whole") / "checkpoint"
    write_checkpoint(path, CONFIG.replace(quantization={"scheme": "reference"}), tensors)
    (path / "ranges.safetensors").rename(path.with_name("ranges.safetensors"))
    return path


def setting(**values: Any) -> Damage:
    """Change config.json."""

    def damage(directory: Path) -> None:
        path = directory / SETTINGS
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return damage


def content(name: str, data: bytes | str) -> Damage:
    """Replace a file."""
    return lambda d: (d / name).write_bytes(data.encode() if isinstance(data, str) else data)


def without(name: str) -> Damage:
    return lambda directory: (directory / name).unlink()


def folder(name: str) -> Damage:
    """A directory in the place of a file."""
    return lambda directory: ((directory / name).unlink(), (directory / name).mkdir())


def cut(name: str, kept: float) -> Damage:
    def damage(directory: Path) -> None:
        data = (directory / name).read_bytes()
        (directory / name).write_bytes(data[: int(len(data) * kept)])

    return damage


def tensors(edit: Callable[[Tensors], object]) -> Damage:
    def damage(directory: Path) -> None:
        stored = load_file(directory / WEIGHTS)
        edit(stored)
        save_file(stored, directory / WEIGHTS)

    return damage


def replaced(name: str, change: Callable[[np.ndarray], Any]) -> Damage:
    return tensors(lambda stored: stored.update({name: np.ascontiguousarray(change(stored[name]))}))


def poisoned(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array.flat[0] = value
        return array

    return change


def sharded(then: Callable[[Path, dict[str, str]], object]) -> Damage:
    """Two shards and an index, damaged by ``then(directory, weight_map)``."""

    def damage(directory: Path) -> None:
        stored = load_file(directory / WEIGHTS)
        (directory / WEIGHTS).unlink()
        weight_map = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(sorted(stored))}
        for part in ("part-0.safetensors", "part-1.safetensors"):
            save_file({n: stored[n] for n in stored if weight_map[n] == part}, directory / part)
        (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        then(directory, weight_map)

    return damage


def moved_in_index(directory: Path, weight_map: dict[str, str]) -> None:
    weight_map[WORDS] = next(f for f in set(weight_map.values()) if f != weight_map[WORDS])
    (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def doubled(directory: Path, weight_map: dict[str, str]) -> None:
    other = next(f for f in set(weight_map.values()) if f != weight_map[WORDS])
    words = load_file(directory / weight_map[WORDS])[WORDS]
    save_file(load_file(directory / other) | {WORDS: words}, directory / other)


class Malicious:
    def __init__(self, directory: Path) -> None:
        self.marker = str(directory / "executed")

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


def malicious(name: str) -> Damage:
    return lambda directory: (directory / name).write_bytes(pickle.dumps(Malicious(directory)))


def malicious_pickle_only(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    malicious("pytorch_model.bin")(directory)


def overlapping(directory: Path) -> None:
    """A header whose tensors claim the same bytes."""
    header = {n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in (WORDS, QUERY)}
    text = json.dumps(header).encode()
    (directory / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))


INCOMPLETE = rf"{WEIGHTS} is no complete safetensors file \(.*\); it may be truncated, copy it ag"
FOREIGN = r"is unknown for model_type 'ibert' with 1 layers; is this config.json of another model\?"
NOT_FINITE = r"holds NaN or infinities \(as float32\); training may have failed"

KINDS: dict[str, tuple[Damage, str]] = {
    # The configuration.
    "config missing": (without(SETTINGS), "config.json is missing"),
    "config empty": (content(SETTINGS, ""), r"config.json is not valid JSON .* copy it again"),
    "config truncated": (cut(SETTINGS, 0.5), r"config.json is not valid JSON .* copy it again"),
    "config not UTF-8": (content(SETTINGS, b"\xff\xfe{}"), r"config.json is not valid JSON"),
    "config a list": (content(SETTINGS, "[]"), "config.json must hold a JSON object, got list"),
    "config a directory": (folder(SETTINGS), "config.json is missing"),
    "config nested without end": (
        content(SETTINGS, '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"),
        r"config.json is not valid JSON .* copy it again",
    ),
    "negative head count": (
        setting(num_attention_heads=-2),
        "num_attention_heads must be an integer at least 1, got -2",
    ),
    "head count no divisor": (
        setting(num_attention_heads=3),
        "hidden_size must be a multiple of num_attention_heads, got 8 and 3",
    ),
    "head count a text": (setting(num_attention_heads="2"), "must be an integer, got '2'"),
    "fractional size": (setting(hidden_size=8.5), "hidden_size must be an integer, got 8.5"),
    "NaN in the settings": (setting(layer_norm_eps=float("nan")), "layer_norm_eps must be a num"),
    "another architecture": (setting(model_type="t5"), "model_type must be one of ibert, roberta"),
    "another activation": (setting(hidden_act="relu"), "hidden_act must be 'gelu', the only"),
    "relative positions": (
        setting(position_embedding_type="relative_key"),
        "position_embedding_type must be 'absolute'",
    ),
    "a decoder": (setting(is_decoder=True), "is_decoder must be false, only encoders are supp"),
    "padding outside the vocabulary": (
        setting(pad_token_id=20),
        "pad_token_id must be below vocab_size 20, got 20",
    ),
    "labels as a list": (setting(id2label=["a", "b"]), "id2label must"),
    "labels with holes": (setting(id2label={"0": "a", "2": "b"}), "id2label must name the lab"),
    "labels without numbers": (setting(id2label={"a": "b", "c": "d"}), "id2label must"),
    "unknown quantization": (
        setting(quantization={"bits": 4}),
        "QuantConfig: unknown settings bits; it knows ",
    ),
    "config for wider layers": (
        setting(hidden_size=16),
        rf"{NORM} has shape \[8\], but config.json and overrides want \[16\]",
    ),
    "config for a larger vocabulary": (
        setting(vocab_size=21),
        rf"{WORDS} has shape \[20, 8\], but config.json and overrides want \[21, 8\]",
    ),
    "config for more layers": (
        setting(num_hidden_layers=2),
        r"encoder.layer.1.attention.self.query.weight is missing",
    ),
    "config for other labels": (
        setting(id2label={"0": "a", "1": "b", "2": "c"}, label2id=None),
        r"classifier.out_proj.bias has shape \[2\], but config.json and overrides want \[3\]",
    ),
    # The file of weights.
    "weights missing": (without(WEIGHTS), f"{WEIGHTS} is missing"),
    "weights empty": (content(WEIGHTS, b""), INCOMPLETE),
    "weights truncated in the header": (cut(WEIGHTS, 0.01), INCOMPLETE),
    "weights truncated in the data": (cut(WEIGHTS, 0.9), INCOMPLETE),
    "weights a directory": (folder(WEIGHTS), f"{WEIGHTS} is missing"),
    "weights a Git LFS pointer": (
        content(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        INCOMPLETE,
    ),
    "weights with a vast header": (content(WEIGHTS, b"\xff" * 8 + b"{}"), INCOMPLETE),
    "weights that overlap": (overlapping, INCOMPLETE),
    "a malicious pickle named safetensors": (malicious(WEIGHTS), INCOMPLETE),
    "a malicious pickle alone": (
        malicious_pickle_only,
        rf"{WEIGHTS} is missing; pytorch_model.bin must first become safetensors \(python -m conv",
    ),
    # Tensors.
    "tensor missing": (
        tensors(lambda stored: stored.pop(WORDS)),
        r"embeddings.word_embeddings.weight is missing",
    ),
    "tensor unknown": (
        tensors(lambda stored: stored.update({"other.weight": np.zeros(1, np.float32)})),
        f"other.weight {FOREIGN}",
    ),
    "tensor of a layer too many": (
        tensors(lambda s: s.update({QUERY.replace("layer.0", "layer.1"): s[QUERY]})),
        FOREIGN,
    ),
    "tensor under two prefixes": (
        tensors(lambda stored: stored.update({WORDS.replace("ibert", "roberta"): stored[WORDS]})),
        r"are both embeddings.word_embeddings.weight; keep one of them",
    ),
    "wrong shape": (
        replaced(QUERY, lambda a: a[:4]),
        rf"{QUERY} has shape \[4, 8\], but config.json and overrides want \[8, 8\]",
    ),
    "transposed": (replaced(WORDS, np.transpose), rf"{WORDS} has shape \[8, 20\]"),
    "scalar": (replaced(NORM, lambda a: a[0]), rf"{NORM} has shape \[\]|{NORM} has shape \[1\]"),
    "integers": (
        replaced(QUERY, lambda a: a.astype(np.int8)),
        f"{QUERY} has dtype I8, expected a floating-point one",
    ),
    "booleans": (replaced(QUERY, lambda a: a > 0), f"{QUERY} has dtype BOOL, expected a floating"),
    "complex numbers": (replaced(QUERY, lambda a: a.astype(np.complex64)), f"{QUERY} has dtype C"),
    "8-bit floats": (
        replaced(QUERY, lambda a: a.astype(ml_dtypes.float8_e4m3fn)),
        f"{QUERY} has dtype F8_E4M3, expected a floating-point one",
    ),
    "NaN": (replaced(QUERY, poisoned(np.nan)), f"{QUERY} {NOT_FINITE}"),
    "infinity": (replaced(NORM, poisoned(-np.inf)), f"{NORM} {NOT_FINITE}"),
    "float64 beyond float32": (
        replaced(QUERY, lambda a: np.full(a.shape, 1e300)),
        f"{QUERY} {NOT_FINITE}",
    ),
    # Shards.
    "missing shard": (
        sharded(lambda d, _: (d / "part-1.safetensors").unlink()),
        f"part-1.safetensors is missing, though {INDEX} names it",
    ),
    "truncated shard": (
        sharded(lambda d, _: cut("part-1.safetensors", 0.8)(d)),
        "part-1.safetensors is no complete safetensors file",
    ),
    "index naming a missing tensor": (
        sharded(moved_in_index),
        rf"part-\d.safetensors lacks {WORDS}, though {INDEX} says it is there; copy both again",
    ),
    "duplicate tensor in two shards": (
        sharded(doubled),
        rf"tensor {WORDS} is in two shards, one of them part-\d.safetensors",
    ),
    "index not JSON": (sharded(lambda d, _: cut(INDEX, 0.5)(d)), f"{INDEX} is not valid JSON"),
    "index without a map": (
        sharded(lambda d, _: (d / INDEX).write_text("{}")),
        f"{INDEX} has no weight_map from tensors to files",
    ),
    "index reaching outside": (
        sharded(lambda d, _: (d / INDEX).write_text('{"weight_map": {"a": "../model.bin"}}')),
        rf"{INDEX} names '../model.bin', which is no file beside it",
    ),
    "index of numbers": (
        sharded(lambda d, _: (d / INDEX).write_text('{"weight_map": {"a": 1}}')),
        f"1 is missing, though {INDEX} names it",
    ),
    # Ranges.
    "range upside down": (
        replaced(f"{ACT}.x_min", lambda a: a + 9),
        r"pre_output_act.x_min is 8.0, above its x_max 2.0",
    ),
    "half a range": (
        tensors(lambda stored: stored.pop(f"{ACT}.x_min")),
        "pre_output_act must have both x_min and x_max, got one of them",
    ),
    "NaN in a range": (replaced(f"{ACT}.x_max", poisoned(np.nan)), f"{ACT}.x_max {NOT_FINITE}"),
    "range of another shape": (
        replaced(f"{ACT}.x_max", lambda a: np.repeat(a, 2)),
        rf"{ACT}.x_max has shape \[2\]",
    ),
    "buffer of another shape": (
        replaced(f"{ACT}.act_scaling_factor", lambda a: np.repeat(a, 2)),
        rf"{ACT}.act_scaling_factor has shape \[2\]",
    ),
    "own ranges truncated": (
        content("ranges.safetensors", b"short"),
        "ranges.safetensors is no complete safetensors file",
    ),
    "own ranges of other weights": (
        lambda d: shutil.copyfile(d.parent / "ranges.safetensors", d / "ranges.safetensors"),
        "ranges.safetensors belongs to other weights than model.safetensors; delete it and cal",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_sentence_and_no_model(
    tmp_path: Path, whole: Path, kind: str, monkeypatch: pytest.MonkeyPatch
):
    directory = tmp_path / "checkpoint"
    shutil.copytree(whole, directory)
    shutil.copyfile(whole.with_name("ranges.safetensors"), tmp_path / "ranges.safetensors")
    damage, sentence = KINDS[kind]
    damage(directory)
    if kind == "own ranges of other weights":
        replaced(WORDS, lambda a: a + 1)(directory)

    def begun(*_: object, **__: object) -> None:
        raise AssertionError("a model was begun")

    monkeypatch.setattr(IBertForSequenceClassification, "__init__", begun)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        IBertForSequenceClassification.from_pretrained(directory)
    error = caught.value
    assert error.__cause__ is None and (error.__context__ is None or error.__suppress_context__)
    assert str(error).startswith(f"checkpoint {directory}: ")
    for problem in error.problems:
        assert len(problem.splitlines()) == 1 and "Traceback" not in problem
        assert len(problem) < 400 + len(str(directory)), "a sentence, not a dump"
    assert not (directory / "executed").exists()


def test_the_undamaged_one_loads(whole: Path):
    assert read_checkpoint(whole).missing_head == ()


def test_there_are_enough_kinds():
    assert len(KINDS) >= 60
