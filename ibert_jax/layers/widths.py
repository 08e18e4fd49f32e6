"""How many bits each leaf has: what a configuration asks for, given to the leaves of a model."""

from __future__ import annotations

from fnmatch import fnmatchcase

from flax import nnx

from ibert_jax.layers.activation import QuantAct
from ibert_jax.layers.embedding import QuantEmbedding
from ibert_jax.layers.leaf import Leaf, leaves_of
from ibert_jax.layers.linear import QuantLinear
from ibert_jax.quant_config import QuantConfig

BACKBONE = "ibert."
"""Attribute of the head models that holds the encoder; checkpoints name it variously."""


def set_widths(model: nnx.Module, quantization: QuantConfig) -> None:
    """Give the leaves of ``model`` their bits, in place.

    ``weight_bits`` go to linear layers and embedding tables (a language model's decoder shares
    its table's), ``activation_bits`` to the activations that enter a matmul. All other widths
    are part of the integer kernels: 20 bits before a LayerNorm, 16 in nonlinear functions, 32 in
    accumulators, and in the residual stream what LayerNorm leaves there (14 of them fractional).

    Raises:
        ValueError: overrides that change nothing, because no such leaf has such bits.
    """
    leaves = {path.removeprefix(BACKBONE): leaf for path, leaf in leaves_of(model).items()}
    _refuse_idle(quantization, leaves)
    for path, leaf in leaves.items():
        setting = adjustable_width(leaf)
        if setting is None:
            continue
        bits = quantization.width(setting, path)
        if isinstance(leaf, QuantAct):
            leaf.form = leaf.form._replace(bits=bits)
        elif isinstance(leaf, QuantLinear | QuantEmbedding):
            leaf.bits = bits


def adjustable_width(leaf: Leaf) -> str | None:
    """The setting that decides a leaf's bits; None where the kernels decide."""
    if isinstance(leaf, QuantAct):
        return "activation_bits" if leaf.adjustable else None
    return "weight_bits" if isinstance(leaf, QuantLinear | QuantEmbedding) else None


def _refuse_idle(quantization: QuantConfig, leaves: dict[str, Leaf]) -> None:
    problems = []
    for pattern, settings in quantization.overrides:
        matching = [path for path in leaves if fnmatchcase(path, pattern)]
        if not matching:
            example = next(iter(leaves))
            problems.append(f"{pattern!r} matches no leaf (the first of them is {example!r})")
            continue
        found = {adjustable_width(leaves[path]) for path in matching}
        problems += [
            f"{pattern!r} asks for {name}, but nothing it matches has bits of that kind to choose "
            f"({matching[0]!r} for one)"
            for name, _ in settings
            if name not in found
        ]
    if problems:
        raise ValueError(
            "overrides of the quantization change nothing: "
            + "; ".join(problems)
            + "; see the paths in model.leaves(); weight_bits belong to linear layers and "
            "embedding tables, activation_bits to the activations that enter a matmul"
        )
