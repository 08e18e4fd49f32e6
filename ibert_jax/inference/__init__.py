"""Text in, answers out."""

from ibert_jax.inference.batches import BatchPredictor
from ibert_jax.inference.job import predict_file
from ibert_jax.inference.journal import Progress
from ibert_jax.inference.loading import default_directory, load_classifier, load_model
from ibert_jax.inference.predictor import TASKS, Predictor, Statistics, task_for
from ibert_jax.inference.results import (
    Answer,
    Candidate,
    Choice,
    Embedding,
    Entities,
    Entity,
    Filled,
    Mask,
    Prediction,
    Refused,
    Span,
    record,
)
from ibert_jax.inference.sample import Sample, row_of
from ibert_jax.inference.sources import FORMATS, Row, Source
from ibert_jax.inference.tasks import interpret

__all__ = [
    "FORMATS",
    "TASKS",
    "Answer",
    "BatchPredictor",
    "Candidate",
    "Choice",
    "Embedding",
    "Entities",
    "Entity",
    "Filled",
    "Mask",
    "Prediction",
    "Predictor",
    "Progress",
    "Refused",
    "Row",
    "Sample",
    "Source",
    "Span",
    "Statistics",
    "default_directory",
    "interpret",
    "load_classifier",
    "load_model",
    "predict_file",
    "record",
    "row_of",
    "task_for",
]
