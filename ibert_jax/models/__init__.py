"""The network, written once: graph modules that route, leaves that compute."""

from ibert_jax.models.heads import (
    IBertForQuestionAnswering,
    IBertForSequenceClassification,
    IBertForTokenClassification,
)
from ibert_jax.models.heads_choice import IBertForMultipleChoice
from ibert_jax.models.heads_lm import IBertForMaskedLM
from ibert_jax.models.model import IBertModel

__all__ = [
    "IBertForMaskedLM",
    "IBertForMultipleChoice",
    "IBertForQuestionAnswering",
    "IBertForSequenceClassification",
    "IBertForTokenClassification",
    "IBertModel",
]
