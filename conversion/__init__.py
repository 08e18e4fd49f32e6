"""PyTorch files in and out: the only part of the project, tests aside, that imports torch."""
