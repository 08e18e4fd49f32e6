"""Integer programs as files that run without this package."""

from ibert_jax.deploy.bundle import export

__all__ = ["export"]
