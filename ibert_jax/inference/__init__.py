"""Text in, answers out."""

from ibert_jax.inference.predictor import (
    Prediction,
    Predictor,
    Statistics,
    default_directory,
    interpret,
    load_classifier,
)

__all__ = [
    "Prediction",
    "Predictor",
    "Statistics",
    "default_directory",
    "interpret",
    "load_classifier",
]
