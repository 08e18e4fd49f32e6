"""The overflow proof of real programs, and what it says of broken ones.

A mutation is planted where a mistake would be made: in a kernel, or in a program's constants.
The proof must name the operation that then leaves its type, at the kernel's own line.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ibert_jax as ib
from ibert_jax.frozen.network import integer_leaves, put_leaf
from ibert_jax.integer import gelu, layernorm, softmax, wide
from ibert_jax.proof import CertificateError
from ibert_jax.proof.certificate import examine
from ibert_jax.proof.intervals import Bounded, analyze
from ibert_jax.proof.lemmas import LEMMAS

SHAPE = {"batch_size": 1, "sequence_length": 8}
CHANNELS = 64


@pytest.fixture(scope="module", params=["channel", "reference"])
def program(request):
    config = ib.IBertConfig(
        vocab_size=40, hidden_size=CHANNELS, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=96, max_position_embeddings=20, initializer_range=0.5,
        quantization=ib.QuantConfig(scheme=request.param),
    )  # fmt: skip
    model = ib.IBertForSequenceClassification(config, rngs=nnx.Rngs(0))
    ids = np.arange(3, 35, dtype=np.int32).reshape(4, 8)
    return ib.freeze(ib.calibrate(model, [{"input_ids": ids}]))


def prove(program):
    """The proof of the program as it would be traced now."""
    jax.clear_caches()
    config = program.config
    shape = (1, config.max_sequence_length)
    ids = Bounded(shape, np.int32, 0, config.vocab_size - 1)
    mask = Bounded(shape, np.int32, 0, 1)
    proof = analyze(
        lambda p, ids, mask: p.integers(ids, attention_mask=mask),
        program, ids, mask, contracts=LEMMAS,
    )  # fmt: skip
    jax.clear_caches()
    return proof


def test_a_frozen_program_is_proved(program):
    proof = prove(program)
    assert proof.problems == ()
    assert set(proof.contracts) == {lemma.name for lemma in LEMMAS}
    names = {tensor.name: tensor for tensor in proof.tensors}
    for layer in (0, 1):
        path = f"ibert.encoder.layer.{layer}"
        assert (names[f"{path}.attention.self.query_activation"].lo) == -128
        assert names[f"{path}.attention.self.softmax[0]"].bits == 8
        largest = layernorm.largest_result(CHANNELS)
        assert names[f"{path}.output.LayerNorm"].hi == largest < 2**18
    asserting = [clip for clip in proof.clips if clip.asserting]
    assert asserting and all("LayerNorm" in clip.where for clip in asserting)
    assert any(not clip.asserting and clip.acts for clip in proof.clips)


def test_the_ranges_hold_on_what_the_program_computes(program):
    """Every integer of a run lies in the range that was proved for its leaf."""
    ids = np.random.default_rng(0).integers(0, 40, (16, 8))
    mask = np.arange(8)[None, :] < np.arange(1, 17)[:, None]
    tensors = ib.proof.integer_tensors(program, ids, attention_mask=mask.astype(np.int32))
    proved = {tensor.name.replace("[0]", ""): tensor for tensor in prove(program).tensors}
    seen = 0
    for path, values in tensors.items():
        tensor = proved.get(path.replace(".row_sum", "[1]"))
        assert tensor is not None, path
        assert tensor.lo <= values.min() and values.max() <= tensor.hi, path
        seen += 1
    assert seen > 40


def named(proof, operation, place):
    """Whether a problem names the operation at the place, with the range that leaves int32."""
    return any(
        problem.operation == operation and place in problem.where and "leaves int32" in str(problem)
        for problem in proof.problems
    )


def one_bit_more(n, reciprocal=softmax._reciprocal):
    """Row sums' reciprocals of 16 bits, where the product has room for 15."""
    shift, m = reciprocal(n)
    return shift, m << 1


def test_a_width_one_bit_too_small_is_named(program, monkeypatch):
    monkeypatch.setattr(softmax, "_reciprocal", one_bit_more)
    proof = prove(program)
    assert named(proof, "shift_left", "multiply_high_15")
    assert any("attention.self.context" in problem.where for problem in proof.problems)


def test_a_multiplier_doubled_is_named(program):
    """One channel's requantization constant, 15 bits, doubled in the frozen program."""

    def double(path, leaf):
        if path.endswith("query_activation"):
            multipliers = tuple(dataclasses.replace(m, m=m.m * 2) for m in leaf.multipliers)
            return dataclasses.replace(leaf, multipliers=multipliers)
        return leaf

    network = program.network
    for path, leaf in integer_leaves(network).items():
        put_leaf(network, path, nnx.data(double(path, leaf)))
    doubled = type(program).of(network, program.config, dict(program.scales))
    proof = prove(doubled)
    assert named(proof, "shift_left", "multiply_high_15")
    assert all("query_activation" in problem.where for problem in proof.problems)


def igelu_without_its_last_shift(q, k):
    """The kernel of integer/gelu.py, but erf keeps the 16 fractional bits of its curvature."""
    threshold = (gelu.THRESHOLD + ((1 << (gelu.FINEST - k)) >> 1)) >> (gelu.FINEST - k)
    u = threshold - jnp.minimum(jnp.abs(q), threshold)
    w = (u * u + (1 << (2 * k - 14))) >> (2 * k - 13)
    erf = 2**14 - (w * gelu.CURVATURE + 2**15)
    return q * (2**14 + jnp.where(q < 0, -erf, erf))


def test_a_shift_dropped_is_named(program, monkeypatch):
    monkeypatch.setattr("ibert_jax.layers.gelu.igelu", igelu_without_its_last_shift)
    assert named(prove(program), "mul", "igelu_without_its_last_shift")


def test_a_product_kept_in_32_bits_is_named(program, monkeypatch):
    monkeypatch.setattr("ibert_jax.integer.dyadic.multiply_high_15", lambda x, m: (x * m) >> 16)
    assert named(prove(program), "mul", "test_overflow.py")


def test_a_caller_that_leaves_a_lemmas_domain_is_named(program, monkeypatch):
    """LayerNorm fed a row of 22 bits: lift_row speaks of 20."""
    normalize = layernorm.normalize

    def louder(x, *eps):
        return normalize(x << 2, *eps)

    monkeypatch.setattr("ibert_jax.layers.layernorm.normalize", louder)
    problems = [str(problem) for problem in prove(program).problems]
    assert any("leaves the domain" in p and "contract lift_row" in p for p in problems)


def test_a_namesake_is_not_taken_at_a_lemmas_word():
    @jax.jit
    def isqrt(n):
        return n * jnp.uint32(2**16)

    proof = analyze(isqrt, Bounded((3,), np.uint32, 0, 2**20), contracts=LEMMAS)
    assert "leaves uint32" in str(proof) and proof.contracts == {}


def test_certify_raises_with_the_operation_and_its_range(program, monkeypatch):
    monkeypatch.setattr(softmax, "_reciprocal", one_bit_more)
    jax.clear_caches()
    with pytest.raises(
        CertificateError, match=r"expected no overflow, got shift_left at .*wide\.py.* in \["
    ):
        ib.certify(program, **SHAPE)
    jax.clear_caches()


def test_a_certificate_tells_all_and_comes_back_from_json(program, tmp_path):
    ids = np.arange(3, 35, dtype=np.int32).reshape(4, 8)
    certificate = examine(program, **SHAPE, batches=[{"input_ids": ids}])
    assert certificate.ok and certificate.overflow.sequence_length == 18
    assert "no overflow" in str(certificate)
    assert "ibert.encoder.layer.1.attention.self.query_activation" in certificate.saturation
    shares = certificate.saturation.values()
    assert 0 < max(shares) < 0.5  # the ends are reached, and by few (or where tanh is flat)
    assert type(certificate).from_json(certificate.to_json()) == certificate
    program.save(tmp_path, certificate)
    assert ib.IntegerModel.load(tmp_path).sha256() == certificate.model_hash
    program.save(tmp_path)  # without: the old one goes
    assert not (tmp_path / "certificate.json").exists()


def test_an_altered_model_is_refused_beside_its_certificate(program, tmp_path):
    program.save(tmp_path, examine(program, **SHAPE, overflow=False))
    manifest = tmp_path / "integer_model.json"
    text = manifest.read_text()
    assert '"bits": 20' in text
    manifest.write_text(text.replace('"bits": 20', '"bits": 19', 1))
    with pytest.raises(ValueError, match="altered after it was certified"):
        ib.IntegerModel.load(tmp_path)
    manifest.write_text(text)
    other = dataclasses.replace(examine(program, **SHAPE, overflow=False), model_hash="0" * 64)
    with pytest.raises(ValueError, match="expected the certificate of this model"):
        program.save(tmp_path, other)


def test_lemma_of_leading_one():
    edges = [2**k + d for k in range(32) for d in (-1, 0, 1) if 1 <= 2**k + d < 2**32]
    n = np.array([*edges, 1, 2**32 - 1], np.uint32)
    top, zeros = wide.leading_one(jnp.asarray(n))
    for value, shifted, count in zip(n.tolist(), top.tolist(), zeros.tolist(), strict=True):
        assert count == 32 - value.bit_length()
        assert shifted == value << count and 2**31 <= shifted < 2**32


def test_lemma_of_shift_left_saturating():
    x = np.array([0, 1, -1, 5, 2**29, 2**30, 2**31 - 1, -(2**31)], np.int64)
    for shift in range(32):
        limit = 2**30 >> shift
        expected = np.clip(x, -limit, limit) << shift
        found = wide.shift_left_saturating(jnp.asarray(x, jnp.int32), jnp.int32(shift))
        assert found.tolist() == expected.tolist()
        assert np.abs(found).max() <= 2**30


@pytest.mark.parametrize("channels", [1, 2, 3, 16, 384, 768, 1024, 4095])
def test_lemmas_of_layernorm(channels):
    """Rows chosen to reach the bounds: one loud channel, halves against halves, single steps."""
    draw = np.random.default_rng(channels)
    rows = [np.zeros(channels, np.int64) for _ in range(8)]
    for row, loud in zip(rows, (2**19 - 1, -(2**19), 1, -1, 3, 2**14, 2**15, 12345), strict=True):
        row[draw.integers(channels)] = loud
    rows += [np.where(np.arange(channels) % 2, 2**19 - 1, -(2**19))]
    rows += [draw.integers(-(2**k), 2**k, channels) for k in range(1, 20, 3)]
    x = np.stack(rows)
    total = x.sum(axis=1, keepdims=True)
    centred, fraction = x - total // channels, total % channels
    y, shift = layernorm.lift_row(
        jnp.asarray(centred, jnp.int32), jnp.asarray(fraction, jnp.int32), jnp.int32(-64)
    )
    assert np.abs(y).max() <= 2**15 and np.min(shift) >= -31 and np.max(shift) <= 15
    result = layernorm.normalize(jnp.asarray(x, jnp.int32), jnp.int32(0), jnp.int32(-64))
    largest = layernorm.largest_result(channels)
    assert np.abs(result).max() < largest  # the clip at the lemma's bound does not act
    if channels > 16:
        assert np.abs(result).max() > 0.99 * largest  # and there is no room to lower it
