"""The float life against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import ibert_jax as ib

TOLERANCE = 2e-5
SIZES: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "initializer_range": 0.1,
    "attn_implementation": "eager",
}
FAMILIES = {
    "ibert": (transformers.IBertConfig, transformers.IBertModel, 1),
    "roberta": (transformers.RobertaConfig, transformers.RobertaModel, 1),
    "bert": (transformers.BertConfig, transformers.BertModel, 0),
}


def inputs(pad: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 120, (3, 14))
    mask = np.ones_like(ids)
    mask[1, 9:], mask[2, 1:] = 0, 0
    ids[mask == 0] = pad
    types = (np.arange(14) >= 6).astype(np.int64) * mask
    return ids, mask, types


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states(family: str, tmp_path: Path) -> None:
    kind, model_type, pad = FAMILIES[family]
    torch.manual_seed(1)
    theirs = model_type(kind(**SIZES, pad_token_id=pad)).eval()
    with torch.no_grad():  # a fresh LayerNorm and zero biases would hide mistakes
        for parameter in theirs.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    ours = ib.IBertModel.from_pretrained(tmp_path)
    ids, mask, types = inputs(pad)
    keywords = {"token_type_ids": types}
    got = ours(ids, attention_mask=mask, **keywords)
    with torch.no_grad():
        want = theirs(
            torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            **{name: torch.tensor(value) for name, value in keywords.items()},
        )
    hidden = want.last_hidden_state.numpy()
    assert np.abs(np.asarray(got.last_hidden_state) - hidden)[mask == 1].max() <= TOLERANCE
    assert np.abs(np.asarray(got.pooler_output) - want.pooler_output.numpy()).max() <= TOLERANCE


@pytest.mark.parametrize(
    ("problem", "labels", "count"),
    [
        ("single_label_classification", np.array([2, 0, 1]), 3),
        (None, np.array([2, 0, 1]), 3),
        ("regression", np.array([0.5, -1.0, 2.0], np.float32), 1),
        ("multi_label_classification", np.float32([[0, 1, 1], [1, 0, 0], [0, 0, 0]]), 3),
    ],
)
def test_classifier_logits_and_losses(
    problem: str | None, labels: np.ndarray, count: int, tmp_path: Path
) -> None:
    torch.manual_seed(2)
    config = transformers.IBertConfig(**SIZES, num_labels=count, problem_type=problem)
    theirs = transformers.IBertForSequenceClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = ib.IBertForSequenceClassification.from_pretrained(tmp_path)
    ids, mask, _ = inputs(1)
    got = ours(ids, attention_mask=mask, labels=labels)
    with torch.no_grad():
        want = theirs(
            torch.tensor(ids), attention_mask=torch.tensor(mask), labels=torch.tensor(labels)
        )
    assert np.abs(np.asarray(got.logits) - want.logits.numpy()).max() <= TOLERANCE
    assert float(got.loss) == pytest.approx(float(want.loss), rel=1e-5, abs=1e-6)


def test_gradients(tmp_path: Path) -> None:
    """Of the loss with respect to every parameter, within 1e-4 of the tensor's norm."""
    import jax
    from flax import nnx

    torch.manual_seed(3)
    theirs = transformers.IBertForSequenceClassification(
        transformers.IBertConfig(**SIZES, num_labels=3)
    ).eval()
    theirs.save_pretrained(tmp_path)
    ids, mask, _ = inputs(1)
    labels = np.array([2, 0, 1])
    theirs(
        torch.tensor(ids), attention_mask=torch.tensor(mask), labels=torch.tensor(labels)
    ).loss.backward()
    ours = ib.IBertForSequenceClassification.from_pretrained(tmp_path)
    graph, params, rest = nnx.split(ours, nnx.Param, ...)
    gradients = jax.grad(
        lambda p: nnx.merge(graph, p, rest)(ids, attention_mask=mask, labels=labels).loss
    )(params)
    named = {".".join(map(str, path)): g[...] for path, g in nnx.to_flat_state(gradients)}
    compared = 0
    for name, parameter in theirs.named_parameters():
        if parameter.grad is None:
            continue
        want = parameter.grad.numpy()
        got = np.asarray(named[name])
        assert np.abs(got - want).max() <= 1e-4 * max(np.linalg.norm(want), 1e-3), name
        compared += 1
    assert compared > 50
