"""`ibert-jax info` tells what is true here, and why a fast path is off."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from ibert_jax.cli import main
from ibert_jax.commands import info
from ibert_jax.frozen import IntegerModel
from ibert_jax.integer import mixed
from ibert_jax.integer.streams import streams

FROZEN = Path(__file__).parent / "data" / "hashes"


def _paths(found: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    return {path["name"]: (path["on"], path["why"]) for path in found["fast_paths"]}


def test_json_and_text_say_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["info", "--json", "--compile-cache", "off"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["jax"] == jax.__version__
    assert len(found["devices"]) == len(jax.devices())
    assert found["devices"][0]["platform"] == jax.default_backend()
    assert {extra["name"]: extra["missing"] for extra in found["extras"]}["parquet"] == []
    assert main(["info", "--compile-cache", "off"]) == 0
    told = capsys.readouterr().out
    for path in found["fast_paths"]:
        assert path["why"] in told
    for extra in found["extras"]:
        assert all(module in told for module in extra["missing"])
    assert all(what in told for what in found["tried"].values())


def test_every_extra_for_users_is_told_of() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    for_developers = {"cuda", "test", "peers", "dev"}
    assert set(project["project"]["optional-dependencies"]) - for_developers == set(info._EXTRAS)


def test_says_why_a_fast_path_is_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setattr(mixed, "vectorized", lambda: False)  # another processor
    jax.clear_caches()  # what was lowered for this one
    monkeypatch.setattr(info.util, "find_spec", lambda name: None)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        found = info.collect()
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        jax.clear_caches()
    paths = _paths(found)
    assert paths["parallel tokenization"] == (False, "TOKENIZERS_PARALLELISM is false")
    assert paths["compilation cache"] == (True, f"compiled programs are kept in {tmp_path}")
    on, why = paths["mixed 8-bit products"]
    assert not on and "no VNNI" in why
    assert paths["weights laid out for oneDNN"] == (
        False,
        "they are for VNNI instructions of AVX-512",
    )
    assert not any(extra["installed"] for extra in found["extras"])
    assert paths["programs side by side"][0] == (streams() > 1)
    with jax.disable_jit():
        assert not _paths(info.collect())["programs side by side"][0]
    off = _paths(info.collect())["compilation cache"]
    assert off[0] is False and "IBERT_JAX_CACHE" in off[1]


def test_without_a_device_it_says_so() -> None:
    script = "from ibert_jax.cli import main; raise SystemExit(main(['info', '--json']))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={"JAX_PLATFORMS": "abacus", "PATH": "/usr/bin:/bin", "IBERT_JAX_CACHE": "off"},
        cwd=Path(__file__).parents[1],
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["devices"] == [] and found["fast_paths"] == []
    assert "abacus" in found["problem"] and found["environment"]["JAX_PLATFORMS"] == "abacus"


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_programs_are_lowered_for_what_they_never_ran_on(platform: str) -> None:
    """What `info` claims of TPU and GPU, and no more than that; there s8 x s8 is the product."""
    program = IntegerModel.load(FROZEN / "channel")
    ids = jnp.zeros((2, 8), jnp.int32)
    traced = jax.jit(lambda program, ids: program.integers(ids)).trace(program, ids)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert products and not [line for line in products if "ui8" in line]
    assert "f32>" not in text and "bf16>" not in text
