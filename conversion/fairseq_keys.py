"""Names of tensors in fairseq's RoBERTa and I-BERT checkpoints, as tables.

A fairseq name is here what remains of a key without ``encoder.`` (or, of the older generation,
``decoder.``): ``sentence_encoder.layers.0.fc1.weight``, ``lm_head.bias``; heads of classifiers
have neither. The tables pair leaves; the tensors below a leaf (``weight``, ``x_min``, ...) have
the same names on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ibert_jax.checkpoints import keys
from ibert_jax.config import IBertConfig

ENCODER = "sentence_encoder"

EMBEDDINGS: Mapping[str, tuple[str, ...]] = {
    "embed_tokens": ("embeddings.word_embeddings",),
    "embed_positions": ("embeddings.position_embeddings",),
    "embed_positions_act": ("embeddings.embeddings_act1",),
    "emb_layer_norm": ("embeddings.LayerNorm",),
    "emb_layer_norm.activation": ("embeddings.LayerNorm.activation",),
}

# Where fairseq quantizes once, Hugging Face quantizes twice, with the same range: the second
# time changes nothing. On the way back the last of the names counts.
LAYER: Mapping[str, tuple[str, ...]] = {
    "self_attn.q_proj": ("attention.self.query",),
    "self_attn.k_proj": ("attention.self.key",),
    "self_attn.v_proj": ("attention.self.value",),
    "self_attn.q_proj_act": ("attention.self.query_activation",),
    "self_attn.k_proj_act": ("attention.self.key_activation",),
    "self_attn.v_proj_act": ("attention.self.value_activation",),
    "self_attn.softmax.act": ("attention.self.softmax.act",),
    "self_attn.attn_act": ("attention.self.output_activation",),
    "self_attn.out_proj": ("attention.output.dense",),
    "pre_self_attn_layer_norm_act": ("attention.output.ln_input_act",),
    "self_attn_layer_norm": ("attention.output.LayerNorm",),
    "self_attn_layer_norm.activation": ("attention.output.LayerNorm.activation",),
    "fc1_act": ("attention.output.output_activation", "pre_intermediate_act"),
    "fc1": ("intermediate.dense",),
    "fc2_act": ("intermediate.output_activation", "pre_output_act"),
    "fc2": ("output.dense",),
    "pre_final_layer_norm_act": ("output.ln_input_act",),
    "final_layer_norm": ("output.LayerNorm",),
    "final_layer_norm.activation": ("output.LayerNorm.activation",),
}

LAYER_INPUT = "input_act"
"""fairseq quantizes on entry to a layer what Hugging Face quantized on leaving the one before."""

LM_HEAD: Mapping[str, tuple[str, ...]] = {
    "lm_head.dense": ("lm_head.dense",),
    "lm_head.layer_norm": ("lm_head.layer_norm",),
    "lm_head": ("lm_head",),  # its bias; its weight is the embeddings'
}

CLASSIFIER: Mapping[str, tuple[str, ...]] = {
    "dense": ("classifier.dense",),
    "out_proj": ("classifier.out_proj",),
}

TIED = "lm_head.weight"

IDLE = re.compile(
    r"sentence_encoder\.(version|embed_positions\._float_tensor"
    r"|layers\.\d+\.(self_attn\.attn_probs_act\.\w+|activation_fn_approx\.input_scaling_factor))"
)
"""Tensors that no forward pass reads."""

CLASSIFICATION_HEAD = re.compile(r"classification_heads\.([^.]+)\.(dense|out_proj)\.(weight|bias)")

PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_STACKED = re.compile(r"(.*\.self_attn\.)in_proj_(weight|bias)")


@dataclass(frozen=True)
class Generation:
    """How one file spells what :func:`canonical` makes uniform.

    Attributes:
      prefix: "encoder." or, in older files, "decoder.".
      norm: what the embeddings' LayerNorm is called.
      stacked: whether query, key and value are one tensor, ``in_proj_weight``.
    """

    prefix: str = "encoder."
    norm: str = "emb_layer_norm"
    stacked: bool = False


def generation_of(names: Iterator[str] | Mapping[str, object]) -> Generation:
    """The generation of a file with these keys."""
    listed = list(names)
    return Generation(
        "decoder." if any(n.startswith(f"decoder.{ENCODER}.") for n in listed) else "encoder.",
        "layernorm_embedding" if any(".layernorm_embedding." in n for n in listed) else _NORM,
        any(_STACKED.fullmatch(n) for n in listed),
    )


_NORM = "emb_layer_norm"


def canonical(
    state: Mapping[str, np.ndarray], generation: Generation, problems: list[str]
) -> dict[str, np.ndarray]:
    """The tensors by fairseq names, with query, key and value apart."""
    found: dict[str, np.ndarray] = {}
    for key, tensor in state.items():
        name = key.removeprefix(generation.prefix).replace(f".{generation.norm}.", f".{_NORM}.")
        stacked = _STACKED.fullmatch(name)
        if stacked is None:
            parts = {name: tensor}
        elif tensor.ndim == 0 or len(tensor) % 3:
            problems.append(
                f"{key} has shape {list(tensor.shape)}, expected query, key and value stacked"
            )
            continue
        else:
            thirds = np.split(tensor, 3)
            parts = {
                f"{stacked[1]}{projection}.{stacked[2]}": third
                for projection, third in zip(PROJECTIONS, thirds, strict=True)
            }
        for part, value in parts.items():
            if part in found:
                problems.append(f"{key} is the second tensor for {part}; keep one of them")
            found[part] = value
    return found


def spelled(tensors: Mapping[str, np.ndarray], generation: Generation) -> dict[str, np.ndarray]:
    """The inverse of :func:`canonical`: the keys of a file."""
    found: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        own = name.startswith("classification_heads.")
        key = ("" if own else generation.prefix) + name
        found[key.replace(f".{_NORM}.", f".{generation.norm}.")] = tensor
    if not generation.stacked:
        return found
    for key in [key for key in found if key.endswith((".q_proj.weight", ".q_proj.bias"))]:
        attention, _, kind = key.rpartition(".q_proj.")
        thirds = [found.pop(f"{attention}.{projection}.{kind}") for projection in PROJECTIONS]
        found[f"{attention}.in_proj_{kind}"] = np.concatenate(thirds)
    return found


def table(config: IBertConfig, classification_head: str | None) -> dict[str, tuple[str, ...]]:
    """fairseq's leaves -> ours, for a whole network."""
    leaves = {f"{ENCODER}.{theirs}": ours for theirs, ours in EMBEDDINGS.items()}
    entered = "embeddings.output_activation"
    for index in range(config.num_hidden_layers):
        layer, mine = f"{ENCODER}.layers.{index}", f"encoder.layer.{index}"
        leaves[f"{layer}.{LAYER_INPUT}"] = (entered,)
        for theirs, ours in LAYER.items():
            leaves[f"{layer}.{theirs}"] = tuple(f"{mine}.{leaf}" for leaf in ours)
        entered = f"{mine}.output.output_activation"
    if classification_head is None:
        return leaves | dict(LM_HEAD)
    head = f"classification_heads.{classification_head}"
    return leaves | {f"{head}.{theirs}": ours for theirs, ours in CLASSIFIER.items()}


def shapes(config: IBertConfig, head: str) -> dict[str, keys.Shape]:
    """Every tensor of ours, buffers included, that a table may name."""
    return (
        keys.backbone_parameters(config)
        | keys.head_parameters(config, head)
        | keys.published_ranges(config)
        | keys.published_buffers(config)
    )


def tensor_table(
    config: IBertConfig, head: str, classification_head: str | None
) -> dict[str, tuple[str, ...]]:
    """fairseq's names of tensors -> ours; each of ours is named once."""
    below: dict[str, list[str]] = {}
    for name in shapes(config, head):
        leaf, _, tensor = name.rpartition(".")
        below.setdefault(leaf, []).append(tensor)
    return {
        f"{theirs}.{tensor}": tuple(f"{leaf}.{tensor}" for leaf in ours)
        for theirs, ours in table(config, classification_head).items()
        for tensor in below.get(ours[0], [])
    }
