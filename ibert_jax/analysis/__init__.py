"""What quantization does to a model: the ranges it found, and which leaf costs how much."""

from ibert_jax.analysis.bias_correction import correct_biases
from ibert_jax.analysis.ranges import CalibrationReport, RangeRow, calibration_report
from ibert_jax.analysis.sensitivity import Sensitivity, SensitivityRow, sensitivity

__all__ = [
    "CalibrationReport",
    "RangeRow",
    "Sensitivity",
    "SensitivityRow",
    "calibration_report",
    "correct_biases",
    "sensitivity",
]
