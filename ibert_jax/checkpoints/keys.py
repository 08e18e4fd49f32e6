"""Names and shapes of checkpoint tensors, as tables.

Our names are Hugging Face I-BERT's without the prefix ``ibert.``; a name is an attribute path of
the network. The tables say which tensors a network has, which buffers the published implementation
keeps beside them, and how the keys of RoBERTa and BERT differ. A new head is one row of ``HEADS``,
one of ``RENAMED_LEAVES`` if BERT calls it otherwise, and one pattern less in ``OTHER_HEADS``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ibert_jax.config import IBertConfig

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Kind:
    """What one kind of leaf stores. A shape lists indices into the leaf's sizes; () means (1,).
    (Ranges as we store them have other shapes, see :func:`activation_ranges`.)

    Attributes:
      parameters: what is trained.
      ranges: running minimum and maximum of an activation, the state of quantization.
      buffers: what the published implementation stores though it never uses it, or derives it anew
        from the two others in every forward pass; not read, written as :func:`buffer_value`.
    """

    parameters: Mapping[str, Shape] = field(default_factory=dict)
    ranges: Mapping[str, Shape] = field(default_factory=dict)
    buffers: Mapping[str, Shape] = field(default_factory=dict)


DENSE = Kind(parameters={"weight": (0, 1), "bias": (0,)})
PLAIN_NORM = Kind(parameters={"weight": (0,), "bias": (0,)})
BIAS = Kind(parameters={"bias": (0,)})
LINEAR = Kind(
    parameters={"weight": (0, 1), "bias": (0,)},
    buffers={"weight_integer": (0, 1), "bias_integer": (0,), "fc_scaling_factor": (0,)},
)
EMBEDDING = Kind(
    parameters={"weight": (0, 1)},
    buffers={"weight_integer": (0, 1), "weight_scaling_factor": ()},
)
NORM = Kind(parameters={"weight": (0,), "bias": (0,)}, buffers={"shift": ()})
ACT = Kind(ranges={"x_min": (), "x_max": ()}, buffers={"act_scaling_factor": ()})
IDLE_ACT = Kind(buffers={"x_min": (), "x_max": (), "act_scaling_factor": ()})
"""An activation range that nothing uses, or that follows from others (see SOFTMAX)."""
OWN_ACT = Kind()
"""An activation that the published implementation has no range of."""

STATISTICS = (".x_min", ".x_max", ".channel_exponent")
"""How names of ranges end, ours included; the last are the powers of two between channels, of
leaves that are ``balanced``."""


@dataclass(frozen=True)
class Leaf:
    """One leaf of the network.

    Attributes:
      name: its path.
      kind: what it stores.
      sizes: by the configuration's settings; those of an activation are the channels, where the
        "channel" scheme gives each its own range.
      balanced: whether there its channels have exponents, too.
    """

    name: str
    kind: Kind
    sizes: tuple[str | int, ...] = ()
    balanced: bool = False


H, F = "hidden_size", "intermediate_size"

SOFTMAX = "softmax.act"
"""The exponentials inside the published softmax; their range follows from query and key."""

EMBEDDINGS = (
    Leaf("embeddings.word_embeddings", EMBEDDING, ("vocab_size", H)),
    Leaf("embeddings.token_type_embeddings", EMBEDDING, ("type_vocab_size", H)),
    Leaf("embeddings.position_embeddings", EMBEDDING, ("max_position_embeddings", H)),
    Leaf("embeddings.embeddings_act1", ACT),
    Leaf("embeddings.embeddings_act2", IDLE_ACT),
    Leaf("embeddings.LayerNorm", NORM, (H,)),
    Leaf("embeddings.LayerNorm.activation", IDLE_ACT),
    Leaf("embeddings.output_activation", ACT, (H,)),
)

LAYER = (  # below encoder.layer.N.
    Leaf("input_act", OWN_ACT, (H,), balanced=True),
    Leaf("attention.self.query", LINEAR, (H, H)),
    Leaf("attention.self.key", LINEAR, (H, H)),
    Leaf("attention.self.value", LINEAR, (H, H)),
    Leaf("attention.self.query_activation", ACT),
    Leaf("attention.self.key_activation", ACT),
    Leaf("attention.self.value_activation", ACT, (H,)),
    Leaf(f"attention.self.{SOFTMAX}", IDLE_ACT),
    Leaf("attention.self.output_activation", ACT, (H,)),
    Leaf("attention.output.dense", LINEAR, (H, H)),
    Leaf("attention.output.ln_input_act", ACT),
    Leaf("attention.output.LayerNorm", NORM, (H,)),
    Leaf("attention.output.LayerNorm.activation", IDLE_ACT),
    Leaf("attention.output.output_activation", ACT),
    Leaf("pre_intermediate_act", ACT, (H,), balanced=True),
    Leaf("intermediate.dense", LINEAR, (F, H)),
    Leaf("intermediate.intermediate_act_fn", OWN_ACT),
    Leaf("intermediate.output_activation", ACT),
    Leaf("pre_output_act", ACT, (F,)),
    Leaf("output.dense", LINEAR, (H, F)),
    Leaf("output.ln_input_act", ACT),
    Leaf("output.LayerNorm", NORM, (H,)),
    Leaf("output.LayerNorm.activation", IDLE_ACT),
    Leaf("output.output_activation", ACT),
)

HIDDEN_STATE = Leaf("output_act", OWN_ACT)
"""What the encoder gives."""

POOLER = Leaf("pooler.dense", DENSE, (H, H))
POOLER_INPUT = Leaf("pooler.input_act", OWN_ACT, (H,))


@dataclass(frozen=True)
class Head:
    """What stands on the encoder.

    Attributes:
      architecture: Hugging Face's class.
      prefix: what that class puts before the names of the backbone, the pooler's too.
      leaves: the head's own; Hugging Face keeps them in float, so they have no buffers, and ranges
        only here.
    """

    architecture: str
    prefix: str
    leaves: tuple[Leaf, ...]


HEADS: Mapping[str, Head] = {
    "model": Head("IBertModel", "", (POOLER, POOLER_INPUT)),
    "masked_lm": Head(
        "IBertForMaskedLM",
        "ibert.",
        (
            Leaf("lm_head.dense", DENSE, (H, H)),
            Leaf("lm_head.layer_norm", PLAIN_NORM, (H,)),
            Leaf("lm_head", BIAS, ("vocab_size",)),
            Leaf("lm_head.input_act", OWN_ACT, (H,)),
            Leaf("lm_head.activation", OWN_ACT),
            Leaf("lm_head.ln_input_act", OWN_ACT),
            Leaf("lm_head.output_act", OWN_ACT),
        ),
    ),
    "sequence_classification": Head(
        "IBertForSequenceClassification",
        "ibert.",
        (
            Leaf("classifier.dense", DENSE, (H, H)),
            Leaf("classifier.out_proj", DENSE, ("num_labels", H)),
            Leaf("classifier.input_act", OWN_ACT, (H,)),
            Leaf("classifier.hidden_act", OWN_ACT),
        ),
    ),
    "token_classification": Head(
        "IBertForTokenClassification",
        "ibert.",
        (Leaf("classifier", DENSE, ("num_labels", H)), Leaf("input_act", OWN_ACT, (H,))),
    ),
    "question_answering": Head(
        "IBertForQuestionAnswering",
        "ibert.",
        (Leaf("qa_outputs", DENSE, ("num_labels", H)), Leaf("input_act", OWN_ACT, (H,))),
    ),
    "multiple_choice": Head(
        "IBertForMultipleChoice",
        "ibert.",
        (POOLER, POOLER_INPUT, Leaf("hidden_act", OWN_ACT), Leaf("classifier", DENSE, (1, H))),
    ),
}

COPIES: Mapping[str, str] = {
    "lm_head.decoder.weight": "embeddings.word_embeddings.weight",
    "lm_head.decoder.bias": "lm_head.bias",
}
"""Tensors that some files hold twice: tied to another one, and refused if they differ from it."""

PREFIXES = ("ibert.", "roberta.", "bert.")
"""What checkpoints of whole models put before the names of the backbone."""

RENAMED_LEAVES: Mapping[tuple[str, str], Mapping[str, str]] = {
    # BERT's classifier is dense, tanh, linear on the first token as well; its dense is the pooler.
    ("bert", "sequence_classification"): {
        "pooler.dense": "classifier.dense",
        "classifier": "classifier.out_proj",
    },
    ("bert", "masked_lm"): {
        "cls.predictions.transform.dense": "lm_head.dense",
        "cls.predictions.transform.LayerNorm": "lm_head.layer_norm",
        "cls.predictions.decoder": "lm_head.decoder",
        "cls.predictions": "lm_head",
    },
}

RENAMED_TENSORS: Mapping[str, str] = {"gamma": "weight", "beta": "bias"}
"""BERT's LayerNorm as TensorFlow called it; early checkpoints still do."""

CONSTANTS = ("embeddings.position_ids", "embeddings.token_type_ids")
"""Buffers that hold 0, 1, 2, ... or zeros."""

OTHER_HEADS = re.compile(
    r"(lm_head|cls|qa_outputs|classifier|pooler)\.(.+\.)?(weight|bias)|lm_head\.bias"
)
"""Keys of heads, ours or others: passed over, and said so, where they are not wanted."""


def _leaves(config: IBertConfig) -> Iterator[Leaf]:
    yield from EMBEDDINGS
    for index in range(config.num_hidden_layers):
        for leaf in LAYER:
            yield replace(leaf, name=f"encoder.layer.{index}.{leaf.name}")
    yield HIDDEN_STATE


def _sizes(config: IBertConfig, leaf: Leaf) -> Shape:
    return tuple(x if isinstance(x, int) else getattr(config, x) for x in leaf.sizes)


def _expand(config: IBertConfig, leaf: Leaf, entries: Mapping[str, Shape]) -> dict[str, Shape]:
    sizes = _sizes(config, leaf)
    return {
        f"{leaf.name}.{entry}": tuple(sizes[i] for i in axes) if axes else (1,)
        for entry, axes in entries.items()
    }


def backbone_parameters(config: IBertConfig) -> dict[str, Shape]:
    """Name and shape of every parameter below the head."""
    return {k: v for x in _leaves(config) for k, v in _expand(config, x, x.kind.parameters).items()}


def head_parameters(config: IBertConfig, head: str) -> dict[str, Shape]:
    """Name and shape of the parameters of a head, a key of ``HEADS``."""
    leaves = HEADS[head].leaves
    return {k: v for x in leaves for k, v in _expand(config, x, x.kind.parameters).items()}


def leaf_of(name: str) -> str:
    """The name of the leaf that a tensor belongs to."""
    return name.rpartition(".")[0]


def checkpoint_key(head: str, name: str) -> str:
    """Hugging Face's key of one of our names, in a checkpoint of that head."""
    own = [leaf for leaf in HEADS[head].leaves if leaf is not POOLER]
    is_own = any(name.startswith(f"{leaf.name}.") for leaf in own)
    return name if is_own else HEADS[head].prefix + name


def published_ranges(config: IBertConfig) -> dict[str, Shape]:
    """Name and shape of the activation ranges that the published implementation stores."""
    return {k: v for x in _leaves(config) for k, v in _expand(config, x, x.kind.ranges).items()}


def activation_ranges(config: IBertConfig, head: str) -> dict[str, Shape]:
    """Name and shape of the activation ranges of a network with that head, as we store them."""
    channels = config.quantization.scheme == "channel"
    acts = [x for x in (*_leaves(config), *HEADS[head].leaves) if x.kind in (ACT, OWN_ACT)]
    return {
        leaf.name + end: _sizes(config, leaf) if channels else ()
        for leaf in acts
        for end in STATISTICS[: 3 if leaf.balanced and channels else 2]
    }


def published_buffers(config: IBertConfig) -> dict[str, Shape]:
    """Name and shape of the derived buffers that the published implementation stores."""
    return {k: v for x in _leaves(config) for k, v in _expand(config, x, x.kind.buffers).items()}


_UNTOUCHED = 1.1e-5
"""The published ranges begin at -1e-5 and 1e-5; below this they count as never calibrated."""


def buffer_value(name: str) -> float:
    """What the published implementation stores before its first quantized forward pass."""
    return {"x_min": -1e-5, "x_max": 1e-5}.get(name.rpartition(".")[2], 0.0)


def is_untouched(low: np.ndarray, high: np.ndarray) -> bool:
    """Whether the published implementation takes this range for one that was never calibrated."""
    return bool(low.min() > -_UNTOUCHED and high.max() < _UNTOUCHED)


def our_name(key: str, model_type: str, head: str, source_head: str | None) -> str | None:
    """The name, here, of a checkpoint's key; whether such a tensor exists is another question.

    Args:
      key: as in the file.
      model_type: of the file.
      head: the head wanted.
      source_head: the head that the file declares, None if it declares none.

    Returns:
      None for the classifier of another task: several heads call theirs so.
    """
    prefix = next((p for p in PREFIXES if key.startswith(p)), "")
    leaf, _, tensor = key.removeprefix(prefix).rpartition(".")
    if leaf.endswith("LayerNorm"):
        tensor = RENAMED_TENSORS.get(tensor, tensor)
    if leaf == "classifier" and source_head not in (None, head):
        return None
    leaf = RENAMED_LEAVES.get((model_type, head), {}).get(leaf, leaf)
    return f"{leaf}.{tensor}" if leaf else tensor


def declared_head(architectures: object) -> str | None:
    """The head of a config.json's "architectures", e.g. "masked_lm"; None if it has none.

    Heads that ``HEADS`` lacks are named too ("pre_training").
    """
    if not isinstance(architectures, list) or not architectures:
        return None
    task = str(architectures[0]).partition("For")[2]
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", task).lower() or "model"
