"""Random PyTorch models, and their weights as fairseq would have stored them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

SIZES: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 18,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "num_labels": 3,
}

# Written anew rather than taken from the tables under test. Hugging Face's name -> fairseq's.
_LAYER = {
    "attention.self.query.": "self_attn.q_proj.",
    "attention.self.key.": "self_attn.k_proj.",
    "attention.self.value.": "self_attn.v_proj.",
    "attention.self.query_activation.": "self_attn.q_proj_act.",
    "attention.self.key_activation.": "self_attn.k_proj_act.",
    "attention.self.value_activation.": "self_attn.v_proj_act.",
    "attention.self.output_activation.": "self_attn.attn_act.",
    "attention.self.softmax.": "self_attn.softmax.",
    "attention.output.dense.": "self_attn.out_proj.",
    "attention.output.ln_input_act.": "pre_self_attn_layer_norm_act.",
    "attention.output.LayerNorm.": "self_attn_layer_norm.",
    "pre_intermediate_act.": "fc1_act.",
    "intermediate.dense.": "fc1.",
    "pre_output_act.": "fc2_act.",
    "output.dense.": "fc2.",
    "output.ln_input_act.": "pre_final_layer_norm_act.",
    "output.LayerNorm.": "final_layer_norm.",
}
_EMBEDDINGS = {
    "embeddings.word_embeddings.": "embed_tokens.",
    "embeddings.position_embeddings.": "embed_positions.",
    "embeddings.embeddings_act1.": "embed_positions_act.",
    "embeddings.LayerNorm.": "emb_layer_norm.",
    "embeddings.output_activation.": "layers.0.input_act.",
}


def fairseq_key(name: str) -> str | None:
    """fairseq's name of a tensor of RoBERTa or I-BERT; None where it has none."""
    name = name.removeprefix("roberta.").removeprefix("ibert.")
    if name.startswith("encoder.layer."):
        index, _, rest = name.removeprefix("encoder.layer.").partition(".")
        for theirs, ours in _LAYER.items():
            if rest.startswith(theirs):
                return f"encoder.sentence_encoder.layers.{index}.{ours}{rest[len(theirs) :]}"
        if rest.startswith("output.output_activation.") and index == "0":
            return f"encoder.sentence_encoder.layers.1.input_act.{rest.rpartition('.')[2]}"
        return None
    for theirs, ours in _EMBEDDINGS.items():
        if name.startswith(theirs):
            return f"encoder.sentence_encoder.{ours}{name[len(theirs) :]}"
    if name in ("lm_head.decoder.weight", "lm_head.decoder.bias"):
        return "encoder.lm_head.weight" if name.endswith("weight") else None
    if name.startswith("lm_head."):
        return f"encoder.{name}"
    if name.startswith("classifier."):
        return f"classification_heads.mnli.{name.removeprefix('classifier.')}"
    return None


def fairseq_state(model: Any) -> dict[str, torch.Tensor]:
    named = ((fairseq_key(name), tensor) for name, tensor in model.state_dict().items())
    return {key: tensor.clone() for key, tensor in named if key is not None}


def torch_model(name: str, **settings: Any) -> Any:
    """A random model of Hugging Face whose every parameter is nonzero; no token types."""
    config = getattr(transformers, f"{name.partition('For')[0].removesuffix('Model')}Config")
    torch.manual_seed(0)
    model = getattr(transformers, name)(config(**{**SIZES, **settings}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
        backbone = getattr(model, model.base_model_prefix, model)
        backbone.embeddings.token_type_embeddings.weight.zero_()
    return model.eval()


def arguments(**changes: Any) -> argparse.Namespace:
    """What fairseq stores of its command line."""
    settings = {
        "arch": "roberta_base",
        "encoder_layers": 2,
        "encoder_embed_dim": 12,
        "encoder_ffn_embed_dim": 20,
        "encoder_attention_heads": 3,
        "max_positions": 16,
        "activation_fn": "gelu",
        "pooler_activation_fn": "tanh",
        "dropout": 0.2,
        "attention_dropout": 0.0,
    }
    return argparse.Namespace(**{**settings, **changes})


def quantized_ibert(train_steps: int = 2, **settings: Any) -> Any:
    """An I-BERT in its quantized mode, its ranges filled by its own forward passes."""
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = torch_model("IBertForSequenceClassification", quant_mode=True, **still, **settings)
    draw = torch.Generator().manual_seed(1)
    model.train()
    with torch.no_grad():
        for _ in range(train_steps):
            model(torch.randint(3, model.config.vocab_size, (4, 9), generator=draw))
    return model.eval()


@pytest.fixture(scope="session")
def masked_lm() -> Any:
    return torch_model("RobertaForMaskedLM")


@pytest.fixture(scope="session")
def classifier() -> Any:
    return torch_model("RobertaForSequenceClassification")


@pytest.fixture(scope="session")
def quantized() -> Any:
    return quantized_ibert()


@pytest.fixture(scope="session")
def hub_file(masked_lm: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``model.pt`` as torch.hub has it; not to be changed."""
    path = tmp_path_factory.mktemp("fairseq") / "model.pt"
    torch.save({"args": arguments(), "model": fairseq_state(masked_lm)}, path)
    return path
