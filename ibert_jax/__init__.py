"""Integer-only BERT and RoBERTa in JAX: what you train is what you run, and that is integers.

    import ibert_jax as ib
    model = ib.IBertForSequenceClassification.from_pretrained(directory)
    ib.calibrate(model, batches)
    program = ib.freeze(model)
    program(input_ids, attention_mask=mask).logits

The public names load on first use (PEP 562): `import ibert_jax` alone imports neither JAX nor Flax,
so that the command line answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module that defines it, in the order in which a reader meets them.
_HOMES = {
    "IBertConfig": "ibert_jax.config",
    "QuantConfig": "ibert_jax.quant_config",
    "IBertModel": "ibert_jax.models",
    "IBertForMaskedLM": "ibert_jax.models",
    "IBertForSequenceClassification": "ibert_jax.models",
    "IBertForMultipleChoice": "ibert_jax.models",
    "IBertForTokenClassification": "ibert_jax.models",
    "IBertForQuestionAnswering": "ibert_jax.models",
    "calibrate": "ibert_jax.quantize",
    "calibration_report": "ibert_jax.analysis",
    "correct_biases": "ibert_jax.analysis",
    "sensitivity": "ibert_jax.analysis",
    "set_observers": "ibert_jax.quantize",
    "freeze": "ibert_jax.frozen",
    "IntegerModel": "ibert_jax.frozen",
    "export": "ibert_jax.deploy",
    "certify": "ibert_jax.proof",
    "Certificate": "ibert_jax.proof",
    "first_divergence": "ibert_jax.proof",
    "TrainOptions": "ibert_jax.training",
    "finetune": "ibert_jax.training",
    "Predictor": "ibert_jax.inference",
}

if TYPE_CHECKING:  # the same names once more, for type checkers and editors
    from ibert_jax.analysis import calibration_report, correct_biases, sensitivity
    from ibert_jax.config import IBertConfig
    from ibert_jax.deploy import export
    from ibert_jax.frozen import IntegerModel, freeze
    from ibert_jax.inference import Predictor
    from ibert_jax.models import (
        IBertForMaskedLM,
        IBertForMultipleChoice,
        IBertForQuestionAnswering,
        IBertForSequenceClassification,
        IBertForTokenClassification,
        IBertModel,
    )
    from ibert_jax.proof import Certificate, certify, first_divergence
    from ibert_jax.quant_config import QuantConfig
    from ibert_jax.quantize import calibrate, set_observers
    from ibert_jax.training import TrainOptions, finetune

__all__ = [
    "Certificate",
    "IBertConfig",
    "IBertForMaskedLM",
    "IBertForMultipleChoice",
    "IBertForQuestionAnswering",
    "IBertForSequenceClassification",
    "IBertForTokenClassification",
    "IBertModel",
    "IntegerModel",
    "Predictor",
    "QuantConfig",
    "TrainOptions",
    "__version__",
    "calibrate",
    "calibration_report",
    "certify",
    "correct_biases",
    "export",
    "finetune",
    "first_divergence",
    "freeze",
    "sensitivity",
    "set_observers",
]


def __getattr__(name: str) -> Any:
    """Import the module that holds a public name the first time that the name is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
