"""What a certificate speaks of: the domains of lemmas, every mask and id, both ends of a range."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibert_jax.integer import isqrt, layernorm, softmax, wide
from ibert_jax.proof import examine
from ibert_jax.proof.intervals import Bounded, analyze
from ibert_jax.proof.lemmas import LEMMAS

INT32 = (np.int32, -(2**31), 2**31 - 1)
DOMAINS = {  # as the kernels' docstrings have them
    wide.leading_one: [(np.uint32, 1, 2**32 - 1)],
    wide.shift_left_saturating: [INT32, (np.int32, 0, 31)],
    isqrt.isqrt: [(np.uint32, 0, 2**32 - 1)],
    softmax.iexp: [(np.int32, -30 * 2**11, 0)],
    layernorm.lift_row: [
        (np.int32, -(2**20), 2**20),
        (np.int32, 0, 7),
        (np.int32, -64, 60),
    ],  # of 8 channels
}


@pytest.mark.parametrize("kernel", DOMAINS, ids=lambda kernel: kernel.__name__)
def test_a_lemma_speaks_of_its_kernels_domain_and_of_nothing_beyond(kernel):
    domain = DOMAINS[kernel]
    shapes = [(2, 8), (2, 1), ()] if kernel is layernorm.lift_row else [(3,)] * len(domain)

    def prove(ranges):
        bounded = [Bounded(s, *r) for s, r in zip(shapes, ranges, strict=True)]
        return analyze(lambda *x: kernel(*x), *bounded, contracts=LEMMAS)

    assert prove(domain).ok
    for number, (dtype, least, most) in enumerate(domain):
        info = np.iinfo(dtype)
        for low, high in ((least - 1, most), (least, most + 1)):
            if info.min <= low and high <= info.max:
                wider = [*domain[:number], (dtype, low, high), *domain[number + 1 :]]
                assert "leaves the domain" in str(prove(wider)), (number, low, high)


def test_a_lemma_about_rows_is_not_taken_for_columns():
    """A ``vmap`` can put another axis where the lemma reads the length of a row."""
    columns = jax.vmap(lambda *x: layernorm.lift_row(*x), in_axes=(1, 1, None), out_axes=1)
    ranges = (Bounded((2, 1000), np.int32, 0, 0), Bounded((1, 1000), np.int32, 0, 990))
    proof = analyze(columns, *ranges, np.int32(-64), contracts=LEMMAS)
    assert "a fraction for each row of (2, 1000), got (1, 1000)" in str(proof)


def program_of(integers):
    """A program without arrays that computes ``integers(ids, mask)``, ids below 40."""

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Program:
        config = types.SimpleNamespace(vocab_size=40, max_sequence_length=8)

        def integers(self, input_ids, *, attention_mask):
            return integers(input_ids, attention_mask)

    return Program()


def test_what_is_proved_of_another_program_is_proved_of_its_rows_together():
    """They may mix: a sum of eight leaves int32 where none alone does."""
    program = program_of(lambda ids, mask: (ids * mask * jnp.int32(2**25)).sum(0))
    assert examine(program, 1, 8).ok
    assert "leaves int32" in str(examine(program, 8, 8).overflow.problems)


@pytest.mark.parametrize("which", ["a key left out", "a key kept", "the last id", "as it is"])
def test_a_certificate_speaks_of_every_mask_and_every_id(which):
    def wrapping(ids, mask):
        large = {
            "a key left out": 1 - mask,
            "a key kept": mask,
            "the last id": jnp.maximum(ids, 38) - 38,
            "as it is": jnp.zeros_like(ids),
        }[which]
        return large * jnp.int32(2**30) * 2

    found = examine(program_of(wrapping), 1, 4)
    assert found.ok == (which == "as it is"), found
