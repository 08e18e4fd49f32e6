"""fairseq's ``model.pt`` (RoBERTa, XLM-R, CamemBERT, I-BERT) to a directory of I-BERT.

    python -m conversion.from_fairseq model.pt OUTPUT [--classification-head NAME]

Both generations of keys are read, quantized checkpoints of kssteven418/I-BERT with their ranges
and buffers. fairseq has no token types: the table becomes one row of zeros. Its vocabulary file
is not converted; Hugging Face's tokenizer of the same model fits.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from conversion import fairseq_keys
from conversion.command import run
from conversion.pickles import as_arrays, load_pickle
from ibert_jax.checkpoints import CheckpointError, PublishedBuffers, keys, write_checkpoint
from ibert_jax.checkpoints.derived import layer_norm_output
from ibert_jax.config import IBertConfig
from ibert_jax.quant_config import QuantConfig

PADDING = 1
"""fairseq's dictionaries begin with <s>, <pad>, </s>, <unk>."""
LAYER_NORM_EPS = 1e-5
TOKEN_TYPES = "embeddings.token_type_embeddings.weight"

# Sizes that the tensors tell too; both must say the same.
_SIZES = {
    "encoder_layers": "num_hidden_layers",
    "encoder_embed_dim": "hidden_size",
    "encoder_ffn_embed_dim": "intermediate_size",
}
_REQUIRED = {"activation_fn": "gelu", "pooler_activation_fn": "tanh"}


def convert(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    head: str | None = None,
    classification_head: str | None = None,
    attention_heads: int | None = None,
) -> tuple[str, ...]:
    """Write ``output`` as Hugging Face I-BERT from a fairseq checkpoint.

    Args:
        path: of the ``model.pt``.
        output: a directory, made if need be.
        head: "model" (none), "masked_lm" or "sequence_classification"; by default the
            classification head if there is one, else the language model's.
        classification_head: its name in the file, needed where there are several.
        attention_heads: their number, where the file does not say.

    Returns:
        The file's keys that were left behind: other heads, and what nothing reads.

    Raises:
        CheckpointError: everything that is wrong with the file; nothing is written.
    """
    path = Path(path)
    problems: list[str] = []
    state, settings = read(path, problems)
    generation = fairseq_keys.generation_of(state)
    tensors = fairseq_keys.canonical(state, generation, problems)
    if problems:
        raise CheckpointError(path, problems)
    if head is None and classification_head is not None:
        head = "sequence_classification"
    head, name = _choose_head(tensors, head, classification_head, problems)
    config = _config(tensors, settings, name, attention_heads, problems)
    if config is None or problems:
        raise CheckpointError(path, problems)
    parameters, buffers, left = _map(tensors, config, head, name, generation, problems)
    if problems:
        raise CheckpointError(path, problems)
    write_checkpoint(output, config, parameters, PublishedBuffers(buffers))
    return left


def read(path: Path, problems: list[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The state dict of a file and its settings, as one flat dict."""
    checkpoint = load_pickle(path)
    if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get("model"), Mapping):
        problems.append(
            "this is no fairseq checkpoint: expected a dict with 'model' and 'args' or 'cfg'"
        )
        return {}, {}
    settings: dict[str, Any] = {}
    for source in (checkpoint.get("cfg"), checkpoint.get("args")):
        outer = _plain(source)
        settings |= outer | _plain(outer.get("model"))
    return as_arrays(path, checkpoint["model"], problems), settings


def _plain(settings: object) -> dict[str, Any]:
    """A Namespace, a dict or any other object with attributes, as a dict; else an empty one."""
    return dict(settings if isinstance(settings, Mapping) else getattr(settings, "__dict__", {}))


def _choose_head(
    tensors: Mapping[str, np.ndarray],
    head: str | None,
    name: str | None,
    problems: list[str],
) -> tuple[str, str | None]:
    """The head to convert, a key of ``keys.HEADS``, and the name of a classification head."""
    matches = map(fairseq_keys.CLASSIFICATION_HEAD.fullmatch, tensors)
    names = sorted({match[1] for match in matches if match})
    language_model = any(key.startswith("lm_head.") for key in tensors)
    if head is None:
        head = "sequence_classification" if names else "masked_lm" if language_model else "model"
    if head == "masked_lm" and not language_model:
        problems.append("there is no lm_head; choose another head")
    if head != "sequence_classification":
        return head, None
    if name is None and len(names) == 1:
        return head, names[0]
    if name not in names:
        listed = ", ".join(names) or "none"
        problems.append(f"the classification head must be one of: {listed}; got {name!r}")
    return head, name


def _config(
    tensors: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    classification_head: str | None,
    attention_heads: int | None,
    problems: list[str],
) -> IBertConfig | None:
    """The configuration, by the tensors' sizes and the file's settings."""
    sizes = _sizes(tensors, classification_head, problems)
    heads = attention_heads or settings.get("encoder_attention_heads")
    if not isinstance(heads, int):
        problems.append(
            "neither args nor cfg says encoder_attention_heads; give it as --attention-heads"
        )
    for theirs, ours in _SIZES.items():
        said = settings.get(theirs)
        if ours in sizes and isinstance(said, int) and said != sizes[ours]:
            problems.append(
                f"{theirs} is {said}, but the tensors are of a model with {sizes[ours]}"
            )
    for name, wanted in _REQUIRED.items():
        if settings.get(name, wanted) != wanted:
            problems.append(f"{name} must be {wanted!r}, got {settings[name]!r}")
    if problems or not isinstance(heads, int):
        return None
    quantized = settings.get("quant_mode", "none") == "symmetric"
    try:
        return IBertConfig(
            **sizes,
            num_attention_heads=heads,
            type_vocab_size=1,
            pad_token_id=PADDING,
            layer_norm_eps=LAYER_NORM_EPS,
            hidden_dropout_prob=settings.get("dropout", 0.1),
            attention_probs_dropout_prob=settings.get("attention_dropout", 0.1),
            quant_mode=quantized,
            quantization=QuantConfig(scheme="reference" if quantized else "channel"),
            force_dequant=settings.get("force_dequant") or "none",
        )
    except (TypeError, ValueError) as error:
        problems.append(str(error))
        return None


def _sizes(
    tensors: Mapping[str, np.ndarray], classification_head: str | None, problems: list[str]
) -> dict[str, Any]:
    encoder = fairseq_keys.ENCODER
    wanted = {
        f"{encoder}.embed_tokens.weight": ("vocab_size", "hidden_size"),
        f"{encoder}.embed_positions.weight": ("max_position_embeddings",),
        f"{encoder}.layers.0.fc1.weight": ("intermediate_size",),
    }
    if classification_head is not None:
        wanted[f"classification_heads.{classification_head}.out_proj.weight"] = ("num_labels",)
    sizes: dict[str, Any] = {}
    for key, names in wanted.items():
        if key not in tensors or tensors[key].ndim != 2:
            problems.append(f"{key} is missing or no matrix; is this a RoBERTa of fairseq?")
        else:
            sizes |= dict(zip(names, tensors[key].shape, strict=False))
    numbers = {key.split(".")[2] for key in tensors if key.startswith(f"{encoder}.layers.")}
    layers = [int(number) for number in numbers if number.isdecimal()]  # others are named later
    return sizes | {"num_hidden_layers": max(layers, default=-1) + 1}


def _map(
    tensors: Mapping[str, np.ndarray],
    config: IBertConfig,
    head: str,
    classification_head: str | None,
    generation: fairseq_keys.Generation,
    problems: list[str],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], tuple[str, ...]]:
    """Parameters and buffers by our names, and the keys that were left behind."""
    table = fairseq_keys.tensor_table(config, head, classification_head)
    shapes = fairseq_keys.shapes(config, head)
    own = keys.backbone_parameters(config)
    if head != "model":  # fairseq has no pooler
        own |= keys.head_parameters(config, head)
    found: dict[str, np.ndarray] = {}
    left = []
    for name, tensor in tensors.items():
        if name in table:
            found |= dict.fromkeys(table[name], tensor)
        elif name == fairseq_keys.TIED and head == "masked_lm":
            _check_tied(tensor, tensors, problems)
        elif is_left_behind(name):
            left.append(name)
        else:
            problems.append(
                f"{name} is unknown for a RoBERTa with {config.num_hidden_layers} layers"
            )
    found[TOKEN_TYPES] = np.zeros(shapes[TOKEN_TYPES], np.float32)
    theirs = {ours: name for name, several in table.items() for ours in several}
    for ours, tensor in found.items():
        if tensor.shape != shapes[ours]:
            problems.append(
                f"{theirs[ours]} has shape {list(tensor.shape)}, expected {list(shapes[ours])}"
            )
        elif not np.issubdtype(tensor.dtype, np.floating) and tensor.dtype.name != "bfloat16":
            problems.append(f"{theirs[ours]} has dtype {tensor.dtype}, expected a float one")
    problems += [f"{theirs.get(ours, ours)} is missing" for ours in own if ours not in found]
    if problems:
        return {}, {}, ()
    found = {ours: tensor.astype(np.float32) for ours, tensor in found.items()}
    if config.quant_mode:
        found |= _last_range(config, found)
    parameters = {name: tensor for name, tensor in found.items() if name in own}
    buffers = {name: tensor for name, tensor in found.items() if name not in own}
    spelled = fairseq_keys.spelled(dict.fromkeys(left, np.empty(0)), generation)
    return parameters, buffers, tuple(sorted(spelled))


def _check_tied(weight: np.ndarray, tensors: Mapping[str, np.ndarray], problems: list[str]) -> None:
    if not np.array_equal(weight, tensors[f"{fairseq_keys.ENCODER}.embed_tokens.weight"]):
        problems.append(
            "lm_head.weight differs from embed_tokens.weight; only tied weights are supported"
        )


def is_left_behind(name: str) -> bool:
    """Whether it is of a head that was not chosen, or a tensor that no forward pass reads."""
    return bool(
        fairseq_keys.IDLE.fullmatch(name)
        or fairseq_keys.CLASSIFICATION_HEAD.fullmatch(name)
        or name.startswith("lm_head.")
    )


def _last_range(config: IBertConfig, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A range for the last layer's output, which fairseq hands to its heads in float.

    What LayerNorm can return at most is known from its weights.
    """
    output = f"encoder.layer.{config.num_hidden_layers - 1}.output"
    weight, bias = (found[f"{output}.LayerNorm.{name}"] for name in ("weight", "bias"))
    bounds = layer_norm_output(weight, bias)
    return {
        f"{output}.output_activation.{end}": bound.reshape(1)
        for end, bound in zip(("x_min", "x_max"), bounds, strict=True)
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m conversion.from_fairseq",
        description="fairseq's model.pt to a directory of Hugging Face I-BERT.",
    )
    parser.add_argument("checkpoint", help="model.pt")
    parser.add_argument("output", help="directory to write")
    parser.add_argument(
        "--head",
        choices=("model", "masked_lm", "sequence_classification"),
        help="default: the classification head, else the language model's, else none",
    )
    parser.add_argument("--classification-head", metavar="NAME", help="where there are several")
    parser.add_argument(
        "--attention-heads", type=int, metavar="N", help="where the file does not say"
    )
    options = parser.parse_args(arguments)
    left = convert(
        options.checkpoint,
        options.output,
        head=options.head,
        classification_head=options.classification_head,
        attention_heads=options.attention_heads,
    )
    print(f"wrote {options.output}")
    if left:
        print(f"left behind (see --like of conversion.to_fairseq): {', '.join(left)}")


if __name__ == "__main__":
    run(main)
