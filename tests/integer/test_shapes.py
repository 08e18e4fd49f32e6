"""Kernels against the specification on shapes and edges that hypothesis chooses.

Few examples: each new shape is compiled.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ibert_jax import spec
from ibert_jax.integer.dyadic import Multiplier
from ibert_jax.integer.layernorm import normalize
from ibert_jax.integer.matmul import int8_linear, shift_bias
from ibert_jax.integer.softmax import softmax_numerators, softmax_reference

FEW = settings(deadline=None, max_examples=6)
ENDS = (-(2**19), -(2**19) + 1, -1, 0, 1, 2**19 - 1)


@FEW
@given(
    row=st.lists(st.one_of(st.sampled_from(ENDS), st.integers(-(2**19), 2**19 - 1)), min_size=1),
    eps=st.one_of(
        st.just((0, -64)), st.tuples(st.integers(2**30, 2**31 - 1), st.integers(-64, 60))
    ),
)
def test_layernorm_of_any_row(row: list[int], eps: tuple[int, int]) -> None:
    got = normalize(jnp.asarray([row], jnp.int32), jnp.int32(eps[0]), jnp.int32(eps[1]))
    assert got[0].tolist() == spec.layernorm(row, eps)


@FEW
@given(
    keys=st.lists(st.tuples(st.integers(1 - 2**30, 2**30 - 1), st.booleans()), min_size=1),
    exponent=st.integers(-40, 8),
)
def test_softmax_of_any_row(keys: list[tuple[int, bool]], exponent: int) -> None:
    """Scores anywhere, any mask (none kept, too), and steps from far below the grid to above."""
    scores, mask = ([key[i] for key in keys] for i in (0, 1))
    constants = spec.multiplier(2.0**exponent, 1.0, wide=False)
    arrays = (
        jnp.asarray(scores, jnp.int32).reshape(1, 1, 1, -1),
        jnp.asarray(mask).reshape(1, 1, 1, -1),
        Multiplier(*(jnp.int32(c) for c in constants)),
    )
    for kernel in (softmax_numerators, softmax_reference):
        numerators, row_sum = kernel(*arrays)
        want = getattr(spec, kernel.__name__)(scores, mask, constants)
        assert (numerators.ravel().tolist(), int(row_sum[0, 0, 0, 0])) == want


@FEW
@given(
    batch=st.lists(st.integers(0, 3), max_size=2),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 9),
    seed=st.integers(0, 2**31),
)
def test_linear_of_any_shape(batch: list[int], inputs: int, outputs: int, seed: int) -> None:
    """Any leading dimensions, empty ones too; values mostly at the ends of int8."""
    rng = np.random.default_rng(seed)
    q = rng.choice([-128, -127, 127, 0, 5], (*batch, inputs))
    weight, bias = rng.choice([-127, 127, 0], (outputs, inputs)), rng.choice([-1, 1], outputs) << 30
    arrays = jnp.asarray(weight, jnp.int8), jnp.asarray(bias, jnp.int32)
    got = int8_linear(jnp.asarray(q, jnp.int8), *arrays, shift_bias(*arrays))
    assert got.shape == (*batch, outputs)
    want = [spec.linear(r, weight.tolist(), bias.tolist()) for r in q.reshape(-1, inputs).tolist()]
    assert got.reshape(-1, outputs).tolist() == want
