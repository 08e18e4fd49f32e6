"""Proofs about frozen programs: `certify` shows that every operation is an integer's."""

from ibert_jax.proof.census import Census, Finding, census
from ibert_jax.proof.certificate import (
    Certificate,
    CertificateError,
    certify,
    examine,
    model_hash,
)
from ibert_jax.proof.divergence import (
    Divergence,
    first_divergence,
    integer_tensors,
    plain_leaves,
)

__all__ = [
    "Census",
    "Certificate",
    "CertificateError",
    "Divergence",
    "Finding",
    "census",
    "certify",
    "examine",
    "first_divergence",
    "integer_tensors",
    "model_hash",
    "plain_leaves",
]
