"""What an exported program takes and returns, and vectors to check it with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from ibert_jax.frozen import IntegerModel

_GOLDEN_ROWS = 3
_GOLDEN_LENGTH = 19


@dataclass(frozen=True)
class Signature:
    """The exported function of a program.

    Attributes:
        program: what is exported.
        arguments: names of its arguments, all int32 of one shape: [batch, length], for multiple
            choice [batch, choices, length].
        dimensions: the names of that shape's dimensions.
        outputs: names of its results with their types: int32, or int8 where they are so narrow.
    """

    program: IntegerModel
    arguments: tuple[str, ...]
    dimensions: tuple[str, ...]
    outputs: dict[str, str]

    @classmethod
    def of(cls, program: IntegerModel) -> Signature:
        """The signature of a program: every argument that a tokenizer gives."""
        program = program.with_kernels("xla")  # what a file runs on is not known
        arguments = ("input_ids", "attention_mask")
        if program.config.type_vocab_size > 1:
            arguments += ("token_type_ids",)
        shape = program.input_shape(2, min(2, program.config.max_sequence_length))
        dimensions = ("batch", "choices", "length") if len(shape) == 3 else ("batch", "length")
        like = [jax.ShapeDtypeStruct(shape, jnp.int32)] * len(arguments)
        results = jax.eval_shape(lambda *x: _outputs(program, arguments, x), *like)
        types = {name: str(result.dtype) for name, result in results.items()}
        return cls(program, arguments, dimensions, types)

    @property
    def function(self) -> Callable[..., dict[str, jax.Array]]:
        """Arguments by position -> results by name."""

        def integer_program(*arrays: jax.Array) -> dict[str, jax.Array]:
            return _outputs(self.program, self.arguments, arrays)

        return integer_program

    def abstract(self) -> list[jax.ShapeDtypeStruct]:
        """The arguments with symbolic dimensions: any batch, any length that the model takes."""
        longest = self.program.config.max_sequence_length
        limits = [f"{name} >= 1" for name in self.dimensions] + [f"length <= {longest}"]
        shape = export.symbolic_shape(", ".join(self.dimensions), constraints=limits)
        return [jax.ShapeDtypeStruct(shape, jnp.int32)] * len(self.arguments)

    def golden(self) -> dict[str, np.ndarray]:
        """Arguments drawn from a fixed seed, and the program's results for them, by name."""
        config = self.program.config
        length = min(_GOLDEN_LENGTH, config.max_sequence_length)
        shape = self.program.input_shape(_GOLDEN_ROWS, length)
        draw = np.random.default_rng(0)
        mask = np.arange(length) < draw.integers(1, length + 1, shape[:-1])[..., None]
        ids = np.where(mask, draw.integers(0, config.vocab_size, shape), config.pad_token_id)
        given = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self.arguments:
            given["token_type_ids"] = draw.integers(0, config.type_vocab_size, shape)
        given = {name: np.asarray(given[name], np.int32) for name in self.arguments}
        results = self.function(*given.values())
        return {**given, **{name: np.asarray(results[name]) for name in self.outputs}}


def _outputs(program: IntegerModel, names: tuple[str, ...], arrays: Any) -> dict[str, jax.Array]:
    """The results that are there; attentions and hidden states are for the package itself."""
    given = dict(zip(names, arrays, strict=True))
    found = program.integers(**given, output_attentions=False, output_hidden_states=False)
    return {name: value for name, value in vars(found).items() if value is not None}
