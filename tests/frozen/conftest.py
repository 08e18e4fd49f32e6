"""A small calibrated classifier, briefly of real size: sharp enough that logits differ."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import jax
import numpy as np
import pytest
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


def ragged(*shape: int) -> dict[str, np.ndarray]:
    """Tokens of the models in tests/data/hashes; a row is full, one has one token, one none."""
    ids = np.random.default_rng(0).integers(3, 100, shape, dtype=np.int32)
    lengths = np.resize([shape[-1], 1, 0, shape[-1] // 2], shape[:-1])
    mask = np.arange(shape[-1]) < lengths[..., None]
    return {"input_ids": np.where(mask, ids, 1), "attention_mask": mask.astype(np.int32)}


@pytest.fixture
def tiny_choices() -> ib.IntegerModel:
    """Of multiple choice, frozen."""
    config = ib.IBertConfig(
        vocab_size=100,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=20,
    )
    model = ib.IBertForMultipleChoice(config, rngs=nnx.Rngs(0))
    return ib.freeze(ib.calibrate(model, [ragged(4, 2, 8)]))


@pytest.fixture
def forget() -> Iterator[None]:
    """What was compiled with other limits serves nobody else."""
    yield
    jax.clear_caches()


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
