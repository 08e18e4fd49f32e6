"""Checkpoints: all or nothing, and nothing damaged is taken for good."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibert_jax.training.checkpoint import Checkpoints, Position
from ibert_jax.training.optimizer import make_optimizer
from ibert_jax.training.state import TrainState

# After an error in one array, tensorstore may still report on another to a loop that has closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def make_state(seed: int) -> TrainState:
    random = np.random.default_rng(seed)
    params = {"a.0.weight": jnp.asarray(random.standard_normal((50, 40)), jnp.float32)}
    others = {"a.0.act.x_min": jnp.float32(-np.inf), "a.1.act.x_max": jnp.ones(3, jnp.float32)}
    optimizer = make_optimizer(lambda step: 0.1, weight_decay=0.0, clip_norm=1.0)
    return TrainState(params, others, optimizer.init(params), jnp.int32(seed))


def make_position(step: int) -> Position:
    return Position(stage=1, step=step, epoch=0, batch=step, results={"float": {"accuracy": 0.5}})


def same(mine: TrainState, theirs: TrainState) -> None:
    assert jax.tree.structure(mine) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def test_round_trip_keeps_the_latest(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "c", keep=2) as checkpoints:
        assert checkpoints.restore(make_state(0)) is None
        for seed in (1, 2, 3):
            checkpoints.save(make_state(seed), make_position(seed))
    assert len(list((tmp_path / "c").iterdir())) == 2
    with Checkpoints(tmp_path / "c", keep=2) as again:
        found = again.restore(make_state(0))
    assert found is not None
    same(found[0], make_state(3))
    assert found[1] == make_position(3)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A directory with the checkpoints 1 and 2."""
    with Checkpoints(tmp_path / "c", keep=2) as checkpoints:
        for seed in (1, 2):
            checkpoints.save(make_state(seed), make_position(seed))
    return tmp_path / "c"


def largest_file(directory: Path) -> Path:
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("damage", ["truncated", "altered", "file missing", "state missing"])
def test_a_damaged_one_gives_way_to_the_one_before(
    two: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    victim = largest_file(two / "2" / "state")
    content = bytearray(victim.read_bytes())
    if damage == "truncated":
        victim.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    elif damage == "file missing":
        victim.unlink()
    else:
        shutil.rmtree(two / "2" / "state")
    with caplog.at_level(logging.WARNING), Checkpoints(two, keep=2) as checkpoints:
        found = checkpoints.restore(make_state(0))
    assert found is not None
    same(found[0], make_state(1))
    assert "checkpoint 2 is damaged" in caplog.text


def test_nothing_is_deleted_that_cannot_be_read_just_now(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with Checkpoints(two, keep=2) as checkpoints:
        with monkeypatch.context() as broken:
            broken.setattr(checkpoints, "_read", failing)
            with pytest.raises(ValueError, match="got 2 that cannot be read"):
                checkpoints.restore(make_state(0))
        found = checkpoints.restore(make_state(0))
    assert found is not None
    same(found[0], make_state(2))


def test_every_file_counts(two: Path, tmp_path: Path) -> None:
    """Whatever file is missing or cut, what comes back is a checkpoint that was saved."""
    files = sorted(p.relative_to(two / "2") for p in (two / "2").rglob("*") if p.is_file())
    assert len(files) > 5
    fell_back = 0
    for number, file in enumerate(files):
        for cut in (False, True):
            copied = tmp_path / f"{number}{cut}"
            shutil.copytree(two, copied)
            victim = copied / "2" / file
            if cut:
                victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
            else:
                victim.unlink()
            with Checkpoints(copied, keep=2) as checkpoints:
                found = checkpoints.restore(make_state(0))
            assert found is not None
            same(found[0], make_state(found[1].step))
            assert found[1] == make_position(found[1].step)
            fell_back += found[1].step == 1
    assert fell_back >= 6  # files that hold data; others only repeat what those say


def test_a_save_cut_short_is_not_seen(two: Path) -> None:
    """What orbax leaves of an interrupted save: the directory under its temporary name."""
    cut = two / "3.orbax-checkpoint-tmp"
    shutil.copytree(two / "2", cut)
    with Checkpoints(two, keep=2) as checkpoints:
        found = checkpoints.restore(make_state(0))
        assert found is not None
        assert found[1].step == 2
        checkpoints.save(make_state(3), make_position(3))
    assert {path.name for path in two.iterdir()} == {"2", "3"}
