"""Training: float finetuning, then quantization-aware finetuning, resumable."""

from ibert_jax.training.batches import Batcher
from ibert_jax.training.data import Examples, TokenizedExamples, read_examples, tokenize
from ibert_jax.training.evaluation import Accuracy, evaluate
from ibert_jax.training.loop import finetune
from ibert_jax.training.options import TrainOptions

__all__ = [
    "Accuracy",
    "Batcher",
    "Examples",
    "TokenizedExamples",
    "TrainOptions",
    "evaluate",
    "finetune",
    "read_examples",
    "tokenize",
]
