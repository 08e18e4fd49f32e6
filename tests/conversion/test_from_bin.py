"""Pickled weights become safetensors bit for bit, and a pickle never runs anything."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conversion import from_bin
from conversion.pickles import load_pickle
from ibert_jax.checkpoints import CheckpointError, read_checkpoint


@pytest.fixture
def source(tmp_path: Path, classifier: Any) -> Path:
    """Hugging Face's layout of old, with a vocabulary beside the weights."""
    folder = tmp_path / "source"
    classifier.config.architectures = ["RobertaForSequenceClassification"]
    classifier.config.save_pretrained(folder)
    torch.save(classifier.state_dict(), folder / "pytorch_model.bin")
    (folder / "vocab.json").write_text("{}")
    return folder


def shard(source: Path, classifier: Any) -> None:
    """The same weights in two files and an index."""
    (source / "pytorch_model.bin").unlink()
    state = classifier.state_dict()
    weight_map = {name: f"part-{i % 2}.bin" for i, name in enumerate(state)}
    for part in ("part-0.bin", "part-1.bin"):
        torch.save({n: state[n] for n in state if weight_map[n] == part}, source / part)
    index = json.dumps({"weight_map": weight_map})
    (source / "pytorch_model.bin.index.json").write_text(index)


@pytest.mark.parametrize("sharded", [False, True])
def test_every_bit_arrives(tmp_path: Path, source: Path, classifier: Any, sharded: bool):
    if sharded:
        shard(source, classifier)
    from_bin.main([str(source), str(tmp_path / "output")])
    stored = load_file(tmp_path / "output" / "model.safetensors")
    state = classifier.state_dict()
    assert stored.keys() == state.keys()
    assert all(torch.equal(stored[name], state[name]) for name in state)
    assert (tmp_path / "output" / "vocab.json").read_text() == "{}"
    assert read_checkpoint(tmp_path / "output").head == "sequence_classification"


def test_shared_and_half_tensors(tmp_path: Path, source: Path):
    weight = torch.randn(3, 2).bfloat16()
    torch.save({"a": weight, "tied": weight, "turned": weight.T}, source / "pytorch_model.bin")
    from_bin.convert(source, tmp_path / "output")
    stored = load_file(tmp_path / "output" / "model.safetensors")
    assert {name: t.dtype for name, t in stored.items()} == dict.fromkeys(
        ("a", "tied", "turned"), torch.bfloat16
    )
    assert torch.equal(stored["turned"], weight.T)


def test_views_arrive_as_what_they_show(tmp_path: Path, source: Path):
    conjugate, imaginary = torch.tensor([1 + 2j]).conj(), torch.tensor([1 + 2j]).conj().imag
    torch.save({"whole": conjugate, "imag": imaginary}, source / "pytorch_model.bin")
    from_bin.convert(source, tmp_path / "output")
    stored = load_file(tmp_path / "output" / "model.safetensors")
    assert {name: t.item() for name, t in stored.items()} == {"whole": 1 - 2j, "imag": -2.0}


class Malicious:
    """Unpickled carelessly, it makes a directory."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = (call, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


def rewrite_pickle(path: Path, protocol_payload: bytes) -> None:
    """Replace the pickle inside of a file of torch, whose archive stays valid."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, protocol_payload if name.endswith("data.pkl") else data)


@pytest.mark.parametrize("call", ["os.mkdir", "eval", "subprocess"])
@pytest.mark.parametrize("layout", ["torch", "legacy", "raw", "rewritten"])
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, layout: str, call: str):
    import subprocess

    marker = tmp_path / "executed"
    reduced: dict[str, Malicious] = {
        "os.mkdir": Malicious(os.mkdir, str(marker)),
        "eval": Malicious(eval, f"__import__('os').mkdir({str(marker)!r})"),
        "subprocess": Malicious(subprocess.check_call, ["mkdir", str(marker)]),
    }
    payload, path = {"weight": reduced[call]}, tmp_path / "model.pt"
    if layout == "raw":
        path.write_bytes(pickle.dumps(payload))
    elif layout == "rewritten":
        torch.save({"weight": torch.zeros(1)}, path)
        buffer = io.BytesIO()
        pickle.Pickler(buffer, protocol=2).dump(payload)
        rewrite_pickle(path, buffer.getvalue())
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=layout == "torch")
    with pytest.raises(CheckpointError) as caught:
        load_pickle(path)
    (problem,) = caught.value.problems
    assert not marker.exists()
    # The newer protocol of a raw pickle is refused even before it names what it would import.
    expected = "is no complete PyTorch file" if layout == "raw" else "could run any code; save the"
    assert expected in problem
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.__suppress_context__


def test_a_pickle_that_is_damaged(tmp_path: Path, source: Path):
    path = source / "pytorch_model.bin"
    whole = path.read_bytes()
    for content in (b"", b"x", b"version https://git-lfs.github.com/spec/v1\n", whole[:-100]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"is no complete PyTorch file; it may be trunc"):
            from_bin.convert(source, tmp_path / "never")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"neither pytorch_model.bin nor pytorch_model.bin.i"):
        from_bin.convert(source, tmp_path / "never")
    path.mkdir()
    with pytest.raises(CheckpointError, match="this is a directory"):
        load_pickle(path)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1, 2], "must hold a dict of tensors by name, got list"),
        ({"state_dict": {"a": torch.zeros(1)}}, "state_dict must be a tensor, got dict"),
        ({"a": torch.zeros(2).to_sparse()}, "a must be a dense, plain tensor"),
    ],
)
def test_what_is_no_state_dict(tmp_path: Path, source: Path, content: Any, sentence: str):
    torch.save(content, source / "pytorch_model.bin")
    (source / "config.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        from_bin.convert(source, tmp_path / "never")
    assert sentence in caught.value.problems[0]
    assert caught.value.problems[1] == "config.json is missing"


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, of what is in beta
def test_tensors_that_numpy_lacks(tmp_path: Path, source: Path):
    content = {
        "csr": torch.eye(2).to_sparse_csr(),
        "nested": torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
        "meta": torch.empty(2, device="meta"),
        "float8": torch.ones(2, dtype=torch.float8_e4m3fn),
        "complex32": torch.zeros(2, dtype=torch.complex32),
        "complex128": torch.zeros(2, dtype=torch.complex128),
    }
    torch.save(content, source / "pytorch_model.bin")
    with pytest.raises(CheckpointError) as caught:
        from_bin.convert(source, tmp_path / "never")
    assert [problem.split()[1] for problem in caught.value.problems] == list(content)
    assert "a dense, plain tensor with values" in caught.value.problems[2]
    assert "has dtype torch.float8_e4m3fn, which NumPy or safet" in caught.value.problems[3]


def test_shards_that_do_not_fit_their_index(tmp_path: Path, source: Path, classifier: Any):
    shard(source, classifier)
    first, second = (torch.load(source / f"part-{i}.bin") for i in (0, 1))
    moved, doubled = list(second)[:2]
    torch.save({**first, moved: second.pop(moved), doubled: second[doubled]}, source / "part-0.bin")
    torch.save(second, source / "part-1.bin")
    with pytest.raises(CheckpointError) as caught:
        from_bin.convert(source, tmp_path / "never")
    assert caught.value.problems == (
        f"part-1.bin lacks {moved}, though pytorch_model.bin.index.json says it is there",
        f"tensor {doubled} is in two shards, one of them part-1.bin",
    )
