"""A certificate holds for an integer program, names what breaks it, and survives a file."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibert_jax.proof import Certificate, CertificateError, certify, examine, model_hash
from ibert_jax.proof.operations import FORMS


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Toy:
    """A stand-in for a frozen program: one table, one matrix, int32 logits."""

    table: np.ndarray | jax.Array
    weight: np.ndarray | jax.Array

    def activations(self, input_ids, mask):
        hidden = jnp.asarray(self.table)[input_ids]
        return jnp.where(mask[..., None] > 0, hidden, jnp.int8(0))

    def integers(self, input_ids, *, attention_mask):
        first = self.activations(input_ids, attention_mask)[:, 0]
        weight = jnp.asarray(self.weight)
        return jax.lax.dot(first, weight, preferred_element_type=jnp.int32) >> 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rounded(Toy):
    """The same with a float planted: the shift as a division."""

    def integers(self, input_ids, *, attention_mask):
        logits = super().integers(input_ids, attention_mask=attention_mask)
        return (logits.astype(jnp.float32) * 0.3).astype(jnp.int32)


def arrays(weight_type=np.int8):
    rng = np.random.default_rng(0)
    table = rng.integers(-128, 128, (50, 16), dtype=np.int8)
    return table, rng.integers(-127, 128, (16, 3)).astype(weight_type)


@pytest.fixture(scope="module")
def certificate():
    return certify(Toy(*arrays()), batch_size=2, sequence_length=8)


def test_integer_program_is_certified(certificate):
    assert certificate.ok
    certificate.raise_if_failed()
    assert certificate.float_operations == dict.fromkeys(FORMS, 0)
    assert certificate.versions["jax"] == jax.__version__
    assert certificate.platform.startswith(jax.default_backend())
    assert (certificate.batch_size, certificate.sequence_length) == (2, 8)


def test_weights_are_arguments_and_the_shape_is_the_one_asked_for(certificate):
    assert certificate.operations["jaxpr"]["input"] == 4  # two arrays, the ids, the mask
    assert certificate.operations["jaxpr"]["dot_general (int8, int8) -> int32"] == 1
    assert "constant" not in certificate.operations["jaxpr"]


def test_text_is_one_line_that_says_what_was_proved(certificate):
    text = str(certificate)
    assert "\n" not in text
    assert text.startswith("integer-only: floating-point operations in jaxpr 0/")
    assert "2 x 8 tokens" in text and certificate.model_hash[:12] in text


def test_json_round_trip(certificate):
    assert Certificate.from_json(certificate.to_json()) == certificate
    failed = examine(Rounded(*arrays()), batch_size=2, sequence_length=8)
    again = Certificate.from_json(failed.to_json())
    assert again == failed and not again.ok


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2}', '{"format": 1}', '{"format": 99}', "null"],
)
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="expected a certificate of format 2"):
        Certificate.from_json(text)


def test_certificate_with_a_missing_or_extra_field_is_refused(certificate):
    data = json.loads(certificate.to_json())
    for broken in ({**data, "colour": 3}, {k: v for k, v in data.items() if k != "operations"}):
        with pytest.raises(ValueError, match="make it again with certify"):
            Certificate.from_json(json.dumps(broken))


def test_planted_float_raises_and_is_named():
    with pytest.raises(CertificateError) as error:
        certify(Rounded(*arrays()), batch_size=2, sequence_length=8)
    assert "convert_element_type (int32) -> float32" in str(error.value)
    assert "test_certificate.py" in str(error.value)
    found = error.value.certificate
    assert not found.ok and str(found).startswith("NOT integer-only")
    assert all(found.float_operations[form] > 0 for form in FORMS)
    assert {finding.form for finding in found.findings} == set(FORMS)


@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_arrays_of_the_program_must_be_narrow_integers(kind):
    table, weight = arrays(kind)

    class Unused(Toy):
        def integers(self, input_ids, *, attention_mask):
            return self.activations(input_ids, attention_mask)

    jax.tree_util.register_dataclass(Unused, ["table", "weight"], [])
    found = examine(Unused(table, weight), batch_size=2, sequence_length=8)
    assert [f.where for f in found.findings if f.form == "arrays"] == ["program.weight"]


def test_hash_depends_on_every_bit_and_shape_but_not_on_the_container():
    table, weight = arrays()
    same = model_hash(Toy(table, weight))
    assert same == model_hash(Toy(jnp.asarray(table), jnp.asarray(weight)))
    assert same == model_hash(Toy(np.asfortranarray(table), weight))
    flipped = weight.copy()
    flipped[3, 1] ^= 1
    others = [
        model_hash(Toy(table, flipped)),
        model_hash(Toy(table.reshape(-1, 8), weight)),
        model_hash(Toy(table, weight.view(np.uint8))),
    ]
    assert len({same, *others}) == 4


@pytest.mark.parametrize(("longest", "traced"), [(48, 48), (None, 128)])
def test_by_default_as_long_as_the_model_allows(longest, traced):
    class Short(Toy):
        if longest is not None:
            config = types.SimpleNamespace(max_sequence_length=longest)

    jax.tree_util.register_dataclass(Short, ["table", "weight"], [])
    assert certify(Short(*arrays()), batch_size=1, overflow=False).sequence_length == traced
