"""The product by Hopper's own instructions, interpreted, where JAX can."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibert_jax.frozen.folding import fold
from ibert_jax.integer.dyadic import Folded, Multiplier, clip_bits, rescale
from ibert_jax.integer.gelu import igelu
from ibert_jax.integer.pallas_linear import MOSAIC
from ibert_jax.proof.walk_jaxpr import walk_jaxpr

if jax.__version_info__[:2] != MOSAIC:
    pytest.skip("for another version of JAX", allow_module_level=True)
params = pytest.importorskip("jax._src.pallas.mosaic_gpu.interpret.params")
hopper = pytest.importorskip("ibert_jax.integer.pallas_hopper")


def finish(x: jax.Array, constants: tuple[Folded, jax.Array, Folded]) -> jax.Array:
    """Before it is saturated."""
    entry, grid, leave = constants
    return rescale(igelu(rescale(x, entry, wide=False), grid), leave, wide=False)


@pytest.mark.parametrize(
    ("m", "k", "n"),
    [(256, 512, 512), (768, 128, 512), (512, 896, 512)],
    ids=["a tile a group", "fewer slices than slots", "more, of four tiles"],
)
def test_clusters_make_the_integers_of_the_plain_product(m: int, k: int, n: int) -> None:
    """Of two of them."""
    rng = np.random.default_rng(0)
    q = rng.integers(-128, 128, (m, k), np.int8)
    weight = rng.integers(-127, 128, (n, k), np.int8)
    bias = rng.integers(-(2**20), 2**20, n, np.int32)

    def multiplier(shift: int) -> Multiplier:
        m = rng.integers(2**14, 2**15, n, np.int32)
        return Multiplier(m, np.full(n, 1 << shift >> 1, np.int32), np.full(n, shift, np.int32))  # type: ignore[arg-type]

    entry, leave, grid = multiplier(6), multiplier(20), jnp.int32(10)
    product = q.astype(np.int64) @ weight.T.astype(np.int64) + bias
    wide = finish(jnp.asarray(product, jnp.int32), (entry, grid, leave))  # type: ignore[arg-type]
    plain = clip_bits(wide, 8)
    assert (wide > 127).any(), "some saturate"
    folded = jax.tree.map(jnp.asarray, (fold(entry, 2**31, bias), grid, fold(leave, 2**31)))
    found = hopper.hopper_linear(
        jnp.asarray(q),
        jnp.asarray(weight),
        finish,
        folded,
        multiprocessors=4,
        interpret=params.InterpretGPUParams(),
    )
    assert found.dtype == np.int8
    assert np.array_equal(found, plain)
    assert len(np.unique(plain)) > 50
    transposed = hopper.hopper_linear(
        jnp.asarray(weight),
        jnp.asarray(q),
        finish,
        folded,
        by_row=True,
        multiprocessors=4,
        interpret=params.InterpretGPUParams(),
    )
    assert np.array_equal(transposed.T, plain)


def test_every_operation_in_it_is_on_the_list() -> None:
    """And its product is of 8-bit integers."""
    rows = jnp.zeros((3, 512), jnp.int32)
    constants = Folded(*rows), jnp.int32(9), Folded(*rows)
    q, weight = jnp.zeros((256, 256), jnp.int8), jnp.zeros((512, 256), jnp.int8)
    traced = jax.make_jaxpr(lambda *x: hopper.hopper_linear(*x[:2], finish, x[2]))(
        q, weight, constants
    )
    operations = list(walk_jaxpr(traced))
    assert [(x.name, x.types) for x in operations if x.objection()] == []
    products = [x for x in operations if x.name == "wgmma_ref"]
    assert products
    assert all(x.operands.count("int8") == 2 for x in products)


@pytest.mark.parametrize(
    ("shape", "fit"),
    [
        ((16384, 768, 3072), True),
        ((16384, 768, 1536), True),
        ((16384, 768, 1152), False),  # an odd number of tiles
        ((16380, 768, 3072), False),
        ((128, 768, 3072), False),  # too few tiles for all
    ],
)
def test_what_fits(shape: tuple[int, int, int], fit: bool) -> None:
    assert hopper.fits(*shape) is fit
