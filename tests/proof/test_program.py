"""The certificate of a real frozen program, and of the same program with floats planted inside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ibert_jax as ib
from ibert_jax.proof import CertificateError
from ibert_jax.proof.operations import FORMS, HLO, JAXPR, STABLEHLO

SHAPE = {"batch_size": 2, "sequence_length": 8}


@pytest.fixture(scope="module")
def program():
    config = ib.IBertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=20,
    )  # fmt: skip
    model = ib.IBertForSequenceClassification(config, rngs=nnx.Rngs(0))
    ids = np.arange(3, 35, dtype=np.int32).reshape(4, 8)
    return ib.freeze(ib.calibrate(model, [{"input_ids": ids, "attention_mask": ids // ids}]))


def test_frozen_program_is_certified(program, vectorized):
    certificate = ib.certify(program, **SHAPE)
    assert certificate.float_operations == dict.fromkeys(FORMS, 0)
    products = [kind for kind in certificate.operations[HLO] if kind.startswith("dot ")]
    assert f"dot ({'uint8' if vectorized else 'int8'}, int8) -> int32" in products
    assert certificate.operations[JAXPR]["dot_u8_s8 (uint8, int8, int32) -> int32"] >= 6


def test_floats_planted_in_a_kernel_are_named(program, monkeypatch):
    from ibert_jax.layers import gelu

    kernel = gelu.igelu

    def planted(q, k):
        x = q.astype(jnp.float32) + jnp.float32(0.5)
        return kernel(jnp.sqrt(jnp.abs(x)).astype(jnp.int32), k)

    monkeypatch.setattr(gelu, "igelu", planted)
    jax.clear_caches()  # what was traced without the plant
    with pytest.raises(CertificateError) as error:
        ib.certify(program, **SHAPE)
    jax.clear_caches()  # and with it
    assert "convert_element_type (int32) -> float32" in str(error.value)
    assert "test_program.py" in str(error.value)
    findings = error.value.certificate.findings
    names = {
        form: {f.operation.removeprefix("stablehlo.") for f in findings if f.form == form}
        for form in FORMS
    }
    assert {"convert_element_type", "add", "sqrt"} <= names[JAXPR]
    assert {"convert", "add", "sqrt", "constant"} <= names[STABLEHLO]
    assert {"convert", "add", "sqrt"} <= names[HLO]
