"""Text in, answers out."""

from ibert_jax.inference.loading import default_directory, load_classifier, load_model
from ibert_jax.inference.predictor import TASKS, Predictor, Statistics
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
from ibert_jax.inference.tasks import interpret

__all__ = [
    "TASKS",
    "Answer",
    "Candidate",
    "Choice",
    "Embedding",
    "Entities",
    "Entity",
    "Filled",
    "Mask",
    "Prediction",
    "Predictor",
    "Refused",
    "Span",
    "Statistics",
    "default_directory",
    "interpret",
    "load_classifier",
    "load_model",
    "record",
]
