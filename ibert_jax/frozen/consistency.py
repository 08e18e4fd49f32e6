"""Whether a configuration is that of the integer leaves beside it.

A model's hash is of its leaves. What the configuration says too must agree with them: or a file in
which only that was changed would run otherwise than the model that was certified.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ibert_jax.config import IBertConfig
from ibert_jax.layers.attention import FloatContext, IntegerContext, IntegerScores
from ibert_jax.layers.gelu import FloatGELU
from ibert_jax.layers.layernorm import FloatLayerNorm
from ibert_jax.layers.softmax import FloatSoftmax, IntegerSoftmax
from ibert_jax.settings import raise_if_any

_SIZES = (
    ("vocab_size", "embeddings.word_embeddings", 0),
    ("hidden_size", "embeddings.word_embeddings", 1),
    ("max_position_embeddings", "embeddings.position_embeddings", 0),
    ("type_vocab_size", "embeddings.token_type_embeddings", 0),
    ("num_hidden_layers", "stacked.intermediate.dense", 0),
    ("intermediate_size", "stacked.intermediate.dense", 1),
)
"""Setting, how the path of a leaf with a weight ends, and the axis that has this size."""
_CLASSIFIERS = ("classifier", "classifier.out_proj", "qa_outputs")
"""Leaves with a row for each label."""
_IN_FLOAT = {
    FloatContext: "softmax",
    FloatGELU: "gelu",
    FloatLayerNorm: "layernorm",
    FloatSoftmax: "softmax",
}


def check_settings(config: IBertConfig, leaves: Mapping[str, Any]) -> None:
    """Refuse a configuration that is not of these leaves, layers stacked, by path.

    Raises:
        ValueError: every setting that differs.
    """
    found: dict[str, Any] = {
        name: leaf.weight.shape[axis]
        for name, ending, axis in _SIZES
        for path, leaf in leaves.items()
        if path.endswith(ending)
    }
    heads = [leaf for path, leaf in leaves.items() if path in _CLASSIFIERS]
    if heads and heads[0].weight.shape[0] > 1:  # a single row may score choices
        found["num_labels"] = heads[0].weight.shape[0]
    in_float = set()
    for leaf in leaves.values():
        if isinstance(leaf, IntegerScores | IntegerContext):
            found["num_attention_heads"] = leaf.heads
        if isinstance(leaf, IntegerSoftmax):
            found["scheme"] = "reference" if leaf.published else "channel"
        if type(leaf) in _IN_FLOAT:
            in_float.add(_IN_FLOAT[type(leaf)])
    found["force_dequant"] = "nonlinear" if len(in_float) == 3 else "".join(in_float) or "none"
    told = {**vars(config), "scheme": config.quantization.scheme}
    problems: list[str | None] = [
        f"{name} is {told[name]!r}, the integers are of {value!r}"
        for name, value in found.items()
        if told[name] != value
    ]
    raise_if_any("the model's configuration was altered", problems)
