"""Training: float finetuning, then quantization-aware finetuning, resumable, of every task."""

from ibert_jax.training.batches import Batch, Batcher
from ibert_jax.training.evaluation import Evaluation, difference_error, evaluate
from ibert_jax.training.examples import read_examples
from ibert_jax.training.features import TokenizedExamples, tokenize
from ibert_jax.training.kinds import KINDS, Kind
from ibert_jax.training.loop import finetune
from ibert_jax.training.optimizer import make_optimizer, warmup_linear_decay
from ibert_jax.training.options import TrainOptions
from ibert_jax.training.prepare import batches_of, task_of
from ibert_jax.training.sharding import Sharing
from ibert_jax.training.state import Skeleton, TrainState, take_apart
from ibert_jax.training.step import dropout_key, initial_state, make_train_step
from ibert_jax.training.sweeping import sweep
from ibert_jax.training.tasks import Task, built_in_tasks, load_task

__all__ = [
    "KINDS",
    "Batch",
    "Batcher",
    "Evaluation",
    "Kind",
    "Sharing",
    "Skeleton",
    "Task",
    "TokenizedExamples",
    "TrainOptions",
    "TrainState",
    "batches_of",
    "built_in_tasks",
    "difference_error",
    "dropout_key",
    "evaluate",
    "finetune",
    "initial_state",
    "load_task",
    "make_optimizer",
    "make_train_step",
    "read_examples",
    "sweep",
    "take_apart",
    "task_of",
    "tokenize",
    "warmup_linear_decay",
]
