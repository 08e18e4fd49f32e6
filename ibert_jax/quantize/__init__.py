"""Between float and integer: scales, constants, quantized tensors, ranges, calibration."""
