"""A small calibrated classifier, briefly of real size: sharp enough that logits differ."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
from flax import nnx

import ibert_jax as ib
from ibert_jax.quantize.tensor import QuantizedTensor


def inputs(batch: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tokens, rows of different lengths, padded with 1; the first row is full."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, 200, (batch, length))
    mask = np.arange(length)[None] < rng.integers(1, length + 1, batch)[:, None]
    mask[0] = True
    return {"input_ids": np.where(mask, ids, 1), "attention_mask": mask.astype(np.int32)}


def make(scheme: str, spread: float = 0.1, **sizes: int) -> ib.IBertForSequenceClassification:
    values = {
        "vocab_size": 200,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 140,
        **sizes,
    }
    config = ib.IBertConfig(
        **values,
        initializer_range=spread,
        num_labels=3,
        quantization=ib.QuantConfig(scheme=scheme),
    )
    return ib.IBertForSequenceClassification(config, rngs=nnx.Rngs(0))


@dataclasses.dataclass(frozen=True)
class Case:
    """A calibrated model, its program, a batch, and the model's own integers for it."""

    model: ib.IBertForSequenceClassification
    program: ib.IntegerModel
    batch: dict[str, np.ndarray]
    simulated: QuantizedTensor


@functools.cache
def case(scheme: str) -> Case:
    """Made once a process: each compilation of a quantization-aware pass takes seconds."""
    model = ib.calibrate(make(scheme), [inputs(9, 24, seed) for seed in range(2)])
    batch = inputs(9, 24, 5)
    batch["attention_mask"][4] = 0  # a row without a token
    simulated = jax.jit(lambda m, **b: m(**b).logits)(model, **batch)
    return Case(model, ib.freeze(model), batch, simulated)
