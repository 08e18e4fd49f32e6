"""A file in, a file out: every row answered or told of, whatever interrupts the job and when."""

from __future__ import annotations

import csv
import errno
import gc
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import RobertaProcessing

from ibert_jax.inference import (
    Predictor,
    Source,
    default_directory,
    job,
    journal,
    predict_file,
)
from ibert_jax.tokenizer import Tokenizer

from .conftest import BAD, OPEN_FILES, CountingProgram, Killed, make_config, run_job


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_every_row_once_with_its_line(predictor: Predictor, rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "answers.jsonl"
    output.parent.mkdir()
    shown: list[int] = []
    done = run_job(predictor, rows, output, report=lambda done, source: shown.append(done.rows))
    assert (done.rows, done.answered, done.bad, done.done) == (150, 147, 3, True)
    assert shown == [32, 64, 96, 128, 150]
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    assert [answer["line"] for answer in answers] == [n for n in range(1, 151) if n not in BAD]
    texts = rows.read_text(errors="surrogateescape").split("\n")
    assert all(answer["text"] == texts[answer["line"] - 1] for answer in answers)
    for answer in answers:
        n = answer["line"]
        if n % 9 != n % 4:
            assert answer["label"] == ("positive" if n % 9 > n % 4 else "negative")
    problems = [
        json.loads(line) for line in _files(output.parent)["answers.jsonl.bad.jsonl"].splitlines()
    ]
    assert problems == [
        {"line": 5, "reason": "the line is empty"},
        {"line": 17, "reason": "byte 0xe9 at place 4 is not UTF-8"},
        {"line": 90, "reason": "the line is empty"},
    ]
    assert len(_files(output.parent)) == 2, "nothing of the work is left"


class Clock:
    """Counts what a job does to its files, and kills it before the act of a given number.

    synced: by name, how much of a file has been on the disk for certain.
    """

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, last: int | None) -> None:
        self.acts, self.last = 0, last
        self.synced = {path.name: path.stat().st_size for path in folder.iterdir()}
        fsync, replace, unlink = os.fsync, Path.replace, Path.unlink

        def synced(number: int) -> None:
            self._act()
            fsync(number)
            path = (OPEN_FILES / str(number)).resolve()
            if path.is_file():
                self.synced[path.name] = path.stat().st_size

        def replaced(path: Path, target: Path) -> Path:
            self._act()
            self.synced[Path(target).name] = self.synced[path.name]
            return replace(path, target)

        def unlinked(path: Path, missing_ok: bool = False) -> None:
            self._act()
            unlink(path, missing_ok=missing_ok)

        patch.setattr(os, "fsync", synced)
        patch.setattr(Path, "replace", replaced)
        patch.setattr(Path, "unlink", unlinked)

    def _act(self) -> None:
        self.acts += 1
        if self.acts == self.last:
            raise Killed


@pytest.fixture
def _open_files_have_names() -> None:
    if not OPEN_FILES.exists():
        pytest.skip("asks /proc for the names of open files")


@pytest.fixture
def clocks(
    _open_files_have_names: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Clock]]:
    monkeypatch.setattr(journal, "_INTERVAL", 0.0)
    patches = pytest.MonkeyPatch()

    def make(folder: Path, last: int | None) -> Clock:
        patches.undo()
        return Clock(patches, folder, last)

    yield make
    patches.undo()


@pytest.mark.parametrize("power", [False, True], ids=["killed", "power lost"])
def test_killed_before_every_act(
    predictor: Predictor,
    rows: Path,
    tmp_path: Path,
    clocks: Callable[..., Clock],
    power: bool,
) -> None:
    """After a kill before any act, and another while going on, the same bytes come about.

    Where the power fails too, all is lost that was not yet on the disk for certain.
    """
    whole = tmp_path / "whole"
    whole.mkdir()
    clock = clocks(whole, None)
    run_job(predictor, rows, whole / "a.jsonl")
    expected, acts = _files(whole), clock.acts
    assert acts > 20
    for kill in range(1, acts + 1):
        folder = tmp_path / str(kill)
        folder.mkdir()
        for last in (kill, 1 + kill // 2, None):
            clock = clocks(folder, last)
            try:
                run_job(predictor, rows, folder / "a.jsonl")
            except Killed:
                for path in folder.iterdir() if power else ():
                    with path.open("r+b") as file:
                        file.truncate(min(path.stat().st_size, clock.synced.get(path.name, 0)))
            except FileExistsError:  # killed when all was done
                break
            else:
                break
        assert _files(folder) == expected, f"killed before act {kill}"


def test_goes_on_where_it_was(
    predictor: Predictor, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has been answered is not computed again, and a torn journal is no harm."""
    monkeypatch.setattr(journal, "_INTERVAL", 0.0)
    output = tmp_path / "answers.tsv"

    def stop(done: journal.Progress, source: Source) -> None:
        if done.rows == 96:
            raise Killed

    with pytest.raises(Killed):
        run_job(predictor, rows, output, report=stop)
    partial, log = tmp_path / "answers.tsv.partial", tmp_path / "answers.tsv.journal"
    assert not output.exists()
    with partial.open("ab") as file:
        file.write(b"half a li")
    with log.open("ab") as file:
        file.write(b'{"rows": 128, "answ')
    predictor.reset_statistics()
    done = run_job(predictor, rows, output)
    assert (done.answered, predictor.statistics.rows) == (147, 147 - 93)
    with output.open(newline="") as file:
        table = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [int(row["line"]) for row in table] == [n for n in range(1, 151) if n not in BAD]
    assert json.loads(table[0]["probabilities"]).keys() == {"negative", "positive"}


@pytest.mark.usefixtures("_open_files_have_names")
def test_a_stopped_job_lets_go_of_its_input(
    predictor: Predictor, rows: Path, tmp_path: Path
) -> None:
    """At once, not when the garbage collector comes by; rows were refused before it stopped."""

    def stop(done: journal.Progress, source: Source) -> None:
        if done.rows == 96:
            raise Killed

    gc.disable()
    try:
        with pytest.raises(Killed):
            run_job(predictor, rows, tmp_path / "answers.jsonl", report=stop)
        assert rows.resolve() not in {link.resolve() for link in OPEN_FILES.iterdir()}
    finally:
        gc.enable()


def test_another_job_is_refused(
    predictor: Predictor, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_INTERVAL", 0.0)
    output = tmp_path / "answers.jsonl"

    def stop(done: journal.Progress, source: Source) -> None:
        raise Killed

    with pytest.raises(Killed):
        run_job(predictor, rows, output, report=stop)
    with pytest.raises(ValueError, match=r"differs in: inputs; .*or restart it"):
        run_job(predictor, rows, output, inputs=False)
    rows.write_text("another file\n")
    with pytest.raises(ValueError, match="differs in: input;"):
        run_job(predictor, rows, output)
    done = run_job(predictor, rows, output, restart=True)
    assert (done.rows, done.answered) == (1, 1)
    with pytest.raises(FileExistsError, match="exists already"):
        run_job(predictor, rows, output)
    rows.write_text("\nbad\n")
    assert run_job(predictor, rows, output, overwrite=True).bad == 1
    rows.write_text("bad\n")
    run_job(predictor, rows, output, overwrite=True)
    assert set(_files(tmp_path)) >= {"answers.jsonl", "rows.txt"}
    assert not [name for name in _files(tmp_path) if "answers.jsonl." in name]


def test_a_foreign_journal_is_not_overwritten(
    predictor: Predictor, rows: Path, tmp_path: Path
) -> None:
    diary = tmp_path / "answers.jsonl.journal"
    for text in ("dear diary,\n", "dear diary", "[1]\n"):
        diary.write_text(text)
        with pytest.raises(ValueError, match="it holds something else; move it away"):
            run_job(predictor, rows, tmp_path / "answers.jsonl")
        assert diary.read_text() == text


def test_two_at_once_are_refused(predictor: Predictor, rows: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    output = tmp_path / "answers.jsonl"

    def second(done: journal.Progress, source: Source) -> None:
        with pytest.raises(ValueError, match="another process does so"):
            run_job(predictor, rows, output)

    assert run_job(predictor, rows, output, report=second).done


def test_a_changed_partial_is_refused(predictor: Predictor, rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"

    def stop(done: journal.Progress, source: Source) -> None:
        if done.rows > 64:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "_INTERVAL", 0.0)
        with pytest.raises(Killed):
            run_job(predictor, rows, output, report=stop)
    (tmp_path / "answers.jsonl.partial").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected at least \d+ bytes .*restart the job"):
        run_job(predictor, rows, output)


def test_nothing_but_bad_rows(predictor: Predictor, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"texts": "a"}\n' * 3)
    source = Source(rows, columns=["text"])
    with pytest.raises(ValueError, match=r"none of the 3 rows .* line 1: no value for text"):
        predict_file(predictor, source, tmp_path / "answers.jsonl")
    rows.write_text("")
    with pytest.raises(ValueError, match="is empty"):
        predict_file(predictor, Source(rows), tmp_path / "answers.jsonl")
    assert set(_files(tmp_path)) == {"rows.jsonl"}


def _byte_level() -> Tokenizer:
    """As RoBERTa's: every byte is a token; no word is too long."""
    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet())]
    backend = Backend(BPE({word: index for index, word in enumerate(words)}, []))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    return Tokenizer(backend)


def _junk(count: int) -> list[bytes]:
    """Lines of what people's files hold, besides sentences."""
    rng = random.Random(7)
    scripts = [
        "שלום עולם",
        "مرحبا بالعالم",
        "🙂👩‍👩‍👧‍👦🏳️‍🌈",
        "\u202eabc\u202c",
        "\u200f\u200e",
        "e\u0301\u0327",
    ]
    kinds: list[Callable[[], bytes]] = [
        lambda: b"",
        lambda: b" \t\x0b ",
        lambda: b"a good film",
        lambda: bytes(rng.choices([*range(10), *range(11, 32), 127], k=rng.randint(1, 40))),
        lambda: bytes(b for b in rng.randbytes(rng.randint(1, 60)) if b != 10),
        lambda: b"\xc3\xa9 caf\xe9",
        lambda: rng.choice(scripts).encode() * rng.randint(1, 30),
        lambda: "\u2028\u2029\x85\ufeff\ufffd\uffff".encode(),
        lambda: "".join(map(chr, rng.sample(range(0xA0, 0xD800), 20))).encode(),
        lambda: "".join(map(chr, rng.sample(range(0xE000, 0x110000), 20))).encode(),
        lambda: b"[CLS] [SEP] <s> </s> [PAD] <unk>",
        lambda: b"\x00" * 5 + b"x",
    ]  # fmt: skip
    rows = [rng.choice(kinds)() for _ in range(count - 6)]
    rows += [b"x" * 100_000, "🙂".encode() * 100_000, b"good " * 20_000, b"\x01" * 100_000]
    rows += [b"a\xcc\x81" * 33_334, b"y" * (2**20 + 1)]
    rng.shuffle(rows)
    return rows


@pytest.mark.parametrize("kind", ["wordpiece", "byte-level"])
def test_junk_is_answered_or_told_of(kind: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(default_directory()) if kind == "wordpiece" else _byte_level()
    padding = 0 if kind == "wordpiece" else 1
    config = make_config(
        vocab_size=tokenizer.vocab_size,
        pad_token_id=padding,
        max_position_embeddings=65 + padding,
    )
    predictor = Predictor(CountingProgram(jnp.asarray([5, 4], jnp.int32), config), tokenizer)
    rows = _junk(1000)
    path, output = tmp_path / "rows.txt", tmp_path / "answers.jsonl"
    path.write_bytes(b"\n".join(rows) + b"\n")
    done = predict_file(predictor, Source(path), output)
    assert (done.rows, done.answered + done.bad) == (1000, 1000)
    answers = {r["line"]: r for r in map(json.loads, output.read_text().splitlines())}
    problems = {
        r["line"]: r["reason"]
        for r in map(json.loads, Path(f"{output}.bad.jsonl").read_text().splitlines())
    }
    assert sorted([*answers, *problems]) == list(range(1, 1001))
    assert list(answers) == sorted(answers)
    for number, raw in enumerate(rows, 1):
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            assert "is not UTF-8" in problems[number]
            continue
        if len(raw) > 2**20:
            assert "bytes, more than the" in problems[number]
            continue
        text = text.rstrip("\r").removeprefix("\ufeff" * (number == 1))
        if not text.strip():
            assert problems[number] == "the line is empty"
            continue
        assert answers[number]["text"] == text
        assert answers[number]["tokens"] <= 64
        assert not answers[number]["truncated"] or answers[number]["tokens"] == 64


def test_a_model_is_known_by_its_files_wherever_it_is(
    predictor: Predictor, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model on the hub, too, of which the id says nothing."""
    folders = {name: tmp_path / name for name in ("org/a", "org/b")}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(name)
    monkeypatch.setattr("ibert_jax.inference.job.locate", folders.__getitem__)
    jobs = [job._job(predictor, Source(rows), name, True)["model"] for name in folders]
    assert jobs[0] != jobs[1]


@pytest.mark.parametrize("which", ["output", "problems"])
def test_a_place_that_is_none_is_refused_at_once(
    predictor: Predictor, rows: Path, tmp_path: Path, which: str
) -> None:
    places: dict[str, Any] = {
        "output": tmp_path / "answers.jsonl", "problems": tmp_path / "bad.jsonl"
    }  # fmt: skip
    before = set(tmp_path.iterdir())
    with pytest.raises(IsADirectoryError, match=r"expected a file for .* is a folder; name one"):
        predict_file(predictor, Source(rows), **{**places, which: tmp_path}, overwrite=True)
    with pytest.raises(FileNotFoundError, match=r"a folder for .*nodir is none; make it"):
        predict_file(predictor, Source(rows), **{**places, which: tmp_path / "nodir" / "a.tsv"})
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["line", "label", "tokens", "text"])
def test_a_column_called_as_a_field_of_the_answers_is_not_kept(
    predictor: Predictor, tmp_path: Path, name: str
) -> None:
    table, output = tmp_path / "rows.csv", tmp_path / "answers.jsonl"
    table.write_text(f"review,{name}\ngood film,own\n")
    source = Source(table, columns=["review"], keep=[name])
    with pytest.raises(ValueError, match=f"got '{name}'; rename the column in .*rows.csv"):
        predict_file(predictor, source, output)
    if name == "text":  # which is free where texts are not repeated
        predict_file(predictor, source, output, inputs=False)
        assert json.loads(output.read_text())["text"] == "own"


def test_a_full_disk_is_named(
    predictor: Predictor, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "answers.jsonl"

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for what in ("__init__", "write", "finish"):
        with monkeypatch.context() as patch, pytest.raises(OSError) as caught:
            patch.setattr(journal.Output, what, full)
            run_job(predictor, rows, output)
        assert caught.value.filename == str(output)
    assert run_job(predictor, rows, output).answered == 147


def test_nothing_is_written_over_what_is_read(
    predictor: Predictor, rows: Path, tmp_path: Path
) -> None:
    before, output = rows.read_bytes(), tmp_path / "answers.jsonl"
    for written, problems in (
        (rows, None),
        (output, rows),
        (output, tmp_path / "." / "answers.jsonl"),
    ):
        with pytest.raises(ValueError, match="to be two files"):
            predict_file(predictor, Source(rows), written, problems=problems, overwrite=True)
    for ending in ("gz", "zst"):
        with pytest.raises(ValueError, match="written as plain text"):
            predict_file(predictor, Source(rows), tmp_path / f"answers.tsv.{ending}")
    assert rows.read_bytes() == before
    assert not output.exists()
