"""transformers is the oracle: it writes and we read, we write and it loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from safetensors import safe_open

from ibert_jax.checkpoints import read_checkpoint, write_checkpoint
from ibert_jax.checkpoints.files import write_tensors
from ibert_jax.config import IBertConfig

SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 19,
    "type_vocab_size": 2,
    "num_labels": 3,
}
FAMILIES = {
    "ibert": "IBert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "bert": "Bert",
}
TASKS = {
    "Model": "model",
    "ForMaskedLM": "masked_lm",
    "ForSequenceClassification": "sequence_classification",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering",
    "ForMultipleChoice": "multiple_choice",
}


def torch_model(family: str, task: str, **settings: Any) -> Any:
    """A random model of Hugging Face; every parameter is nonzero, biases and padding rows too."""
    if task == "ForQuestionAnswering":
        settings = {"num_labels": 2, **settings}  # start and end
    config = getattr(transformers, f"{family}Config")(**{**SMALL, **settings})
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}{task}")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
    return model.eval()


def arrays(model: Any) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def load(task: str, directory: Path) -> Any:
    """Hugging Face's I-BERT from a directory, which must hold each of its tensors and no other."""
    model, info = getattr(transformers, f"IBert{task}").from_pretrained(
        directory, output_loading_info=True
    )
    assert {kind: list(keys) for kind, keys in info.items() if keys} == {}
    return model.eval()


def assert_same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name, strict=True)


def assert_same_bits(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Signed zeros count."""
    assert_same(actual, expected)
    assert [k for k, array in expected.items() if actual[k].tobytes() != array.tobytes()] == []


def forward(model: Any) -> np.ndarray:
    """Logits, or pooled output, of two sentences, the second one padded on the right.

    They are the two choices where there is one to be made.
    """
    pad = model.config.pad_token_id
    ids = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, pad, pad]])
    mask = (ids != pad).long()
    if type(model).__name__.endswith("MultipleChoice"):
        ids, mask = ids[None], mask[None]
    with torch.no_grad():
        out = model(ids, attention_mask=mask)
    names = ("logits", "start_logits", "end_logits", "pooler_output")
    found = np.stack([out[name].numpy() for name in names if name in out])
    if found.shape[1:3] == ids.shape:  # of tokens: what stands at padding means nothing
        found[:, mask.numpy() == 0] = 0
    return found


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_becomes_an_i_bert_that_computes_the_same(
    tmp_path: Path, model_type: str, task: str
):
    model = torch_model(FAMILIES[model_type], task)
    model.save_pretrained(tmp_path / "theirs")
    ours = read_checkpoint(tmp_path / "theirs")
    assert (ours.missing_head, ours.unused, ours.ranges) == ((), (), {})
    assert ours.head == TASKS[task]

    write_checkpoint(tmp_path / "ours", ours.config, ours.tensors)
    again = read_checkpoint(tmp_path / "ours")
    assert_same(again.tensors, ours.tensors)
    assert again.config.replace(extra={}) == ours.config.replace(extra={})
    np.testing.assert_allclose(
        forward(load(task, tmp_path / "ours")), forward(model), rtol=0, atol=2e-6
    )


def test_names_and_bits_are_those_of_i_bert(tmp_path: Path):
    model = torch_model("IBert", "ForSequenceClassification")
    model.save_pretrained(tmp_path)
    tensors = read_checkpoint(tmp_path).tensors
    parameters = {name.removeprefix("ibert."): p for name, p in model.named_parameters()}
    assert_same(tensors, {name: p.detach().numpy() for name, p in parameters.items()})


@pytest.mark.parametrize("task", TASKS)
def test_what_hugging_face_loads_and_saves_again_is_bit_identical(tmp_path: Path, task: str):
    torch_model("IBert", task).save_pretrained(tmp_path / "a")
    ours = read_checkpoint(tmp_path / "a")
    write_checkpoint(tmp_path / "b", ours.config, ours.tensors)
    load(task, tmp_path / "b").save_pretrained(tmp_path / "c")
    original, written, returned = (
        safetensors.numpy.load_file(tmp_path / x / "model.safetensors") for x in "abc"
    )
    assert_same_bits(returned, original)
    assert {name: written[name].tobytes() for name in original} == {
        name: array.tobytes() for name, array in original.items()
    }
    assert json.loads((tmp_path / "b" / "config.json").read_text())["architectures"] == [
        f"IBert{task}"
    ]


def test_bert_positions_move_below_unused_rows(tmp_path: Path):
    model = torch_model("Bert", "Model", pad_token_id=2)
    model.save_pretrained(tmp_path)
    ours = read_checkpoint(tmp_path)
    table = ours.tensors["embeddings.position_embeddings.weight"]
    assert ours.config.max_position_embeddings == 19 + 3
    np.testing.assert_array_equal(table[:3], 0)
    np.testing.assert_array_equal(
        table[3:], model.embeddings.position_embeddings.weight.detach().numpy()
    )


def test_bert_pooler_is_the_classifiers_first_half(tmp_path: Path):
    model = torch_model("Bert", "ForSequenceClassification")
    model.save_pretrained(tmp_path)
    weights = arrays(model)
    classifier = read_checkpoint(tmp_path, "sequence_classification")
    np.testing.assert_array_equal(
        classifier.tensors["classifier.dense.weight"], weights["bert.pooler.dense.weight"]
    )
    np.testing.assert_array_equal(
        classifier.tensors["classifier.out_proj.bias"], weights["classifier.bias"]
    )
    plain = read_checkpoint(tmp_path, "model")
    np.testing.assert_array_equal(
        plain.tensors["pooler.dense.weight"], weights["bert.pooler.dense.weight"]
    )
    assert plain.unused == ("classifier.bias", "classifier.weight")


CLASSIFIER = {
    f"classifier.{name}"
    for name in ("dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias")
}
POOLER = {"pooler.dense.weight", "pooler.dense.bias"}
OUT = {"classifier.out_proj.weight", "classifier.out_proj.bias"}


@pytest.mark.parametrize(
    ("family", "task", "head", "missing"),
    [
        ("Roberta", "Model", "sequence_classification", CLASSIFIER),
        ("Roberta", "ForMaskedLM", "sequence_classification", CLASSIFIER),
        ("Roberta", "ForMaskedLM", "model", POOLER),
        ("Roberta", "ForSequenceClassification", "model", POOLER),
        ("IBert", "ForTokenClassification", "sequence_classification", CLASSIFIER),
        ("IBert", "ForMultipleChoice", "model", set()),
        ("Bert", "Model", "sequence_classification", OUT),
        ("Bert", "ForPreTraining", "sequence_classification", OUT),
        ("Bert", "ForNextSentencePrediction", "model", set()),
        # its classifier.weight has the shape but not the meaning of a sequence classifier's
        ("Bert", "ForTokenClassification", "sequence_classification", CLASSIFIER),
        ("Bert", "ForQuestionAnswering", "sequence_classification", CLASSIFIER),
    ],
)
def test_other_heads_are_passed_over_and_the_missing_one_is_named(
    tmp_path: Path, family: str, task: str, head: str, missing: set[str]
):
    model = torch_model(family, task)
    model.save_pretrained(tmp_path)
    ours = read_checkpoint(tmp_path, head)
    assert set(ours.missing_head) == missing
    head_modules = ("classifier", "lm_head", "cls", "qa_outputs", "pooler")
    stored = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    heads = {key for key in stored if any(module in key for module in head_modules)}
    assert len(ours.unused) == len(heads) - (4 if head[0] == "s" else 2) + len(missing)
    assert set(ours.unused) <= heads


def test_early_bert_names_and_constants(tmp_path: Path):
    model = torch_model("Bert", "ForPreTraining")
    model.save_pretrained(tmp_path)
    expected = read_checkpoint(tmp_path).tensors
    path = tmp_path / "model.safetensors"
    stored: dict[str, np.ndarray] = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): array
        for key, array in safetensors.numpy.load_file(path).items()
    }
    stored["bert.embeddings.position_ids"] = np.arange(19)[None]
    safetensors.numpy.save_file(stored, path)
    assert_same(read_checkpoint(tmp_path).tensors, expected)


def test_shards(tmp_path: Path):
    model = torch_model("Roberta", "ForSequenceClassification")
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="4KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    assert_same(
        read_checkpoint(tmp_path / "shards").tensors, read_checkpoint(tmp_path / "whole").tensors
    )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_float_types_become_float32(tmp_path: Path, dtype: Any):
    torch_model("IBert", "Model").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    stored = {key: a.astype(dtype) for key, a in safetensors.numpy.load_file(path).items()}
    safetensors.numpy.save_file(stored, path)
    tensors = read_checkpoint(tmp_path).tensors
    assert_same(tensors, {key: stored[key].astype(np.float32) for key in tensors})


def quantized_model() -> Any:
    """An I-BERT whose ranges have seen a batch twice, by its own quantized training forward."""
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = torch_model("IBert", "ForSequenceClassification", quant_mode=True, **still)
    model.train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randint(3, 50, (4, 9), generator=torch.Generator().manual_seed(0)))
    return model.eval()


def test_ranges_of_a_quantized_i_bert_come_and_go(tmp_path: Path):
    model = quantized_model()
    model.save_pretrained(tmp_path / "theirs")
    ours = read_checkpoint(tmp_path / "theirs")
    assert ours.config.quant_mode
    assert ours.config.quantization.scheme == "reference"
    state = {key.removeprefix("ibert."): array for key, array in arrays(model).items()}
    calibrated = {
        key
        for key, array in state.items()
        if key.endswith((".x_min", ".x_max")) and abs(array[0]) > 1.1e-5
    }
    softmax = {key for key in calibrated if ".softmax.act." in key}  # follows from query and key
    assert (len(calibrated), len(softmax)) == (2 * 26, 2 * 2)
    stored = {key: state[key].reshape(()) for key in calibrated - softmax}
    assert_same({key: ours.ranges[key] for key in stored}, stored)
    assert {key.rpartition(".")[0] for key in ours.ranges.keys() - stored.keys()} == {
        "encoder.layer.0.intermediate.intermediate_act_fn",  # derived, see test_derived.py
        "encoder.layer.1.intermediate.intermediate_act_fn",
        "classifier.hidden_act",
    }

    without_buffers = {**ours.tensors, **ours.ranges}
    write_checkpoint(tmp_path / "ours", ours.config, without_buffers)
    assert_same(read_checkpoint(tmp_path / "ours").ranges, ours.ranges)
    back = load("ForSequenceClassification", tmp_path / "ours")
    returned = {key.removeprefix("ibert."): array for key, array in arrays(back).items()}
    kept = {key for key in state if key.endswith((".x_min", ".x_max"))} - softmax
    assert_same({key: returned[key] for key in kept}, {key: state[key] for key in kept})
    for key in softmax:
        if key.endswith(".x_max"):
            np.testing.assert_allclose(returned[key], state[key], rtol=2e-4)
    np.testing.assert_allclose(forward(back), forward(model), rtol=0, atol=1e-4)  # quantized

    write_checkpoint(tmp_path / "whole", ours.config, without_buffers, ours.published)
    assert_same_bits(arrays(load("ForSequenceClassification", tmp_path / "whole")), arrays(model))


def test_ranges_that_float_training_left_behind_are_kept_though_not_used(tmp_path: Path):
    """The published code observes in float, too; here such a model is of the channel scheme."""
    model = torch_model("IBert", "ForSequenceClassification").train()
    with torch.no_grad():
        model(torch.randint(3, 50, (4, 9), generator=torch.Generator().manual_seed(0)))
    model.save_pretrained(tmp_path / "theirs")
    ours = read_checkpoint(tmp_path / "theirs")
    assert (ours.config.quantization.scheme, ours.ranges) == ("channel", {})
    write_checkpoint(tmp_path / "ours", ours.config, ours.tensors, ours.published)
    returned = arrays(load("ForSequenceClassification", tmp_path / "ours"))
    assert_same_bits(returned, arrays(model))
    assert returned[f"ibert.{ACT}.x_max"].item() > 0.01


def test_buffers_of_changed_tensors_are_void(tmp_path: Path):
    quantized_model().save_pretrained(tmp_path / "theirs")
    ours = read_checkpoint(tmp_path / "theirs")
    changed = {**ours.tensors, **ours.ranges}
    query = "encoder.layer.0.attention.self.query"
    changed[f"{query}.weight"] = 2 * changed[f"{query}.weight"]
    write_checkpoint(tmp_path / "ours", ours.config, changed, ours.published)
    before, after = (
        safetensors.numpy.load_file(tmp_path / x / "model.safetensors") for x in ("theirs", "ours")
    )
    differing = {key for key in before if before[key].tobytes() != after[key].tobytes()}
    # bias_integer happens to be 0 for no bias: all three buffers return to their initial zeros.
    own = ("weight", "weight_integer", "bias_integer", "fc_scaling_factor")
    assert differing == {f"ibert.{query}.{name}" for name in own}
    assert not after[f"ibert.{query}.weight_integer"].any()


def test_what_hugging_face_trained_is_of_the_reference_scheme(tmp_path: Path):
    """It hands on a setting of ours that was in the config.json from which it started."""
    quantized_model().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    handed_on = {"quantization": {"scheme": "channel", "momentum": 0.9}}
    path.write_text(json.dumps(json.loads(path.read_text()) | handed_on))
    ours = read_checkpoint(tmp_path)
    assert (ours.config.quantization.scheme, ours.config.quantization.momentum) == (
        "reference",
        0.9,
    )
    assert f"{ACT}.x_max" in ours.ranges


def test_ranges_per_tensor_are_none_for_the_channel_scheme(tmp_path: Path):
    quantized_model().save_pretrained(tmp_path)
    overrides = {"quantization": {"scheme": "channel"}}
    assert read_checkpoint(tmp_path, config_overrides=overrides).ranges == {}


ACT = "encoder.layer.1.pre_output_act"
RANGES = {
    f"{ACT}.x_min": np.linspace(-3, -1, 20, dtype=np.float32),
    f"{ACT}.x_max": np.linspace(1, 4, 20, dtype=np.float32),
    "encoder.layer.1.input_act.x_min": np.linspace(-5, -1, 12, dtype=np.float32),
    "encoder.layer.1.input_act.x_max": np.linspace(2, 4, 12, dtype=np.float32),
    "encoder.layer.1.input_act.channel_exponent": np.arange(12, dtype=np.float32),
    "embeddings.embeddings_act1.x_min": np.array(-2, np.float32),
    "embeddings.embeddings_act1.x_max": np.array(2, np.float32),
    "encoder.layer.0.output.ln_input_act.x_min": np.array(0, np.float32),
    "encoder.layer.0.output.ln_input_act.x_max": np.array(0, np.float32),
    "classifier.hidden_act.x_min": np.array(-1, np.float32),
    "classifier.hidden_act.x_max": np.array(1, np.float32),
}
NEVER_OBSERVED = {
    "embeddings.output_activation.x_min": np.full(12, np.inf, np.float32),
    "embeddings.output_activation.x_max": np.full(12, -np.inf, np.float32),
}


@pytest.fixture
def calibrated(tmp_path: Path) -> Path:
    """A checkpoint of ours with ranges that the published buffers cannot hold."""
    torch_model("IBert", "ForSequenceClassification").save_pretrained(tmp_path / "theirs")
    ours = read_checkpoint(tmp_path / "theirs")
    write_checkpoint(tmp_path / "ours", ours.config, {**ours.tensors, **RANGES, **NEVER_OBSERVED})
    return tmp_path / "ours"


def test_our_ranges_return_as_they_were(calibrated: Path):
    assert_same(read_checkpoint(calibrated).ranges, RANGES)


def test_the_same_content_is_the_same_bytes(tmp_path: Path):
    """The library alone draws the order of the metadata: 1 of 24 here."""
    info = {"scheme": "channel", "weights_sha256": "0" * 64, "a": "1", "b": "2"}
    written = set()
    for number in range(8):
        path = tmp_path / str(number)
        write_tensors(path, {"x": np.arange(3, dtype=np.float32)}, info)
        written.add(path.read_bytes())
        with safe_open(path, "np") as file:
            assert file.metadata() == info
            np.testing.assert_array_equal(file.get_tensor("x"), [0, 1, 2])
    assert len(written) == 1


def test_tensors_are_written_as_any_file_is(tmp_path: Path):
    """Errors are the system's and name the file; whoever may read others may read this one."""
    tensors, info = {"x": np.arange(3, dtype=np.float32)}, {"format": "pt"}
    with pytest.raises(FileNotFoundError) as error:
        write_tensors(tmp_path / "absent" / "a", tensors, info)
    assert error.value.filename == str(tmp_path / "absent" / "a")
    write_tensors(tmp_path / "a", tensors, info)
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
    with safe_open(tmp_path / "a", "np") as file:
        assert file.metadata() == info


def test_hugging_face_gets_the_extremes_of_our_ranges(calibrated: Path):
    state = arrays(load("ForSequenceClassification", calibrated))

    def stored(leaf: str) -> list[float]:
        return [state[f"ibert.{leaf}.x_{end}"].item() for end in ("min", "max")]

    assert stored(ACT) == [-3, 4]
    assert stored("embeddings.embeddings_act1") == [-2, 2]
    assert stored("embeddings.output_activation") == pytest.approx([-1e-5, 1e-5])
    overrides = {"quantization": {"scheme": "reference"}}
    ranges = read_checkpoint(calibrated, config_overrides=overrides).ranges
    assert ranges[f"{ACT}.x_max"] == 4
    assert ranges["classifier.hidden_act.x_max"] == 1  # no buffer holds it: tanh's own bound


def test_ranges_of_a_former_save_do_not_survive_beside_new_weights(calibrated: Path):
    ours = read_checkpoint(calibrated)
    write_checkpoint(calibrated, ours.config, ours.tensors)
    assert read_checkpoint(calibrated).ranges == {}
    names = sorted(path.name for path in calibrated.iterdir())
    assert names == ["config.json", "model.safetensors"]


def test_a_model_without_pooler(tmp_path: Path):
    torch_model("Roberta", "ForSequenceClassification").save_pretrained(tmp_path / "theirs")
    ours = read_checkpoint(tmp_path / "theirs", "model")
    write_checkpoint(tmp_path / "ours", ours.config, ours.tensors)
    again = read_checkpoint(tmp_path / "ours")
    assert_same(again.tensors, ours.tensors)
    assert set(again.missing_head) == POOLER


def test_config_overrides(tmp_path: Path):
    torch_model("Roberta", "Model").save_pretrained(tmp_path)
    overrides = {"num_labels": 5, "hidden_dropout_prob": 0.3, "quantization": {"momentum": -1}}
    config = read_checkpoint(tmp_path, "sequence_classification", overrides).config
    assert isinstance(config, IBertConfig)
    assert (config.num_labels, config.hidden_dropout_prob) == (5, 0.3)
    assert config.quantization.momentum == -1


class Killed(BaseException):
    """What kill -9 is to a process, to a test."""


@pytest.mark.parametrize("last", range(1, 6))
def test_a_write_that_is_cut_short_leaves_what_can_be_read(
    calibrated: Path, monkeypatch, last: int
):
    ours, acts = read_checkpoint(calibrated), []

    def counted(act):
        def call(*arguments, **named):
            acts.append(act)
            if len(acts) == last:
                raise Killed
            return act(*arguments, **named)

        return call

    changed = {name: tensor + 1 for name, tensor in ours.tensors.items()}
    with monkeypatch.context() as patch:
        for name in ("replace", "unlink", "rename"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        with pytest.raises(Killed):
            write_checkpoint(calibrated, ours.config, {**changed, **RANGES})
    read_checkpoint(calibrated)


def test_a_range_of_which_a_part_was_never_observed_is_left_out(calibrated: Path):
    ours = read_checkpoint(calibrated)
    partly = {name: value.copy() for name, value in ours.ranges.items()}
    partly[f"{ACT}.x_min"][3], partly[f"{ACT}.x_max"][3] = np.inf, -np.inf
    write_checkpoint(calibrated, ours.config, {**ours.tensors, **partly})
    kept = {name for name in partly if not name.startswith(ACT)}
    assert read_checkpoint(calibrated).ranges.keys() == kept
