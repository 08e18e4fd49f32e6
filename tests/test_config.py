"""The configuration: Hugging Face's files in and out, and what it refuses."""

from __future__ import annotations

import copy
import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from ibert_jax.config import IBertConfig
from ibert_jax.quant_config import QuantConfig

SHARED = [
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "quant_mode",
    "force_dequant",
    "num_labels",
    "id2label",
    "label2id",
    "problem_type",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
]


def theirs(path: Path) -> Any:
    return transformers.IBertConfig.from_pretrained(path)


def test_defaults_are_those_of_hugging_face():
    ours, reference = IBertConfig(), transformers.IBertConfig()
    assert {name: getattr(ours, name) for name in SHARED} == {
        name: getattr(reference, name) for name in SHARED
    }
    assert ours.position_embedding_type == "absolute"


CHANGED = IBertConfig(
    vocab_size=100,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=6,
    intermediate_size=48,
    hidden_dropout_prob=0.2,
    attention_probs_dropout_prob=0.0,
    max_position_embeddings=77,
    type_vocab_size=1,
    initializer_range=0.03,
    layer_norm_eps=1e-5,
    pad_token_id=3,
    bos_token_id=None,
    eos_token_id=[5, 6],
    quant_mode=True,
    force_dequant="gelu",
    id2label={0: "no", 1: "yes", 2: "très"},
    problem_type="multi_label_classification",
    output_attentions=True,
    output_hidden_states=True,
    return_dict=False,
    quantization=QuantConfig(
        momentum=-1,
        layernorm_migration=0.5,
        overrides={"z.*": {"weight_bits": 4}, "a.*": {"weight_bits": 3, "activation_bits": 5}},
    ),
    extra={"note": "kept", "nested": {"a": [1, 2]}},
)


def test_a_file_we_write_is_read_by_hugging_face_and_by_us(tmp_path: Path):
    path = tmp_path / "config.json"
    CHANGED.save(path)
    assert IBertConfig.from_json_file(path) == CHANGED
    reference = theirs(tmp_path)
    assert {name: getattr(reference, name) for name in SHARED} == {
        name: getattr(CHANGED, name) for name in SHARED
    }
    assert reference.note == "kept"
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as caught:
        CHANGED.save(tmp_path / "config.json")
    assert caught.value.filename == str(tmp_path / "config.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("labels", [{"num_labels": 4}, {"id2label": {0: "a", 1: "b", 2: "c"}}, {}])
def test_a_file_of_hugging_face_is_read(tmp_path: Path, labels: dict[str, Any]):
    reference = transformers.IBertConfig(hidden_size=36, problem_type="regression", **labels)
    reference.save_pretrained(tmp_path)
    ours = IBertConfig.from_json_file(tmp_path / "config.json")
    assert ours.hidden_size == 36
    assert ours.problem_type == "regression"
    assert ours.id2label == reference.id2label
    assert ours.num_labels == reference.num_labels


def test_roberta_keeps_its_positions_and_bert_gains_the_rows_before_its_first():
    roberta = IBertConfig.from_dict(transformers.RobertaConfig(vocab_size=9).to_dict())
    assert (roberta.max_position_embeddings, roberta.max_sequence_length) == (512, 510)
    bert = IBertConfig.from_dict(transformers.BertConfig(vocab_size=9).to_dict())
    assert (bert.pad_token_id, bert.bos_token_id, bert.eos_token_id) == (0, None, None)
    assert (bert.max_position_embeddings, bert.max_sequence_length) == (513, 512)
    assert IBertConfig.from_dict(bert.to_dict()) == bert  # the second reading shifts nothing


def test_what_describes_the_file_beside_it_is_not_carried_on():
    config = IBertConfig.from_dict({"torch_dtype": "float16", "dtype": "bfloat16", "other": 1})
    assert config.extra == {"other": 1}
    untied = IBertConfig.from_dict({"tie_word_embeddings": False})  # whose decoder was the table
    assert "tie_word_embeddings" not in untied.to_dict()


def test_other_tools_find_the_tokenizer_of_the_model_that_it_was():
    """transformers takes the model type that we write for RoBERTa's."""
    for kind, tokenizer in (("bert", "BertTokenizer"), ("camembert", "CamembertTokenizer")):
        config = IBertConfig.from_dict({"model_type": kind})
        assert config.to_dict()["tokenizer_class"] == tokenizer
    own = IBertConfig.from_dict({"model_type": "bert", "tokenizer_class": "Mine"})
    assert own.to_dict()["tokenizer_class"] == "Mine"
    assert "tokenizer_class" not in IBertConfig.from_dict({"model_type": "roberta"}).to_dict()


def test_whole_numbers_are_written_as_hugging_face_wants_them(tmp_path: Path):
    IBertConfig(layer_norm_eps=0, initializer_range=1).save(tmp_path / "config.json")
    assert theirs(tmp_path / "config.json").layer_norm_eps == 0.0


def test_checkpoints_trained_by_i_bert_get_its_scheme():
    assert IBertConfig.from_dict({"quant_mode": True}).quantization.scheme == "reference"
    assert IBertConfig.from_dict({"quant_mode": False}).quantization.scheme == "channel"
    ours = {"quant_mode": True, "quantization": {"scheme": "channel"}}
    assert IBertConfig.from_dict(ours).quantization.scheme == "channel"


def test_replace_settles_labels():
    named = IBertConfig(id2label={0: "a", 1: "b", 2: "c"})
    assert named.label2id == {"a": 0, "b": 1, "c": 2}
    assert named.replace(num_labels=3).id2label == named.id2label
    assert named.replace(num_labels=2).id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert named.replace(id2label={0: "x"}).num_labels == 1
    assert named.replace(hidden_size=24).id2label == named.id2label
    assert IBertConfig(num_labels=2, label2id={"b": 1, "a": 0}).id2label == {0: "a", 1: "b"}
    assert IBertConfig(label2id={"b": 1, "a": 0, "c": 2}).num_labels == 3
    assert named.replace(label2id={"x": 1, "y": 0}).id2label == {0: "y", 1: "x"}
    with pytest.raises(ValueError, match="label2id must number the names"):
        IBertConfig(id2label={0: "a", 1: "b"}, label2id={"a": 1, "b": 0})
    with pytest.raises(ValueError, match="id2label must name the labels"):
        IBertConfig(label2id={"a": 0, "b": 7})
    changed = named.replace(quantization={"momentum": 0.5})
    assert changed.quantization == QuantConfig(momentum=0.5)
    with pytest.raises(TypeError, match="no settings named hiden_size"):
        named.replace(hiden_size=3)


def test_it_is_a_value():
    twin = IBertConfig.from_dict(CHANGED.to_dict())
    assert (twin, hash(twin)) == (CHANGED, hash(CHANGED))
    assert pickle.loads(pickle.dumps(CHANGED)) == copy.deepcopy(CHANGED) == CHANGED
    assert CHANGED.replace(extra={}) != CHANGED


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.id2label.pop(0),
        lambda config: config.extra.update(x=1),
        lambda config: config.extra["nested"].update(a=1),
        lambda config: config.extra["nested"]["a"].append(3),
        lambda config: config.extra["nested"]["a"].sort(),
        lambda config: config.eos_token_id.extend([7]),
    ],
)
def test_it_cannot_be_changed_in_place(change: Callable[[IBertConfig], object]):
    with pytest.raises(TypeError, match=r"config\.replace"):
        change(CHANGED)


def test_what_it_was_made_of_and_what_it_gives_are_apart_from_it():
    given = {"nested": {"a": [1, 2]}}
    config = IBertConfig(extra=given, eos_token_id=[5, 6])
    given["nested"]["a"].append(3)
    told = config.to_dict()
    told["nested"]["a"].append(3)
    told["eos_token_id"].append(7)
    assert config == IBertConfig(extra={"nested": {"a": [1, 2]}}, eos_token_id=[5, 6])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act must be 'gelu'.*'relu'"),
        ({"position_embedding_type": "relative_key"}, "must be 'absolute'"),
        ({"force_dequant": "tanh"}, "force_dequant must be one of none, gelu, .*'tanh'"),
        ({"problem_type": "ranking"}, "problem_type must be one of regression"),
        ({"hidden_size": 10, "num_attention_heads": 3}, "multiple of num_attention_heads.*10.*3"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be an integer at least 1, got -1"),
        ({"vocab_size": 2.5}, "vocab_size must be an integer, got 2.5"),
        ({"vocab_size": True}, "vocab_size must be an integer, got True"),
        ({"hidden_dropout_prob": 1.5}, "between 0 and 1, got 1.5"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps must be a number at least 0, got nan"),
        ({"pad_token_id": 40000}, "pad_token_id must be below vocab_size"),
        ({"pad_token_id": None}, "pad_token_id must be an integer, got None"),
        ({"max_position_embeddings": 2}, "at least pad_token_id \\+ 2 = 3, got 2"),
        ({"num_labels": 3, "id2label": {0: "a"}}, "labels 0..2"),
        ({"num_labels": "3"}, "num_labels must be an integer, got '3'"),
        ({"id2label": {0: "a", 1: "a"}}, "its own name"),
        ({"id2label": {"zero": "a"}}, "id2label must map"),
        ({"id2label": ["a"]}, "id2label must map"),
        ({"quant_mode": "yes"}, "quant_mode must be true or false"),
        ({"extra": {"is_decoder": True}}, "is_decoder must be false"),
        ({"extra": None}, "extra must be a mapping, got None"),
        ({"bos_token_id": "x"}, "bos_token_id must be an integer or null, got 'x'"),
        ({"eos_token_id": [2, True]}, r"eos_token_id must be an integer or null, got \[2, True\]"),
    ],
)
def test_bad_settings_are_named(setting: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=f"IBertConfig: .*{message}"):
        IBertConfig(**setting)


def test_all_bad_settings_come_in_one_error():
    with pytest.raises(ValueError, match=r"vocab_size.*hidden_act.*'tanh'"):
        IBertConfig(vocab_size=0, hidden_act="tanh")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "gpt2"}, "model_type must be one of ibert, .*'gpt2'"),
        ({"quantization": {"bits": 4}}, "unknown settings bits"),
        ({"quantization": 8}, "quantization must be an object"),
        ({"model_type": "bert", "max_position_embeddings": "x"}, "max_position_embeddings must be"),
    ],
)
def test_bad_dicts_are_named(values: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        IBertConfig.from_dict(values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"vocab_size": 3', "not valid JSON"),
        (b"", "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (json.dumps([1]).encode(), "must hold a JSON object, got list"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"config.json.*{message}"):
        IBertConfig.from_json_file(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        IBertConfig.from_json_file(tmp_path / "config.json")


def test_settings_that_never_had_an_effect_are_read_and_forgotten():
    with pytest.raises(ValueError, match=r"unknown settings weight_bit; it knows .*weight_bits"):
        QuantConfig().replace(weight_bit=4)
    assert QuantConfig.from_dict({"gelu_migration": 1.0, "value_migration": 1.0}) == QuantConfig()
    with pytest.raises(ValueError, match="unknown settings gelu_migration"):
        QuantConfig.from_dict({"gelu_migration": 0.5})


def test_the_last_override_that_matches_counts():
    quantization = QuantConfig(
        weight_bits=6,
        overrides={"encoder.*": {"weight_bits": 4}, "encoder.layer.1.*": {"weight_bits": 8}},
    )
    paths = ("embeddings.a", "encoder.layer.0.a", "encoder.layer.1.a")
    assert [quantization.width("weight_bits", path) for path in paths] == [6, 4, 8]
    assert quantization.width("activation_bits", "encoder.layer.1.a") == 8
    assert QuantConfig.from_dict(quantization.to_dict()) == quantization


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"scheme": "other"}, "scheme must be one of channel, reference"),
        ({"weight_bits": 16}, "weight_bits must be an integer between 2 and 8, got 16"),
        ({"momentum": 1.0}, "momentum"),
        ({"layernorm_migration": -0.1}, "layernorm_migration must be a number between 0 and 1"),
        ({"overrides": {"*": {"weight_bits": 9}}}, r"weight_bits of '\*' in overrides must be an"),
        (
            {"overrides": {"*": {"bits": 4}}},
            r"overrides of '\*' know weight_bits and .*, got 'bits'",
        ),
        ({"overrides": "encoder.*"}, "overrides must map patterns of leaf paths to settings"),
        ({"overrides": {"*": 4}}, "overrides must map patterns of leaf paths to settings"),
    ],
)
def test_bad_quantization_is_named(setting: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=f"QuantConfig: {message}"):
        QuantConfig(**setting)


def test_numbers_of_numpy_and_jax_become_pythons() -> None:
    sizes = {"vocab_size": 12, "hidden_size": 24, "num_labels": 3, "pad_token_id": 0}
    others = {"bos_token_id": 1, "eos_token_id": [4, 5], "layer_norm_eps": 0.5}
    wanted = IBertConfig(**sizes, **others, extra={"note": [7]})
    for integer in (np.int32, np.int64, np.uint8, np.asarray, jnp.asarray):
        config = IBertConfig(
            **{name: integer(value) for name, value in sizes.items()},
            bos_token_id=integer(1),
            eos_token_id=[integer(4), integer(5)],
            layer_norm_eps=np.float32(0.5),
            extra={"note": [integer(7)]},
        )
        assert (config, hash(config)) == (wanted, hash(wanted))
        assert config.to_json() == wanted.to_json()
    for boolean in (True, np.True_, np.asarray(True)):
        with pytest.raises(ValueError, match="vocab_size must be an integer, got"):
            IBertConfig(vocab_size=boolean)  # type: ignore[arg-type]


def test_positions_of_a_bert_move_whatever_the_integers_are() -> None:
    numbers = {"model_type": "bert", "pad_token_id": np.int64(0)}
    config = IBertConfig.from_dict({**numbers, "max_position_embeddings": np.int32(512)})
    assert config.max_sequence_length == 512


def test_numbers_of_the_quantization_become_pythons() -> None:
    config = QuantConfig(
        weight_bits=np.int8(4),  # type: ignore[arg-type]
        momentum=np.int64(-1),
        layernorm_migration=np.float32(0.5),  # type: ignore[arg-type]
        overrides={"a": {"weight_bits": np.int64(3)}},  # type: ignore[arg-type]
    )
    assert config == QuantConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    with pytest.raises(ValueError, match="weight_bits must be an integer, got True"):
        QuantConfig(weight_bits=True)


def test_settings_of_the_quantization_may_be_a_mapping() -> None:
    config = IBertConfig(quantization={"weight_bits": 4})  # type: ignore[arg-type]
    assert config.quantization == QuantConfig(weight_bits=4)
    with pytest.raises(ValueError, match="quantization must be a QuantConfig or its settings"):
        IBertConfig(quantization="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown settings bits"):
        IBertConfig(quantization={"bits": 4})  # type: ignore[arg-type]
