"""The leaves: one file an operation, each in its three lives."""
