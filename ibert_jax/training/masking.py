"""Which tokens masked language modelling hides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ibert_jax.checks import IGNORED_LABEL

_MASK_TOKENS = ("[MASK]", "<mask>")


@dataclass(frozen=True)
class Masking:
    """BERT's: of the tokens to be guessed 80% are hidden, 10% replaced and 10% left as they are.

    probability: the share of tokens to be guessed. mask_token_id: what hides one. vocab_size:
    replacements are drawn below it.
    """

    probability: float
    mask_token_id: int
    vocab_size: int

    def __call__(
        self, ids: np.ndarray, targets: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Hide tokens.

        Args:
          ids, targets: int32, same shape; a target of -100 is never to be guessed.

        Returns:
          ids with some of them hidden or replaced, and targets, -100 for all that stay.
        """
        guessed = (random.random(ids.shape) < self.probability) & (targets != IGNORED_LABEL)
        fate = random.random(ids.shape)
        drawn = random.integers(0, self.vocab_size, ids.shape, np.int32)
        changed = np.where(fate < 0.8, np.int32(self.mask_token_id), drawn)
        hidden = np.where(guessed & (fate < 0.9), changed, ids)
        return hidden, np.where(guessed, targets, np.int32(IGNORED_LABEL))


def masking_of(backend: Any, probability: float) -> Masking:
    """Of a `tokenizers.Tokenizer`.

    Raises ValueError where it has no token that masks.
    """
    found = (backend.token_to_id(name) for name in _MASK_TOKENS)
    mask = next((number for number in found if number is not None), None)
    if mask is None:
        raise ValueError(
            f"masked language modelling needs a tokenizer with one of {', '.join(_MASK_TOKENS)}; "
            "this one has none"
        )
    return Masking(probability, mask, backend.get_vocab_size(with_added_tokens=False))
