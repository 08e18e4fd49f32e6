"""PyTorch checkpoints in and out, as Hugging Face directories of safetensors; no torch."""

from ibert_jax.checkpoints.files import CheckpointError
from ibert_jax.checkpoints.read import Checkpoint, read_checkpoint
from ibert_jax.checkpoints.write import write_checkpoint

__all__ = ["Checkpoint", "CheckpointError", "read_checkpoint", "write_checkpoint"]
