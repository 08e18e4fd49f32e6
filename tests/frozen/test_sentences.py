"""The integers of committed sentences: the same in training and running, however batched."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

import ibert_jax as ib
from ibert_jax.inference import default_directory
from ibert_jax.tokenizer import Tokenizer

from .conftest import make

SENTENCES = Path(__file__).parents[1].joinpath("data/sentences.txt").read_text().splitlines()
# int32 logits (negative, positive) of the embedded model: on every device, for ever.
GOLDEN = [
    [-754129, 660549],
    [708914, -623893],
    [374126, -324114],
    [-749826, 656298],
    [-217634, 180944],
    [387140, -340182],
    [-743418, 652073],
    [676214, -591841],
    [-738260, 646814],
    [-470862, 395717],
    [161533, -136957],
    [236295, -208979],
]


@pytest.fixture(scope="module")
def rows() -> list[list[int]]:
    return [e.ids.tolist() for e in Tokenizer.load(default_directory()).encode(SENTENCES)]


def batch(rows: list[list[int]], width: int, pad: int) -> dict[str, np.ndarray]:
    width = max(width, *(len(row) for row in rows))
    ids = np.array([row + [pad] * (width - len(row)) for row in rows], np.int32)
    mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows], np.int32)
    return {"input_ids": ids, "attention_mask": mask}


def test_trained_equals_run(rows: list[list[int]]) -> None:
    model = make("channel", vocab_size=30522, num_hidden_layers=2)
    arrays = batch(rows, 0, 1)
    ib.calibrate(model, [arrays])
    simulated = jax.jit(lambda m, b: m(**b).logits.q)(model, arrays)
    assert np.array_equal(ib.freeze(model).integers(**arrays).logits, simulated)


def test_batch_size_and_padding_change_nothing(rows: list[list[int]]) -> None:
    program = ib.IntegerModel.load(default_directory())
    pad = program.config.pad_token_id
    want = np.asarray(program.integers(**batch(rows, 64, pad)).logits)
    assert len(np.unique(want)) > 12
    filled = rows * (-(-64 // len(rows)))
    # (rows a batch, padded length or 0 for the longest row's, first rows tried)
    for size, width, starts in ((1, 0, (2, 10)), (7, 64, (0, 5)), (64, 128, (0,))):
        for start in starts:
            got = np.asarray(
                program.integers(**batch(filled[start : start + size], width, pad)).logits
            )
            assert np.array_equal(got, np.resize(np.roll(want, -start, 0), (size, 2)))


def test_the_embedded_models_integers(rows: list[list[int]]) -> None:
    program = ib.IntegerModel.load(default_directory())
    got = np.asarray(program.integers(**batch(rows, 64, program.config.pad_token_id)).logits)
    assert got.tolist() == GOLDEN
