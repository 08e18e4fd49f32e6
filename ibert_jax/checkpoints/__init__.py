"""PyTorch checkpoints in and out, as Hugging Face directories of safetensors; no torch."""

from ibert_jax.checkpoints.buffers import PublishedBuffers, recall, remember
from ibert_jax.checkpoints.files import CheckpointError
from ibert_jax.checkpoints.hub import locate
from ibert_jax.checkpoints.read import Checkpoint, read_checkpoint
from ibert_jax.checkpoints.write import write_checkpoint

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "PublishedBuffers",
    "locate",
    "read_checkpoint",
    "recall",
    "remember",
    "write_checkpoint",
]
