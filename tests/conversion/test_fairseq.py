"""fairseq's model.pt in and out: the same function, and the same bits back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from conversion import from_fairseq, to_fairseq
from ibert_jax.checkpoints import CheckpointError, read_checkpoint
from ibert_jax.models import IBertForMaskedLM, IBertModel
from ibert_jax.models.pretrained import IBertPreTrainedModel

from .conftest import arguments, fairseq_state

IDS = torch.tensor([[0, 5, 6, 7, 2], [0, 9, 2, 1, 1]])


def forward(model: Any) -> np.ndarray:
    with torch.no_grad():
        out = model(IDS, attention_mask=(IDS != 1).long())
    return (out.logits if "logits" in out else out.last_hidden_state).numpy()


def load(task: str, directory: Path) -> Any:
    """Hugging Face's I-BERT, which must miss nothing and expect nothing else."""
    kind = getattr(transformers, f"IBert{task}")
    model, info = kind.from_pretrained(directory, output_loading_info=True)
    assert {kind: list(found) for kind, found in info.items() if found} == {}
    return model.eval()


def assert_same_bits(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    different = [
        key
        for key, tensor in expected.items()
        if (actual[key].dtype, actual[key].shape) != (tensor.dtype, tensor.shape)
        or actual[key].numpy().tobytes() != tensor.numpy().tobytes()
    ]
    assert different == []


def older(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The generation before: ``decoder.``, and query, key and value in one tensor."""
    found: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        found[key.replace("encoder.", "decoder.", 1) if key[0] == "e" else key] = tensor
    for index in range(2):
        attention = f"decoder.sentence_encoder.layers.{index}.self_attn."
        for kind in ("weight", "bias"):
            parts = [found.pop(f"{attention}{name}_proj.{kind}") for name in "qkv"]
            found[f"{attention}in_proj_{kind}"] = torch.cat(parts)
    return found


def newer(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Today's fairseq calls the embeddings' LayerNorm otherwise and stores a version."""
    named = {k.replace(".emb_layer_norm.", ".layernorm_embedding."): v for k, v in state.items()}
    return {**named, "encoder.sentence_encoder.version": torch.tensor([3.0])}


def wrapped(layout: str, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    if layout == "cfg":
        return {"args": None, "cfg": {"model": vars(arguments())}, "model": newer(state)}
    if layout == "cfg namespace":
        return {"cfg": {"model": arguments(), "task": {"_name": "x"}}, "model": state}
    return {"args": arguments(), "model": older(state) if layout == "older" else state}


LAYOUTS = ("args", "older", "cfg", "cfg namespace")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_classifier_is_the_same_function_and_returns_bit_for_bit(
    tmp_path: Path, classifier: Any, masked_lm: Any, layout: str
):
    other_head = {k: v for k, v in fairseq_state(masked_lm).items() if ".lm_head." in k}
    content = wrapped(layout, {**fairseq_state(classifier), **other_head})
    torch.save(content, tmp_path / "model.pt")
    left = from_fairseq.convert(tmp_path / "model.pt", tmp_path / "ours")
    assert all(".lm_head." in key or key.endswith(".version") for key in left)

    ours = load("ForSequenceClassification", tmp_path / "ours")
    np.testing.assert_allclose(forward(ours), forward(classifier), rtol=0, atol=2e-6)
    config = read_checkpoint(tmp_path / "ours").config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.2, 0.0)
    assert (config.type_vocab_size, config.layer_norm_eps) == (1, 1e-5)

    # What comes back must come from the directory: in the model for settings, it is wiped out.
    wiped = {key: torch.zeros_like(v) for key, v in content["model"].items() if key not in left}
    torch.save({**content, "model": {**content["model"], **wiped}}, tmp_path / "like.pt")
    to_fairseq.convert(tmp_path / "ours", tmp_path / "back.pt", like=tmp_path / "like.pt")
    back = from_fairseq.load_pickle(tmp_path / "back.pt")
    assert_same_bits(back["model"], content["model"])
    assert {k: v for k, v in back.items() if k != "model"} == {
        k: v for k, v in content.items() if k != "model"
    }


def test_a_hub_file_goes_through_our_model_and_back(tmp_path: Path, hub_file: Path, masked_lm: Any):
    """fairseq -> directory -> our model -> directory -> fairseq, without the original at hand."""
    assert from_fairseq.convert(hub_file, tmp_path / "a") == ()
    np.testing.assert_allclose(
        forward(load("ForMaskedLM", tmp_path / "a")), forward(masked_lm), rtol=0, atol=2e-5
    )
    model: IBertPreTrainedModel = IBertForMaskedLM.from_pretrained(tmp_path / "a")
    model.save_pretrained(tmp_path / "b")
    to_fairseq.convert(tmp_path / "b", tmp_path / "back.pt")
    back = from_fairseq.load_pickle(tmp_path / "back.pt")
    assert_same_bits(back["model"], fairseq_state(masked_lm))
    kept = ("encoder_layers", "encoder_attention_heads", "max_positions", "dropout")
    assert [getattr(back["args"], k) for k in kept] == [getattr(arguments(), k) for k in kept]


def test_without_a_head(tmp_path: Path, hub_file: Path):
    left = from_fairseq.convert(hub_file, tmp_path / "ours", head="model")
    assert len(left) == 6 and all(".lm_head." in key for key in left)
    ours = read_checkpoint(tmp_path / "ours")
    assert (ours.head, set(ours.missing_head)) == (
        "model",
        {"pooler.dense.weight", "pooler.dense.bias"},
    )


def test_the_language_model_s_weight_stays_that_of_the_embeddings(tmp_path: Path, masked_lm: Any):
    """fairseq has one parameter for both, and what the file says of the head is read last."""
    torch.save({"args": arguments(), "model": fairseq_state(masked_lm)}, tmp_path / "like.pt")
    from_fairseq.convert(tmp_path / "like.pt", tmp_path / "ours", head="model")
    model = IBertModel.from_pretrained(tmp_path / "ours")
    table = model.get_input_embeddings().weight
    table[...] = table[...] + 1
    model.save_pretrained(tmp_path / "trained")
    to_fairseq.convert(tmp_path / "trained", tmp_path / "back.pt", like=tmp_path / "like.pt")
    back = from_fairseq.load_pickle(tmp_path / "back.pt")["model"]
    names = ("encoder.sentence_encoder.embed_tokens.weight", "encoder.lm_head.weight")
    for name in names:
        np.testing.assert_array_equal(back[name].numpy(), np.asarray(table[...]))


def test_what_would_not_load_is_not_written(tmp_path: Path, hub_file: Path):
    from_fairseq.convert(hub_file, tmp_path / "ours", head="model")
    with pytest.raises(CheckpointError, match="give an original that has one"):
        to_fairseq.convert(tmp_path / "ours", tmp_path / "back.pt")
    assert not (tmp_path / "back.pt").exists()


@pytest.mark.parametrize("alone", [True, False])
def test_a_head_that_is_only_declared_is_not_written(tmp_path: Path, hub_file: Path, alone: bool):
    from_fairseq.convert(hub_file, tmp_path / "ours", head="model")
    config = tmp_path / "ours" / "config.json"
    declared = {"architectures": ["IBertForMaskedLM"]}
    config.write_text(json.dumps(json.loads(config.read_text()) | declared))
    like = None if alone else hub_file
    with pytest.raises(
        CheckpointError, match=r"the directory lacks lm_head\.dense\.weight, .*: tr"
    ):
        to_fairseq.convert(tmp_path / "ours", tmp_path / "back.pt", like=like)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_returns_as_such(tmp_path: Path, classifier: Any, dtype: torch.dtype):
    state = {key: tensor.to(dtype) for key, tensor in fairseq_state(classifier).items()}
    torch.save({"args": arguments(), "model": state}, tmp_path / "model.pt")
    from_fairseq.convert(tmp_path / "model.pt", tmp_path / "ours")
    to_fairseq.convert(tmp_path / "ours", tmp_path / "back.pt", like=tmp_path / "model.pt")
    back = from_fairseq.load_pickle(tmp_path / "back.pt")["model"]
    assert {key: (v.dtype, v.float().tolist()) for key, v in back.items()} == {
        key: (v.dtype, v.float().tolist()) for key, v in state.items()
    }


def quantized_state(model: Any) -> dict[str, torch.Tensor]:
    """As I-BERT's fork of fairseq stores it: with the buffers of modules that nothing reads."""
    idle = {"input_scaling_factor": torch.ones(1)}
    state = fairseq_state(model)
    for index in range(2):
        layer = f"encoder.sentence_encoder.layers.{index}"
        for name in ("x_min", "x_max", "act_scaling_factor"):
            state[f"{layer}.self_attn.attn_probs_act.{name}"] = torch.zeros(1)
        state |= {f"{layer}.activation_fn_approx.{name}": value for name, value in idle.items()}
    return state


def test_ranges_are_not_dropped(tmp_path: Path, quantized: Any):
    state = quantized_state(quantized)
    content = {"args": arguments(quant_mode="symmetric", force_dequant="none"), "model": state}
    torch.save(content, tmp_path / "model.pt")
    from_fairseq.convert(tmp_path / "model.pt", tmp_path / "ours")
    trained = {k: v for k, v in state.items() if k.endswith((".weight", ".bias"))}
    torch.save({"args": arguments(), "model": trained}, tmp_path / "float.pt")
    with pytest.raises(CheckpointError, match="float checkpoint, without a place for the direct"):
        to_fairseq.convert(tmp_path / "ours", tmp_path / "back.pt", like=tmp_path / "float.pt")
    assert not (tmp_path / "back.pt").exists()
    other = arguments(quant_mode="none", force_dequant="gelu")
    torch.save({"args": other, "model": state}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError) as caught:
        to_fairseq.convert(tmp_path / "ours", tmp_path / "back.pt", like=tmp_path / "other.pt")
    assert caught.value.problems == (
        "quant_mode is 'none', but 'symmetric' in the directory",
        "force_dequant is 'gelu', but 'none' in the directory",
    )


def test_a_float_directory_gives_a_quantized_original_no_ranges(
    tmp_path: Path, hub_file: Path, masked_lm: Any
):
    from_fairseq.convert(hub_file, tmp_path / "ours")
    content = {"args": arguments(quant_mode="symmetric"), "model": fairseq_state(masked_lm)}
    torch.save(content, tmp_path / "like.pt")
    with pytest.raises(CheckpointError, match="quant_mode is 'symmetric', but 'none' in the direc"):
        to_fairseq.convert(tmp_path / "ours", tmp_path / "back.pt", like=tmp_path / "like.pt")


def test_a_quantized_checkpoint_brings_its_ranges_and_returns(tmp_path: Path, quantized: Any):
    state = quantized_state(quantized)
    content = {"args": arguments(quant_mode="symmetric", force_dequant="none"), "model": state}
    torch.save(content, tmp_path / "model.pt")
    from_fairseq.convert(tmp_path / "model.pt", tmp_path / "ours")
    load("ForSequenceClassification", tmp_path / "ours")
    ours = read_checkpoint(tmp_path / "ours")
    assert (ours.config.quant_mode, ours.config.quantization.scheme) == (True, "reference")

    encoder = "encoder.sentence_encoder.layers.1"
    for name, key in {
        "embeddings.embeddings_act1": "encoder.sentence_encoder.embed_positions_act",
        "embeddings.output_activation": "encoder.sentence_encoder.layers.0.input_act",
        "encoder.layer.0.output.output_activation": f"{encoder}.input_act",
        "encoder.layer.1.attention.output.output_activation": f"{encoder}.fc1_act",
        "encoder.layer.1.pre_intermediate_act": f"{encoder}.fc1_act",
        "encoder.layer.1.intermediate.output_activation": f"{encoder}.fc2_act",
        "encoder.layer.1.attention.self.output_activation": f"{encoder}.self_attn.attn_act",
    }.items():
        assert ours.ranges[f"{name}.x_max"] == state[f"{key}.x_max"].item(), name

    norm = [ours.tensors[f"encoder.layer.1.output.LayerNorm.{x}"] for x in ("weight", "bias")]
    # Of 12 numbers of mean 0 and variance 1 the largest can be sqrt(11).
    reached = np.abs(norm[0]) * np.sqrt(11) + norm[1]
    last = "encoder.layer.1.output.output_activation"
    np.testing.assert_allclose(ours.ranges[f"{last}.x_max"], reached.max(), rtol=1e-6)

    wiped = {k: torch.zeros_like(v) for k, v in state.items() if "attn_probs" not in k}
    kept = {k: v for k, v in state.items() if k.endswith("input_scaling_factor")}
    torch.save({**content, "model": {**state, **wiped, **kept}}, tmp_path / "like.pt")
    to_fairseq.convert(tmp_path / "ours", tmp_path / "back.pt", like=tmp_path / "like.pt")
    assert_same_bits(from_fairseq.load_pickle(tmp_path / "back.pt")["model"], state)


def problems(path: Path, tmp_path: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        from_fairseq.convert(path, tmp_path / "never", **options)
    assert not (tmp_path / "never").exists()
    return "\n".join(caught.value.problems)


def test_everything_wrong_with_the_tensors_at_once(tmp_path: Path, masked_lm: Any):
    state = fairseq_state(masked_lm)
    layer = "encoder.sentence_encoder.layers.1"
    del state[f"{layer}.fc1.bias"]
    state[f"{layer}.fc2.weight"] = torch.zeros(12, 19)
    state[f"{layer}.final_layer_norm.bias"] = torch.zeros(12, dtype=torch.int64)
    state["encoder.adapter.weight"] = torch.zeros(1)
    state["encoder.sentence_encoder.layers.x.fc1.bias"] = torch.zeros(20)
    torch.save({"args": arguments(), "model": state}, tmp_path / "model.pt")
    found = problems(tmp_path / "model.pt", tmp_path, head="model")
    for sentence in (
        "sentence_encoder.layers.1.fc1.bias is missing",
        "sentence_encoder.layers.1.fc2.weight has shape [12, 19], expected [12, 20]",
        "sentence_encoder.layers.1.final_layer_norm.bias has dtype int64, expected a float one",
        "adapter.weight is unknown for a RoBERTa with 2 layers",
        "sentence_encoder.layers.x.fc1.bias is unknown for a RoBERTa with 2 layers",
    ):
        assert sentence in found
    assert len(found.splitlines()) == 5


def test_both_spellings_of_a_tensor_are_one_too_many(tmp_path: Path, masked_lm: Any):
    state = older(fairseq_state(masked_lm))
    state["decoder.sentence_encoder.layers.0.self_attn.q_proj.weight"] = torch.zeros(12, 12)
    state["decoder.sentence_encoder.layers.1.self_attn.in_proj_weight"] = torch.zeros(35, 12)
    torch.save({"args": arguments(), "model": state}, tmp_path / "model.pt")
    found = problems(tmp_path / "model.pt", tmp_path)
    assert "is the second tensor for sentence_encoder.layers.0.self_attn.q_proj.weight" in found
    assert "in_proj_weight has shape [35, 12], expected query, key and value stacked" in found


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"encoder_layers": 3}, "encoder_layers is 3, but the tensors are of a model with 2"),
        ({"activation_fn": "relu"}, "activation_fn must be 'gelu', got 'relu'"),
        ({"encoder_attention_heads": None}, "give it as --attention-heads"),
        ({"encoder_attention_heads": -3}, "num_attention_heads must be an integer at least 1"),
        ({"force_dequant": "all"}, "force_dequant must be one of none"),
    ],
)
def test_settings_that_do_not_fit(
    tmp_path: Path, classifier: Any, changes: dict[str, Any], sentence: str
):
    content = {"args": arguments(**changes), "model": fairseq_state(classifier)}
    torch.save(content, tmp_path / "model.pt")
    assert sentence in problems(tmp_path / "model.pt", tmp_path)


@pytest.mark.parametrize("settings", [None, 5, [1], ("a",)])
def test_settings_that_are_none(tmp_path: Path, classifier: Any, settings: Any):
    content = {"args": settings, "model": fairseq_state(classifier)}
    torch.save(content, tmp_path / "model.pt")
    assert "give it as --attention-heads" in problems(tmp_path / "model.pt", tmp_path)


def test_the_classification_head_must_be_named_among_several(tmp_path: Path, classifier: Any):
    state = fairseq_state(classifier)
    for key in [key for key in state if "mnli" in key]:
        state[key.replace("mnli", "other")] = state[key][:2] if "out_proj" in key else state[key]
    torch.save({"args": arguments(), "model": state}, tmp_path / "model.pt")
    assert "must be one of: mnli, other; got None" in problems(tmp_path / "model.pt", tmp_path)
    from_fairseq.convert(tmp_path / "model.pt", tmp_path / "ours", classification_head="other")
    assert read_checkpoint(tmp_path / "ours").config.num_labels == 2


def test_a_head_that_is_not_there(tmp_path: Path, classifier: Any):
    torch.save({"args": arguments(), "model": fairseq_state(classifier)}, tmp_path / "model.pt")
    found = problems(tmp_path / "model.pt", tmp_path, head="masked_lm")
    assert "there is no lm_head" in found


def test_untied_weights_are_refused(tmp_path: Path, masked_lm: Any):
    state = fairseq_state(masked_lm)
    state["encoder.lm_head.weight"] += 1
    torch.save({"args": arguments(), "model": state}, tmp_path / "model.pt")
    assert "only tied weights are supported" in problems(tmp_path / "model.pt", tmp_path)


def test_what_fairseq_has_no_place_for(tmp_path: Path):
    from .conftest import torch_model

    model = torch_model("IBertForSequenceClassification", pad_token_id=0, layer_norm_eps=1e-12)
    with torch.no_grad():
        model.ibert.embeddings.token_type_embeddings.weight += 1
    model.save_pretrained(tmp_path / "ours")
    with pytest.raises(CheckpointError) as caught:
        to_fairseq.convert(tmp_path / "ours", tmp_path / "model.pt")
    assert "token_type_embeddings.weight must be zeros" in caught.value.problems[0]
    assert "pad_token_id must be 1" in caught.value.problems[1]
    assert "layer_norm_eps must be 1e-05" in caught.value.problems[2]
    assert not (tmp_path / "model.pt").exists()


def test_an_original_of_another_size(tmp_path: Path, hub_file: Path, classifier: Any):
    from .conftest import torch_model

    model = torch_model("IBertForSequenceClassification", intermediate_size=24)
    model.save_pretrained(tmp_path / "ours")
    with pytest.raises(CheckpointError) as caught:
        to_fairseq.convert(tmp_path / "ours", tmp_path / "model.pt", like=hub_file)
    found = "\n".join(caught.value.problems)
    assert "fc1.weight has shape [20, 12], but [24, 12] in the directory" in found
    assert "classification_heads.sentence_classification_head.dense.weight is missing" in found


def test_an_original_of_another_network(tmp_path: Path, hub_file: Path, masked_lm: Any):
    """Its settings and its third layer would stay among the directory's tensors."""
    from_fairseq.convert(hub_file, tmp_path / "ours")
    state = fairseq_state(masked_lm)
    third = {k.replace("layers.1.", "layers.2."): v for k, v in state.items() if "layers.1." in k}
    settings = arguments(encoder_layers=3, encoder_attention_heads=4, activation_fn="relu")
    torch.save({"args": settings, "model": {**state, **third}}, tmp_path / "like.pt")
    with pytest.raises(CheckpointError) as caught:
        to_fairseq.convert(tmp_path / "ours", tmp_path / "back.pt", like=tmp_path / "like.pt")
    assert caught.value.problems == (
        "encoder_layers is 3, but 2 in the directory",
        "encoder_attention_heads is 4, but 3 in the directory",
        "activation_fn is 'relu', but 'gelu' in the directory",
        *(f"{key} is unknown for the directory's RoBERTa with 2 layers" for key in third),
    )
    assert not (tmp_path / "back.pt").exists()


def test_the_commands(tmp_path: Path, hub_file: Path, capsys: pytest.CaptureFixture[str]):
    from_fairseq.main([str(hub_file), str(tmp_path / "ours"), "--head", "model"])
    to_fairseq.main([str(tmp_path / "ours"), str(tmp_path / "back.pt"), "--like", str(hub_file)])
    assert "left behind" in capsys.readouterr().out
    expected = from_fairseq.load_pickle(hub_file)["model"]
    assert_same_bits(from_fairseq.load_pickle(tmp_path / "back.pt")["model"], expected)
