"""Proofs about frozen programs: `certify` shows that every operation is an integer's."""

from ibert_jax.proof.census import Census, Finding, census
from ibert_jax.proof.certificate import (
    Certificate,
    CertificateError,
    certify,
    examine,
    model_hash,
)

__all__ = [
    "Census",
    "Certificate",
    "CertificateError",
    "Finding",
    "census",
    "certify",
    "examine",
    "model_hash",
]
