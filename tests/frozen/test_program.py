"""What you train is what you run: the integers of the program, however it is asked."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ibert_jax as ib
from ibert_jax.files import alone_in
from ibert_jax.frozen import storage
from ibert_jax.frozen.storage import MANIFEST_FILE, TENSORS_FILE

from .conftest import case, inputs, make

SCHEMES = ["channel", "reference"]


def integers(program: ib.IntegerModel, batch: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(program.integers(**batch).logits)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_equals_the_quantization_aware_model(scheme: str) -> None:
    """Every int32 logit, a row without a token included."""
    made = case(scheme)
    frozen = made.program.integers(**made.batch).logits
    assert frozen.dtype == np.int32
    assert np.array_equal(made.simulated.q, frozen)
    assert len(np.unique(frozen)) > 20  # or equality would say nothing
    np.testing.assert_array_equal(made.program(**made.batch).logits, made.simulated.value)


def test_models_are_compared_by_identity() -> None:
    """As keys, too; their hash over all integers is ``sha256``."""
    program = case("channel").program
    again = dataclasses.replace(program)
    assert program == program and program != again and len({program, again}) == 2
    assert program.sha256() == again.sha256()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_stays_close_to_the_float_model(scheme: str) -> None:
    made = case(scheme)
    present = made.batch["attention_mask"].any(axis=1)
    made.model.quantize(False)
    exact = np.asarray(made.model(**made.batch).logits)[present]
    made.model.quantize(True)
    error = np.abs(np.asarray(made.simulated.value)[present] - exact)
    assert error.max() < 0.15 * np.abs(exact).max()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_batch_size_order_and_padding_do_not_matter(scheme: str) -> None:
    made = case(scheme)
    program, batch = made.program, made.batch
    whole = np.asarray(made.simulated.q)
    order = np.array([3, 0, 8, 6, 2, 5, 1, 4, 7])
    assert np.array_equal(integers(program, {k: v[order] for k, v in batch.items()}), whole[order])
    for row in (0, 2, 5):
        length = max(int(batch["attention_mask"][row].sum()), 1)
        alone = {name: value[row : row + 1, :length] for name, value in batch.items()}
        assert np.array_equal(integers(program, alone)[0], whole[row])
    for length in (64, 128):
        padded = {
            "input_ids": np.pad(batch["input_ids"], ((0, 0), (0, length - 24)), constant_values=1),
            "attention_mask": np.pad(batch["attention_mask"], ((0, 0), (0, length - 24))),
        }
        assert np.array_equal(integers(program, padded), whole)


def test_accepts_any_integer_type_and_defaults() -> None:
    made = case("channel")
    ids = made.batch["input_ids"]
    want = integers(made.program, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    for dtype in (np.int64, np.uint8, np.int16):
        assert np.array_equal(made.program.integers(ids.astype(dtype)).logits, want)
    zeros = np.zeros_like(ids)
    assert np.array_equal(made.program.integers(ids, token_type_ids=zeros).logits, want)


def test_every_leaf_is_an_integer() -> None:
    for scheme in SCHEMES:
        leaves = jax.tree.leaves(case(scheme).program)
        assert leaves and {leaf.dtype.kind for leaf in leaves} == {"i"}


def test_runs_under_jit_and_vmap() -> None:
    made = case("channel")
    program, whole = made.program, np.asarray(made.simulated.q)
    ids, mask = (
        jax.numpy.asarray(made.batch[n], np.int32) for n in ("input_ids", "attention_mask")
    )
    run = jax.jit(lambda p, i, m: p.integers(i, attention_mask=m).logits)
    assert np.array_equal(run(program, ids, mask), whole)
    mapped = jax.vmap(lambda i, m: program.integers(i[None], attention_mask=m[None]).logits[0])
    assert np.array_equal(mapped(ids, mask), whole)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_save_and_load(scheme: str, tmp_path: Path) -> None:
    made = case(scheme)
    program = made.program
    (tmp_path / "mine.txt").write_text("stays")
    program.save(tmp_path)
    program.save(tmp_path)  # over an existing one
    loaded = ib.IntegerModel.load(tmp_path)
    assert loaded.structure == program.structure and loaded.config == program.config
    for a, b in zip(loaded.tensors, program.tensors, strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    np.testing.assert_array_equal(loaded(**made.batch).logits, program(**made.batch).logits)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [MANIFEST_FILE, TENSORS_FILE, "mine.txt"]


def damage(folder: Path, how: str) -> None:
    tensors, manifest = folder / TENSORS_FILE, folder / MANIFEST_FILE
    content, text = tensors.read_bytes(), manifest.read_text()
    values: dict[str, Any] = json.loads(text)
    if how == "no tensors":
        tensors.unlink()
    elif how == "no manifest":
        manifest.unlink()
    elif how == "truncated tensors":
        tensors.write_bytes(content[:-100])
    elif how == "one bit":
        tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif how == "truncated manifest":
        manifest.write_text(text[:-50])
    elif how == "another version":
        manifest.write_text(json.dumps({**values, "version": 99}))
    elif how == "another file":
        manifest.write_text(json.dumps({"hello": 1}))
    elif how == "a missing leaf":
        values["leaves"].pop("classifier.dense")
        manifest.write_text(json.dumps(values))
    elif how == "an unknown kind":
        values["leaves"]["classifier.dense"]["kind"] = "Pickle"
        manifest.write_text(json.dumps(values))
    elif how == "a long hash":
        manifest.write_text(json.dumps({**values, "sha256": "0" * 1000}))
    elif how == "a bad scale":
        manifest.write_text(json.dumps({**values, "scales": {"logits": -1.0}}))
    elif how == "no scale":
        manifest.write_text(json.dumps({**values, "scales": {}}))
    elif how == "states of other layers":
        states = {name: lines[1:] for name, lines in values["hidden_states"].items()}
        manifest.write_text(json.dumps({**values, "hidden_states": states}))


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("no tensors", "integer_model.safetensors does not exist"),
        ("no manifest", "integer_model.json does not exist"),
        ("truncated tensors", "truncated or altered"),
        ("one bit", "truncated or altered"),
        ("truncated manifest", "not valid JSON"),
        ("another version", "freeze the model again"),
        ("another file", "expected 'ibert_jax integer model'"),
        ("a missing leaf", "does not describe a model"),
        ("an unknown kind", "does not describe a model"),
        ("a long hash", "truncated or altered"),
        ("a bad scale", "not positive"),
        ("no scale", "no scale of an output"),
        ("states of other layers", "hidden states of shape"),
    ],
)
def test_a_damaged_directory_is_refused(tmp_path: Path, how: str, sentence: str) -> None:
    case("channel").program.save(tmp_path)
    damage(tmp_path, how)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        ib.IntegerModel.load(tmp_path)


@pytest.mark.parametrize("kept", range(6))
def test_a_save_that_is_killed_leaves_one_of_the_two_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """After each of its steps on the disk, of which the fourth puts the manifest into its place."""
    old, new = (case(scheme).program for scheme in SCHEMES)
    old.save(tmp_path)
    steps = iter(range(kept))

    def killed(step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if next(steps, None) is None:
                raise KeyboardInterrupt
            return step(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "unlink"):
            patch.setattr(Path, name, killed(getattr(Path, name)))
        with pytest.raises(KeyboardInterrupt):
            new.save(tmp_path)
    found = ib.IntegerModel.load(tmp_path).sha256()
    assert found == (new if kept > 3 else old).sha256()
    new.save(tmp_path)
    assert ib.IntegerModel.load(tmp_path).sha256() == new.sha256()


def test_a_save_that_finds_the_disk_full_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (case(scheme).program for scheme in SCHEMES)
    old.save(tmp_path, ib.certify(old, batch_size=1, sequence_length=8, overflow=False))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write = storage.write_whole

    def full(path: Path, content: Any) -> None:
        if path.name == MANIFEST_FILE:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(storage, "write_whole", full)
        new.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / f".0.{TENSORS_FILE}").touch()  # as a save that was killed leaves one
    new.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST_FILE, TENSORS_FILE]


def test_models_saved_at_once_leave_one_of_them(tmp_path: Path) -> None:
    """By several threads, as by several processes; whoever loads meanwhile gets one, too."""
    programs = [case(scheme).program for scheme in SCHEMES]
    names = {program.sha256() for program in programs}
    programs[0].save(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        saved = [pool.submit(program.save, tmp_path) for program in programs * 8]
        loaded = [pool.submit(ib.IntegerModel.load, tmp_path) for _ in range(8)]
        assert {each.result().sha256() for each in loaded} <= names
        for each in saved:
            each.result()
    assert ib.IntegerModel.load(tmp_path).sha256() in names
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST_FILE, TENSORS_FILE]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes by fork")
@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_folder_is_free_though_a_child_has_it_open(tmp_path: Path) -> None:
    with alone_in(tmp_path):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
    try:
        with alone_in(tmp_path):  # raises where it is held
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_folder_that_is_held_is_refused_in_the_end(tmp_path: Path) -> None:
    refused = pytest.raises(ValueError, match="expected to be alone in writing")
    with alone_in(tmp_path), refused, alone_in(tmp_path, patience=0.1):
        pass


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_freezing_what_is_no_number_names_it(value: float) -> None:
    """NaN would become the integer 0, and the certificate would hold."""
    model = make("channel")
    ib.calibrate(model, [inputs(4, 10)])
    dense = model.ibert.encoder.layer[0].output.dense
    kept = dense.weight[...]
    dense.weight[...] = kept.at[0, 0].set(value)
    with pytest.raises(ValueError, match=r"^ibert\.encoder.*output.dense.weight hold NaN or inf"):
        ib.freeze(model)
    dense.weight[...] = kept
    act = model.ibert.encoder.layer[0].pre_intermediate_act
    act.x_max[...] = jnp.full_like(act.x_max[...], value)
    with pytest.raises(ValueError, match=r"^the range of .*pre_intermediate_act hold NaN or inf"):
        ib.freeze(model)


def test_a_model_of_one_position() -> None:
    model = make("channel", max_position_embeddings=3)
    batch = inputs(4, 1)
    program = ib.freeze(ib.calibrate(model, [batch]))
    assert np.array_equal(integers(program, batch), model(**batch).logits.q)


def test_freezing_before_calibration_names_the_ranges() -> None:
    with pytest.raises(ValueError, match=r"never calibrated \(.*act.*call ib\.calibrate"):
        ib.freeze(make("channel"))
    with pytest.raises(ValueError, match="at least one batch"):
        ib.calibrate(make("channel"), [])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"input_ids": np.array([[0, 200]])}, "input_ids"),
        ({"input_ids": np.array([[0, -1]])}, "input_ids"),
        ({"input_ids": np.array([0, 5])}, "shape"),
        ({"input_ids": np.array([[0.5, 1.0]])}, "integer"),
        ({"input_ids": np.full((1, 139), 5)}, "at most 138 tokens"),
        ({"attention_mask": np.array([[1, 2]])}, "attention_mask"),
        ({"attention_mask": np.array([[1, 1, 1]])}, "attention_mask"),
        ({"token_type_ids": np.array([[0, 2]])}, "token_type_ids"),
        ({"position_ids": np.array([[0, 140]])}, "position_ids"),
    ],
)
def test_bad_arguments_get_a_sentence(change: dict[str, np.ndarray], sentence: str) -> None:
    arguments = {"input_ids": np.array([[0, 5]]), **change}
    with pytest.raises((ValueError, TypeError), match=sentence):
        case("channel").program(**arguments)


@pytest.mark.parametrize("size", [1e-5, 30.0])
def test_equal_whatever_the_weights(size: float) -> None:
    """Tiny and huge weights, a LayerNorm weight of zero, a row of zeros."""
    model = make("channel", spread=size)
    layer = model.ibert.encoder.layer[0]
    layer.output.LayerNorm.weight[...] = layer.output.LayerNorm.weight[...].at[3].set(0.0)
    layer.intermediate.dense.weight[...] = layer.intermediate.dense.weight[...].at[5].set(0.0)
    batch = inputs(4, 10, 8)
    ib.calibrate(model, [batch])
    simulated = jax.jit(lambda m, **b: m(**b).logits.q)(model, **batch)
    assert np.array_equal(integers(ib.freeze(model), batch), simulated)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_settings_are_those_of_the_integers(scheme: str, tmp_path: Path) -> None:
    """What decides integers is refused or hashed where it was altered, what does not is neither."""
    made = case(scheme)
    made.program.save(tmp_path)
    manifest = tmp_path / MANIFEST_FILE
    values = json.loads(manifest.read_text())

    def load(**changes: Any) -> ib.IntegerModel:
        config = {**values["config"], **changes}
        manifest.write_text(json.dumps({**values, "config": config}))
        return ib.IntegerModel.load(tmp_path)

    quantization = values["config"]["quantization"]
    other = next(name for name in SCHEMES if name != scheme)
    with pytest.raises(ValueError, match=f"scheme is '{other}', the integers are of '{scheme}'"):
        load(quantization={**quantization, "scheme": other})
    for name, value in {
        "vocab_size": 150,
        "hidden_size": 64,
        "intermediate_size": 128,
        "type_vocab_size": 1,
        "max_position_embeddings": 300,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "force_dequant": "gelu",
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    }.items():
        told = "num_labels is 2" if name == "id2label" else f"{name} is {value!r}"
        with pytest.raises(ValueError, match=f"{told}, the integers are of"):
            load(**{name: value})
    assert load(pad_token_id=0).sha256() != made.program.sha256()
    narrower = load(quantization={**quantization, "weight_bits": 4})  # than inputs_embeds were
    assert narrower.sha256() != made.program.sha256()
    loaded = load(layer_norm_eps=1e-3, quantization={**quantization, "activation_bits": 4})
    assert loaded.sha256() == made.program.sha256()
    assert np.array_equal(integers(loaded, made.batch), integers(made.program, made.batch))
