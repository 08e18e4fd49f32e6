"""The network, written once: graph modules that route, leaves that compute."""

from ibert_jax.models.heads import IBertForSequenceClassification
from ibert_jax.models.model import IBertModel

__all__ = ["IBertForSequenceClassification", "IBertModel"]
