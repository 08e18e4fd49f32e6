# ruff: noqa: F811 (fixtures of a neighbour, by name)
"""A checkpoint whose writing was cut short can be read, as it was or as it is to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ibert_jax.checkpoints import read_checkpoint, write_checkpoint

from .test_roundtrip import ACT, RANGES, calibrated  # noqa: F401


class Killed(BaseException):
    """What kill -9 is to a process, to a test."""


@pytest.mark.parametrize("last", range(1, 6))
def test_a_write_that_is_cut_short_leaves_what_can_be_read(
    calibrated: Path, monkeypatch, last: int
):
    ours, acts = read_checkpoint(calibrated), []

    def counted(act):
        def call(*arguments, **named):
            acts.append(act)
            if len(acts) == last:
                raise Killed
            return act(*arguments, **named)

        return call

    changed = {name: tensor + 1 for name, tensor in ours.tensors.items()}
    with monkeypatch.context() as patch:
        for name in ("replace", "unlink", "rename"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        with pytest.raises(Killed):
            write_checkpoint(calibrated, ours.config, {**changed, **RANGES})
    read_checkpoint(calibrated)


def test_a_range_of_which_a_part_was_never_observed_is_left_out(calibrated: Path):
    ours = read_checkpoint(calibrated)
    partly = {name: value.copy() for name, value in ours.ranges.items()}
    partly[f"{ACT}.x_min"][3], partly[f"{ACT}.x_max"][3] = np.inf, -np.inf
    write_checkpoint(calibrated, ours.config, {**ours.tensors, **partly})
    kept = {name for name in partly if not name.startswith(ACT)}
    assert read_checkpoint(calibrated).ranges.keys() == kept
