"""Between float and integer: scales, constants, quantized tensors, ranges, calibration."""

from ibert_jax.quantize.calibration import calibrate

__all__ = ["calibrate"]
