"""Between float and integer: scales, constants, quantized tensors, ranges, calibration."""

from ibert_jax.quantize.calibration import calibrate
from ibert_jax.quantize.observers import set_observers

__all__ = ["calibrate", "set_observers"]
