"""transformers' models as oracles: made small and random, run, differentiated."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers

FAMILIES = ("IBert", "Roberta", "Bert")
HEADS = (
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)
SMALL: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "type_vocab_size": 2,
    "initializer_range": 0.2,
    "attn_implementation": "eager",
}


def make(family: str, task: str, seed: int = 0, **settings: Any) -> Any:
    """A random model in evaluation; biases and normalizations are random, too."""
    config = getattr(transformers, f"{family}Config")(**{**SMALL, **settings})
    torch.manual_seed(seed)
    model = getattr(transformers, f"{family}{task}")(config).eval()
    with torch.no_grad():  # zero biases and unit weights would hide mistakes
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def our_inputs(
    rng: np.random.Generator, *, vocab: int, batch: int, length: int, pad: int = 1, types: int = 2
) -> dict[str, np.ndarray]:
    """Random tokens, rows of different lengths (the first is full), random token types."""
    mask = np.arange(length)[None] < rng.integers(1, length + 1, batch)[:, None]
    mask[0] = True
    ids = rng.integers(3, vocab, (batch, length))
    return {
        "input_ids": np.where(mask, ids, pad),
        "attention_mask": mask.astype(np.int64),
        "token_type_ids": rng.integers(0, types, (batch, length)) * mask,
    }


def as_torch(arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        name: torch.tensor(value) if isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }


def run_torch(model: Any, arguments: dict[str, Any]) -> dict[str, np.ndarray]:
    """The outputs by name, without gradients; hidden states and attentions stacked."""
    with torch.no_grad():
        outputs = model(**as_torch(arguments))
    return {
        name: np.stack([x.numpy() for x in value]) if isinstance(value, tuple) else value.numpy()
        for name, value in outputs.items()
    }
