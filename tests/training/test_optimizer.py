"""The schedule, what decays, clipping: against formulas and optax."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ibert_jax.config import IBertConfig
from ibert_jax.layers.layernorm import IntLayerNorm
from ibert_jax.models import IBertForMaskedLM, IBertForSequenceClassification
from ibert_jax.training.optimizer import (
    check_rate_factors,
    clip_by_global_norm,
    decays,
    global_norm,
    make_optimizer,
    warmup_linear_decay,
)
from ibert_jax.training.state import take_apart


def test_schedule() -> None:
    rate = warmup_linear_decay(4.0, 10, 4)
    found = [float(np.asarray(rate(step))) for step in range(12)]
    expected = [1, 2, 3, 4, 4, 4 * 5 / 6, 4 * 4 / 6, 4 * 3 / 6, 4 * 2 / 6, 4 / 6, 0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_schedule_without_warmup() -> None:
    rate = warmup_linear_decay(1.0, 4, 0)
    np.testing.assert_allclose([float(np.asarray(rate(i))) for i in range(4)], [1, 0.75, 0.5, 0.25])


def test_biases_and_layernorm_do_not_decay() -> None:
    config = IBertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=9,
    )  # fmt: skip
    params, _ = take_apart(IBertForSequenceClassification(config, rngs=nnx.Rngs(0)), copy=False)
    assert {params[name].ndim for name in params if decays(name)} == {2}
    assert {params[name].ndim for name in params if not decays(name)} == {1}


def make_tree(scale: float) -> dict[str, jax.Array]:
    random = np.random.default_rng(0)
    return {
        "a.weight": jnp.asarray(scale * random.standard_normal((7, 5)), jnp.float32),
        "a.bias": jnp.asarray(scale * random.standard_normal(5), jnp.float32),
        "b.LayerNorm.weight": jnp.asarray(scale * random.standard_normal(3), jnp.float32),
    }


@pytest.mark.parametrize("scale", [0.01, 10.0])
def test_clipping_is_optax(scale: float) -> None:
    tree = make_tree(scale)
    mine: Any
    theirs: Any
    mine, _ = clip_by_global_norm(1.0).update(tree, optax.EmptyState())
    theirs, _ = optax.clip_by_global_norm(1.0).update(tree, optax.EmptyState())
    for name in tree:
        np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-6)
    np.testing.assert_allclose(global_norm(tree), optax.tree.norm(tree), rtol=1e-6)


def test_zero_gradients_stay_zero() -> None:
    zeros = jax.tree.map(jnp.zeros_like, make_tree(1.0))
    clipped, _ = clip_by_global_norm(1.0).update(zeros, optax.EmptyState())
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(clipped))


def test_weight_decay_moves_weights_only() -> None:
    params = make_tree(1.0)
    optimizer = make_optimizer(lambda step: 0.5, weight_decay=0.1, clip_norm=1.0)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates: Any
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_allclose(updates["a.weight"], -0.05 * params["a.weight"], rtol=1e-6)
    assert not np.asarray(updates["a.bias"]).any()
    assert not np.asarray(updates["b.LayerNorm.weight"]).any()


def test_rate_factors_scale_updates() -> None:
    params = make_tree(1.0)
    factors = (("*", 0.5), ("b.*", 0.0))

    def updates(factors: Any) -> Any:
        optimizer = make_optimizer(
            lambda step: 0.5, weight_decay=0.1, clip_norm=1.0, rate_factors=factors
        )
        return optimizer.update(make_tree(0.1), optimizer.init(params), params)[0]

    mine, theirs = updates(factors), updates(())
    np.testing.assert_array_equal(mine["a.weight"], 0.5 * theirs["a.weight"])
    assert not np.asarray(mine["b.LayerNorm.weight"]).any()
    check_rate_factors(["ibert.a.weight"], [("a.*", 2.0)])
    with pytest.raises(ValueError, match=r"'c\.\*' matches no parameter; the first .* 'a.weight'"):
        check_rate_factors(params, [("a.*", 2.0), ("c.*", 2.0)])


def test_no_layernorm_decays() -> None:
    config = IBertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=8,
    )  # fmt: skip
    model = IBertForMaskedLM(config, rngs=nnx.Rngs(0))
    norms = [path for path, leaf in model.leaves().items() if isinstance(leaf, IntLayerNorm)]
    assert len(norms) == 4
    assert not any(decays(f"{path}.weight") for path in norms)
    assert decays("lm_head.dense.weight")


@pytest.mark.parametrize(
    "wrong",
    [{"clip_norm": -1.0}, {"clip_norm": 0.0}, {"weight_decay": -0.1}, {"weight_decay": "0.1"}],
)
def test_what_would_train_uphill_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a number"):
        make_optimizer(lambda step: 0.5, **{"weight_decay": 0.1, "clip_norm": 1.0, **wrong})
