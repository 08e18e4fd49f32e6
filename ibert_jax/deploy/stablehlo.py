"""A program as StableHLO, which JAX runs by itself."""

from __future__ import annotations

import jax
from jax import export

from ibert_jax.deploy.signature import Signature

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def to_stablehlo(signature: Signature) -> bytes:
    """The serialized program, for ``jax.export.deserialize``.

    It holds the fast form for each of ``PLATFORMS``, of which JAX chooses where it runs; large
    matrices lie as they do on the platform that exports (``models.layer_stack``). For CPUs its
    products are those that are fast on the processor that exports (``integer.mixed``): export for
    processors without AVX-512's VNNI on one of them, or under ``XLA_FLAGS=--xla_cpu_max_isa=AVX2``.
    Each shape of the arguments is compiled when it first comes.

    Raises:
        ModuleNotFoundError: flatbuffers, with which JAX writes and reads such files, is missing.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(
            f"expected the package flatbuffers, with which JAX writes such files ({error}); "
            'pip install "ibert_jax[export]"'
        ) from None
    exported = export.export(jax.jit(signature.function), platforms=PLATFORMS)(
        *signature.abstract()
    )
    return bytes(exported.serialize())
