"""A directory of I-BERT to fairseq's ``model.pt``.

    python -m conversion.to_fairseq DIRECTORY model.pt [--like ORIGINAL.pt]

With ``--like`` the result is the original with the tensors of DIRECTORY in the place of its own:
its generation of keys, its settings, its other heads (a language model's weight that was the word
embeddings' stays theirs). Without, which takes a masked language model, keys are those of the newer
generation and the settings are the few that define the network.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conversion import fairseq_keys
from conversion.command import run
from conversion.from_fairseq import (
    LAYER_NORM_EPS,
    PADDING,
    TOKEN_TYPES,
    is_left_behind,
    read,
)
from conversion.pickles import as_tensor, load_pickle
from ibert_jax.checkpoints import Checkpoint, CheckpointError, keys, read_checkpoint
from ibert_jax.config import IBertConfig
from ibert_jax.files import written_together

HEADS = ("model", "masked_lm", "sequence_classification")


def convert(
    directory: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    like: str | os.PathLike[str] | None = None,
    classification_head: str | None = None,
) -> None:
    """Write ``path`` as fairseq's checkpoint of a directory that ``save_pretrained`` wrote.

    Args:
        directory: Hugging Face I-BERT or RoBERTa, with a head that fairseq has, or none.
        path: of the file to write.
        like: an original of the same network, whose other tensors and settings are to be kept.
        classification_head: what to call a classifier; by default as in ``like``, or
            "sentence_classification_head".

    Raises:
        CheckpointError: what fairseq has no place for, or an original of another network; nothing
            is written.
    """
    directory, path = Path(directory), Path(path)
    checkpoint = read_checkpoint(directory)
    problems = _obstacles(checkpoint, alone=like is None)
    if problems:
        raise CheckpointError(directory, problems)
    original: dict[str, np.ndarray] = {}
    settings: dict[str, Any] = {}
    if like is not None:
        original, settings = read(Path(like), problems)
        if problems:
            raise CheckpointError(like, problems)
    name = None
    if checkpoint.head == "sequence_classification":
        name = classification_head or _name_in(original)
    tensors = _tensors(checkpoint, name, with_buffers=checkpoint.config.quant_mode or bool(like))
    generation = fairseq_keys.generation_of(original)
    state = fairseq_keys.spelled(tensors, generation)
    if like is not None:
        tied, table = (
            f"{generation.prefix}{name}"
            for name in (fairseq_keys.TIED, f"{fairseq_keys.ENCODER}.embed_tokens.weight")
        )
        if tied in original and np.array_equal(original[tied], original[table]):
            state[tied] = state[table]  # one parameter in fairseq, which reads this one last
        state = _merged(state, original, settings, Path(like), checkpoint.config)
        content = {**load_pickle(like), "model": _torch(state)}
    else:
        content = {"args": _arguments(checkpoint.config), "model": _torch(state)}
    with written_together([path]) as temporary:
        torch.save(content, temporary[path])


def _obstacles(checkpoint: Checkpoint, *, alone: bool) -> list[str]:
    """What keeps a checkpoint from becoming fairseq's; ``alone``, without an original."""
    config, problems = checkpoint.config, []
    if checkpoint.head not in HEADS:
        problems.append(f"fairseq has no head for {checkpoint.head}; it has {', '.join(HEADS)}")
    if np.any(checkpoint.tensors[TOKEN_TYPES]):
        problems.append(
            f"{TOKEN_TYPES} must be zeros, because fairseq's RoBERTa has no token types"
        )
    for name, wanted in (("pad_token_id", PADDING), ("layer_norm_eps", LAYER_NORM_EPS)):
        if getattr(config, name) != wanted:
            problems.append(
                f"{name} must be {wanted}, which fairseq takes for granted, "
                f"got {getattr(config, name)}"
            )
    if checkpoint.head != "model" and checkpoint.missing_head:  # fairseq has no pooler
        problems.append(
            f"config.json declares a head for {checkpoint.head}, but the directory lacks "
            f"{', '.join(checkpoint.missing_head)}: train that head first"
        )
    if alone and checkpoint.head != "masked_lm":
        problems.append(
            "fairseq loads nothing without a masked language model's head, and the directory has "
            f"that of {checkpoint.head}: give an original that has one (--like)"
        )
    return problems


def _name_in(original: Mapping[str, np.ndarray]) -> str:
    matches = map(fairseq_keys.CLASSIFICATION_HEAD.fullmatch, original)
    names = sorted({match[1] for match in matches if match})
    return names[0] if len(names) == 1 else "sentence_classification_head"


def _tensors(checkpoint: Checkpoint, name: str | None, with_buffers: bool) -> dict[str, np.ndarray]:
    """The tensors by fairseq names."""
    config = checkpoint.config
    ours = dict(checkpoint.tensors)
    if with_buffers:
        shapes = keys.published_ranges(config) | keys.published_buffers(config)
        kept = checkpoint.published.still_valid(checkpoint.tensors | checkpoint.ranges)
        ours |= {
            buffer: kept.get(buffer, np.full(shape, keys.buffer_value(buffer), np.float32))
            for buffer, shape in shapes.items()
        }
    table = fairseq_keys.tensor_table(config, checkpoint.head, name)
    found = {theirs: ours[several[-1]] for theirs, several in table.items() if several[-1] in ours}
    if checkpoint.head == "masked_lm":
        found[fairseq_keys.TIED] = ours["embeddings.word_embeddings.weight"]
    return found


def _merged(
    state: Mapping[str, np.ndarray],
    original: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    like: Path,
    config: IBertConfig,
) -> dict[str, np.ndarray]:
    """The original's keys, in its order and dtypes, with our tensors where there are any."""
    problems = [
        f"{name} is {settings[name]!r}, but {ours!r} in the directory"
        for name, ours in _network(config).items()
        if settings.get(name) not in (None, ours)
    ]
    problems += [
        f"{key} has shape {list(original[key].shape)}, but {list(tensor.shape)} in the directory"
        for key, tensor in state.items()
        if key in original and original[key].shape != tensor.shape
    ]
    shapes_of_parameters = (".weight", ".bias")
    problems += [
        f"{key} is missing, though the directory has it"
        for key in state
        if key not in original and key.endswith(shapes_of_parameters)
    ]
    prefix = fairseq_keys.generation_of(original).prefix
    problems += [
        f"{key} is unknown for the directory's RoBERTa with {config.num_hidden_layers} layers"
        for key in original
        if key not in state and not is_left_behind(key.removeprefix(prefix))
    ]
    if config.quant_mode and not any(key.endswith(".x_min") for key in original):
        problems.append(
            "it is a float checkpoint, without a place for the directory's ranges: give a "
            'quantized original, or set "quant_mode" to false in config.json'
        )
    if problems:
        raise CheckpointError(like, problems)
    return {
        key: state[key].astype(tensor.dtype) if key in state else tensor
        for key, tensor in original.items()
    }


def _torch(state: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {key: as_tensor(tensor) for key, tensor in state.items()}


def _network(config: IBertConfig) -> dict[str, Any]:
    """The settings that decide what is computed with the tensors."""
    settings: dict[str, Any] = {
        "encoder_layers": config.num_hidden_layers,
        "encoder_embed_dim": config.hidden_size,
        "encoder_ffn_embed_dim": config.intermediate_size,
        "encoder_attention_heads": config.num_attention_heads,
        "activation_fn": "gelu",
        "pooler_activation_fn": "tanh",
        "quant_mode": "symmetric" if config.quant_mode else "none",
    }
    return settings | ({"force_dequant": config.force_dequant} if config.quant_mode else {})


def _arguments(config: IBertConfig) -> argparse.Namespace:
    """The settings from which fairseq builds the network."""
    return argparse.Namespace(
        arch="roberta",
        task="masked_lm",
        max_positions=config.max_position_embeddings - PADDING - 1,
        dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
        activation_dropout=0.0,
        pooler_dropout=0.0,
        **_network(config),
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m conversion.to_fairseq",
        description="A directory of Hugging Face I-BERT to fairseq's model.pt.",
    )
    parser.add_argument("directory", help="config.json and model.safetensors")
    parser.add_argument("checkpoint", help="model.pt, to write")
    parser.add_argument(
        "--like", metavar="ORIGINAL", help="a model.pt whose settings and other tensors to keep"
    )
    parser.add_argument("--classification-head", metavar="NAME", help="what to call a classifier")
    options = parser.parse_args(arguments)
    convert(
        options.directory,
        options.checkpoint,
        like=options.like,
        classification_head=options.classification_head,
    )
    print(f"wrote {options.checkpoint}")


if __name__ == "__main__":
    run(main)
