"""Which tokens masked language modelling hides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ibert_jax.checks import IGNORED_LABEL

_MASK_TOKENS = ("[MASK]", "<mask>")
_DEVIATIONS = 4
"""Standard deviations above the mean number of guesses for which there is room."""
MULTIPLE = 4
"""Numbers of tokens that are compiled for are multiples of this: matmuls like whole vectors."""


@dataclass(frozen=True)
class Masking:
    """BERT's: of the tokens to be guessed 80% are hidden, 10% replaced and 10% left as they are.

    probability: the share of tokens to be guessed. mask_token_id: what hides one. vocab_size:
    replacements are drawn below it.

    An example has no more tokens to be guessed than there is `room` for, as BERT's own data have
    at most `max_predictions_per_seq`, so that a model need score only those (`guesses`).
    """

    probability: float
    mask_token_id: int
    vocab_size: int

    def __call__(
        self, ids: np.ndarray, targets: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Hide tokens.

        Args:
          ids, targets: int32 [..., T]; a target of -100 is never to be guessed.

        Returns:
          ids with some of them hidden or replaced, and targets, -100 for all that stay.
        """
        draw = np.where(targets == IGNORED_LABEL, 1.0, random.random(ids.shape))
        guessed = (draw < self.probability) & (_ranks(draw) < self.room(ids.shape[-1]))
        fate = random.random(ids.shape)
        drawn = random.integers(0, self.vocab_size, ids.shape, np.int32)
        changed = np.where(fate < 0.8, np.int32(self.mask_token_id), drawn)
        hidden = np.where(guessed & (fate < 0.9), changed, ids)
        return hidden, np.where(guessed, targets, np.int32(IGNORED_LABEL))

    def room(self, length: int) -> int:
        """How many of an example's tokens are to be guessed at most.

        length: that to which the example is padded. At 15 % of up to 512 tokens, two of them
        special, chance gives more to one example in 20,000 or fewer.
        """
        mean = self.probability * length
        most = mean + _DEVIATIONS * math.sqrt(mean * (1 - self.probability))
        return min(math.ceil(most / MULTIPLE) * MULTIPLE, length)


def guesses(targets: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """The tokens to be guessed, and what they are.

    Args:
      targets: int32 [B, T], -100 where nothing is to be guessed; at most `room` others a row.

    Returns:
      int32 [B, room] twice: places in [0, T), and the targets there. A row with fewer is filled
      with other places, whose targets are -100.
    """
    places = np.argsort(targets == IGNORED_LABEL, axis=1, kind="stable")[:, :room]
    return places.astype(np.int32), np.take_along_axis(targets, places, axis=1)


def _ranks(values: np.ndarray) -> np.ndarray:
    """How many of its row are smaller, [..., T]."""
    return values.argsort(axis=-1).argsort(axis=-1)


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
