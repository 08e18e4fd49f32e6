"""A damaged or foreign directory is refused with every reason at once, and nothing is built."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ibert_jax.checkpoints import CheckpointError, keys, read_checkpoint, write_checkpoint
from ibert_jax.config import IBertConfig

CONFIG = IBertConfig(
    vocab_size=20,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=10,
)
WORDS = "embeddings.word_embeddings.weight"
QUERY = "encoder.layer.0.attention.self.query.weight"


def random_tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = keys.backbone_parameters(CONFIG) | keys.head_parameters(
        CONFIG, "sequence_classification"
    )
    return {name: random.normal(size=s).astype(np.float32) for name, s in shapes.items()}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path, CONFIG, random_tensors())
    return tmp_path


def problems(directory: Path, **arguments: object) -> tuple[str, ...]:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(directory, **arguments)  # type: ignore[arg-type]
    return caught.value.problems


def change(directory: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    path = directory / "model.safetensors"
    stored = load_file(path)
    edit(stored)
    save_file(stored, path)


@pytest.mark.parametrize("kept", [0, 5, 300, -1])
def test_truncated(directory: Path, kept: int):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    (problem,) = problems(directory)
    assert problem.startswith("model.safetensors is no complete safetensors file")
    assert problem.endswith("it may be truncated, copy it again")


def test_altered_header(directory: Path):
    path = directory / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[20] = 0xFF
    path.write_bytes(content)
    assert "no complete safetensors file" in problems(directory)[0]


def test_both_files_missing(directory: Path):
    (directory / "config.json").unlink()
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"")
    assert problems(directory) == (
        "config.json is missing",
        "model.safetensors is missing; pytorch_model.bin must first become safetensors "
        "(python -m conversion.from_bin, or save_pretrained in transformers)",
    )


def test_no_directory(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a directory; give the one"):
        read_checkpoint(tmp_path / "nowhere")


def test_unknown_head(directory: Path):
    with pytest.raises(ValueError, match="head must be one of model, masked_lm, sequence"):
        read_checkpoint(directory, "parsing")


def test_broken_config(directory: Path):
    (directory / "config.json").write_text('{"model_type": "bert", "hidden_act": "relu"}')
    assert "hidden_act must be 'gelu'" in problems(directory)[0]


def test_what_does_not_say_what_it_is(directory: Path):
    """Taken for a RoBERTa, a BERT would have every position wrong."""
    config = json.loads((directory / "config.json").read_text())
    del config["model_type"]
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r'does not say .* add "model_type": "bert" to it'):
        read_checkpoint(directory)


def test_everything_wrong_with_the_tensors_at_once(directory: Path):
    def damage(stored: dict[str, np.ndarray]) -> None:
        del stored[f"ibert.{WORDS}"]
        stored[f"ibert.{QUERY}"] = stored[f"ibert.{QUERY}"][:4]
        stored["ibert.embeddings.LayerNorm.weight"][3] = np.nan
        stored["classifier.dense.bias"] = np.zeros(8, np.int32)
        stored["ibert.encoder.layer.1.output.dense.bias"] = np.zeros(8, np.float32)
        stored["roberta.embeddings.LayerNorm.bias"] = np.zeros(8, np.float32)
        stored["something.else"] = np.zeros(1, np.float32)
        act = "ibert.encoder.layer.0.pre_output_act"
        stored[f"{act}.x_min"], stored[f"{act}.x_max"] = np.array([[2], [1]], np.float32)
        del stored["ibert.encoder.layer.0.pre_intermediate_act.x_max"]

    change(directory, damage)
    found = "\n".join(problems(directory))
    for sentence in (
        f"{WORDS} is missing",
        f"ibert.{QUERY} has shape [4, 8], but config.json and overrides want [8, 8]",
        "ibert.embeddings.LayerNorm.weight holds NaN or infinities",
        "classifier.dense.bias has dtype I32, expected a floating-point one",
        "ibert.encoder.layer.1.output.dense.bias is unknown for model_type 'ibert' with 1 layers",
        "roberta.embeddings.LayerNorm.bias and ibert.embeddings.LayerNorm.bias are both",
        "something.else is unknown",
        "encoder.layer.0.pre_output_act.x_min is 2.0, above its x_max 1.0",
        "encoder.layer.0.pre_intermediate_act must have both x_min and x_max",
    ):
        assert sentence in found
    assert len(found.splitlines()) == 9


def test_a_float64_beyond_float32_is_an_infinity(directory: Path):
    def overflow(stored: dict[str, np.ndarray]) -> None:
        stored[f"ibert.{WORDS}"] = np.full((20, 8), 1e300)

    change(directory, overflow)
    assert "holds NaN or infinities (as float32)" in problems(directory)[0]


def test_labels_that_do_not_fit_the_stored_head(directory: Path):
    assert problems(directory, config_overrides={"num_labels": 3}) == (
        "classifier.out_proj.weight has shape [2, 8], but config.json and overrides want [3, 8]",
        "classifier.out_proj.bias has shape [2], but config.json and overrides want [3]",
    )


def test_a_long_list_is_cut_in_the_message_only(directory: Path):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(
        CheckpointError, match=r"(?s)checkpoint .*\n  \.\.\. and 12 more$"
    ) as caught:
        read_checkpoint(directory)
    assert len(caught.value.problems) == 2 * 16


@pytest.fixture
def sharded(directory: Path) -> Path:
    stored = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(stored)
    weight_map = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(names)}
    for part in sorted(set(weight_map.values())):
        save_file({n: stored[n] for n in names if weight_map[n] == part}, directory / part)
    index = json.dumps({"weight_map": weight_map})
    (directory / "model.safetensors.index.json").write_text(index)
    return directory


def test_missing_shard(sharded: Path):
    assert read_checkpoint(sharded).tensors.keys() == random_tensors().keys()
    (sharded / "part-1.safetensors").unlink()
    assert problems(sharded) == (
        "part-1.safetensors is missing, though model.safetensors.index.json names it",
    )


def test_a_tensor_in_two_shards(sharded: Path):
    path = sharded / "part-0.safetensors"
    other = load_file(sharded / "part-1.safetensors")
    name = sorted(other)[0]
    save_file(load_file(path) | {name: other[name]}, path)
    assert problems(sharded) == (f"tensor {name} is in two shards, one of them part-1.safetensors",)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "not valid JSON"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "is no file beside it"),
    ],
)
def test_bad_index(sharded: Path, index: str, message: str):
    (sharded / "model.safetensors.index.json").write_text(index)
    assert message in problems(sharded)[0]


def test_ranges_of_other_weights(directory: Path):
    act = "classifier.hidden_act"
    ranges = {f"{act}.x_min": np.float32(0), f"{act}.x_max": np.float32(1)}
    write_checkpoint(directory, CONFIG, random_tensors() | ranges)
    assert read_checkpoint(directory).ranges == ranges
    change(directory, lambda stored: stored[f"ibert.{WORDS}"].__setitem__(0, 1.0))
    assert problems(directory) == (
        "ranges.safetensors belongs to other weights than model.safetensors; "
        "delete it and calibrate again",
    )
    (directory / "ranges.safetensors").write_bytes(b"short")
    assert "ranges.safetensors is no complete safetensors file" in problems(directory)[0]


def test_writing_refuses_before_it_touches_anything(directory: Path):
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    tensors = random_tensors()
    del tensors[WORDS]
    tensors[QUERY] = tensors[QUERY].astype(np.float64)
    tensors["classifier.dense.bias"] = np.zeros(7, np.float32)
    tensors["embeddings.LayerNorm.bias"] = np.full(8, np.inf, np.float32)
    tensors["pooler.dense.bias"] = np.zeros(8, np.float32)
    layer = "encoder.layer.0"
    tensors |= {
        "a.x_min": np.zeros((), np.float32),
        f"{layer}.attention.self.query_activation.x_min": np.zeros(8, np.float32),
        f"{layer}.attention.self.query_activation.x_max": np.ones(3, np.float32),
        f"{layer}.pre_output_act.x_min": np.zeros(12, np.int32),
        f"{layer}.pre_output_act.x_max": np.full(12, np.nan, np.float32),
        f"{layer}.input_act.x_min": np.zeros(8, np.float32),
        "output_act.x_max": np.ones((), np.float32),
        "output_act.channel_exponent": np.ones(8, np.float32),
    }
    with pytest.raises(CheckpointError) as caught:
        write_checkpoint(directory, CONFIG, tensors)
    assert sorted(caught.value.problems) == [
        "a.x_min is no range of IBertForSequenceClassification in the 'channel' scheme",
        "classifier.dense.bias has shape [7], expected [8]",
        "embeddings.LayerNorm.bias holds NaN or infinities; training may have failed",
        f"{WORDS} is missing",
        f"{QUERY} has dtype float64, expected float32",
        f"{layer}.attention.self.query_activation.x_max has shape [3], expected []",
        f"{layer}.attention.self.query_activation.x_min has shape [8], expected []",
        f"{layer}.input_act.channel_exponent is missing",
        f"{layer}.input_act.x_max is missing",
        f"{layer}.pre_output_act.x_max holds NaN or infinities; training may have failed",
        f"{layer}.pre_output_act.x_min has dtype int32, expected float32",
        "output_act.channel_exponent is no range of IBertForSequenceClassification in the "
        "'channel' scheme",
        "output_act.x_min is missing",
        "pooler.dense.bias is no parameter of IBertForSequenceClassification",
    ]
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_a_failed_write_leaves_the_old_files(directory: Path, monkeypatch: pytest.MonkeyPatch):
    before = {path.name: path.read_bytes() for path in directory.iterdir()}

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("ibert_jax.checkpoints.files.save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_checkpoint(directory, CONFIG, random_tensors())
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
