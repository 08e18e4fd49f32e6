"""A small calibrated classifier, briefly of real size: sharp enough that logits differ."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from flax import nnx

import ibert_jax as ib


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
        "num_hidden_layers": 2,
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


@pytest.fixture(scope="session")
def models() -> Callable[[str], tuple[ib.IBertForSequenceClassification, ib.IntegerModel]]:
    """scheme -> (calibrated model, its program), made once."""
    made: dict[str, tuple[ib.IBertForSequenceClassification, ib.IntegerModel]] = {}

    def get(scheme: str) -> tuple[ib.IBertForSequenceClassification, ib.IntegerModel]:
        if scheme not in made:
            model = ib.calibrate(make(scheme), [inputs(8, 20, seed) for seed in range(2)])
            made[scheme] = model, ib.freeze(model)
        return made[scheme]

    return get
