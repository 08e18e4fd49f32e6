"""AdamW with warm-up, linear decay and gradient clipping, as BERT is finetuned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ibert_jax.settings import number_problem, raise_if_any

_BACKBONE = "ibert."
RateFactors = Iterable[tuple[str, float]]
"""Glob pattern of parameters' names (without `ibert.`) -> factor of their learning rate."""


def warmup_linear_decay(peak: float, steps: int, warmup: int) -> optax.Schedule:
    """A rate that rises linearly over `warmup` steps to `peak` and falls linearly to 0 at `steps`.

    The first step (count 0) already moves: peak / warmup, where some recipes waste it on 0.
    """

    def rate(count: jax.typing.ArrayLike) -> jax.Array:
        done = jnp.asarray(count, jnp.float32)
        rising = (done + 1) / max(warmup, 1)
        falling = (steps - done) / max(steps - warmup, 1)
        return peak * jnp.clip(jnp.minimum(rising, falling), 0.0, 1.0)

    return rate


def decays(name: str) -> bool:
    """Whether weight decay applies to a parameter: not to biases, nor to LayerNorm."""
    path = name.split(".")
    return path[-1] != "bias" and not {"LayerNorm", "layer_norm"} & {*path}


def global_norm(tree: object) -> jax.Array:
    """The Euclidean norm of all elements together, float32.

    Columns are summed first: a sum over everything at once is a chain of dependent additions, which
    no CPU vectorizes.
    """

    def squares(x: jax.Array) -> jax.Array:
        rows = x.reshape(-1, x.shape[-1]) if x.ndim else x.reshape(1, 1)
        return jnp.sum(jnp.sum(rows * rows, axis=0))

    return jnp.sqrt(sum((squares(x) for x in jax.tree.leaves(tree)), jnp.float32(0)))


def clip_by_global_norm(largest: float) -> optax.GradientTransformation:
    """Scale gradients down to a global norm of `largest`; smaller ones pass unchanged.

    One multiplication, which XLA fuses into the Adam update.
    """

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        del params  # every transformation is offered them
        factor = jnp.minimum(1.0, largest / jnp.maximum(global_norm(updates), 1e-30))
        return jax.tree.map(lambda x: x * factor, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def rate_factor(name: str, factors: RateFactors) -> float:
    """The factor of a parameter's learning rate: that of the last pattern which matches, or 1."""
    found = 1.0
    for pattern, factor in factors:
        if fnmatchcase(name.removeprefix(_BACKBONE), pattern):
            found = float(factor)
    return found


def check_rate_factors(names: Iterable[str], factors: RateFactors) -> None:
    """Refuse patterns that match no parameter, with a ValueError that names one that exists."""
    short = [name.removeprefix(_BACKBONE) for name in names]
    for pattern, _ in factors:
        if not any(fnmatchcase(name, pattern) for name in short):
            raise ValueError(
                f"rate_factors: {pattern!r} matches no parameter; the first of them is "
                f"{short[0]!r}, the last {short[-1]!r}"
            )


def make_optimizer(
    schedule: optax.Schedule,
    *,
    weight_decay: float,
    clip_norm: float,
    rate_factors: RateFactors = (),
) -> optax.GradientTransformation:
    """Clipping, then AdamW (betas 0.9 and 0.999, epsilon 1e-8) for a dict of named parameters.

    rate_factors: (pattern of names, factor of their learning rate); the decay scales along.

    Raises ValueError for a weight decay below 0, a norm that is not above 0, or a factor below 0.
    """
    factors = list(rate_factors)
    tiny = math.nextafter(0, 1)
    problems = [
        number_problem("weight_decay", weight_decay, 0, math.inf, float),
        number_problem("clip_norm", clip_norm, tiny, math.inf, float),
        *(number_problem(f"the factor of {k!r}", v, 0, math.inf, float) for k, v in factors),
    ]
    raise_if_any("make_optimizer", problems)

    def mask(params: Mapping[str, jax.Array]) -> dict[str, bool]:
        return {name: decays(name) for name in params}

    def scaled(updates: Any) -> dict[str, jax.Array]:
        return {name: x * rate_factor(name, factors) for name, x in updates.items()}

    chain = optax.chain(
        clip_by_global_norm(clip_norm),
        optax.adamw(schedule, weight_decay=weight_decay, mask=mask),
        *([optax.stateless(lambda updates, params: scaled(updates))] if factors else []),
    )

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        # optax raises a Python float to an int32 count, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            return chain.update(updates, state, params)

    return optax.GradientTransformation(chain.init, update)
