"""Training: float finetuning, then quantization-aware finetuning, resumable, of every task."""

from ibert_jax.training.batches import Batch, Batcher
from ibert_jax.training.evaluation import Evaluation, evaluate
from ibert_jax.training.examples import read_examples
from ibert_jax.training.features import TokenizedExamples, tokenize
from ibert_jax.training.kinds import KINDS, Kind
from ibert_jax.training.loop import finetune
from ibert_jax.training.options import TrainOptions
from ibert_jax.training.prepare import batches_of, task_of
from ibert_jax.training.sweeping import sweep
from ibert_jax.training.tasks import Task, built_in_tasks, load_task

__all__ = [
    "KINDS",
    "Batch",
    "Batcher",
    "Evaluation",
    "Kind",
    "Task",
    "TokenizedExamples",
    "TrainOptions",
    "batches_of",
    "built_in_tasks",
    "evaluate",
    "finetune",
    "load_task",
    "read_examples",
    "sweep",
    "task_of",
    "tokenize",
]
