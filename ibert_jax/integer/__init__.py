"""Integer kernels: arrays of integers in and out, no float, no Flax."""
