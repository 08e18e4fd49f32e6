"""A name is a local directory first, then the id of a model on the hub; both readings are said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from ibert_jax.checkpoints import locate


def test_a_local_directory_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert locate("org/model") == Path("org/model")
    assert locate(tmp_path) == tmp_path


@pytest.mark.parametrize("name", ["model", "org/model", "org/model-v1.0_base"])
def test_an_id_is_downloaded_without_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    calls: list[Any] = []

    def download(repository: str, *, allow_patterns: list[str]) -> str:
        calls.append((repository, allow_patterns))
        return str(tmp_path)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert locate(name) == tmp_path
    ((repository, patterns),) = calls
    assert repository == name
    assert {"*.json", "*.safetensors"} <= set(patterns)
    assert not [pattern for pattern in patterns if "bin" in pattern and "bpe" not in pattern]


def test_a_model_of_pickles_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is missing was not fetched, and would not be opened."""
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"hf download org/model .* conversion\.from_bin"):
        locate("org/model")
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    assert locate("org/model") == tmp_path


def test_offline_says_both_readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The real huggingface_hub, told to stay offline as in every test, with an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError) as caught:
        locate("org/model")
    assert str(caught.value) == (
        f"org/model is neither a directory here ({tmp_path / 'org' / 'model'} does not exist) nor "
        "a model that could be downloaded from the Hugging Face hub (HF_HUB_OFFLINE is set and it "
        "was not downloaded before: unset it); give a local directory that holds config.json and "
        "model.safetensors, or correct the id"
    )
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.LocalEntryNotFoundError("x"), "the hub cannot be reached and it was not"),
        (ConnectionError("x"), "the hub cannot be reached: ConnectionError"),
    ],
)
def test_what_went_wrong_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
):
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(FileNotFoundError) as caught:
        locate("org/model")
    assert f"Hugging Face hub ({reason}" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name", ["./model", "../model", "a/b/c", "org/..", "~/m", "a b", Path("m")]
)
def test_what_can_only_be_a_path_is_not_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | Path
):
    def download(*_: object, **__: object) -> str:
        raise AssertionError("looked up")

    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(FileNotFoundError, match=r"is not a directory; give the one that holds"):
        locate(name)


def test_a_file_is_no_directory(tmp_path: Path):
    (tmp_path / "model").touch()
    with pytest.raises(FileNotFoundError, match=r"model is not a directory; give the one"):
        locate(tmp_path / "model")
