"""What decides the bytes of a job is part of it, and its journal outlasts what may happen to it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ibert_jax.inference import Predictor, Source, journal, predict_file

from .conftest import OPEN_FILES, Killed, run_job


def test_names_are_on_the_disk_before_the_journal_goes(predictor, rows, tmp_path, monkeypatch):
    if not OPEN_FILES.exists():
        pytest.skip("asks /proc for the names of open files")
    acts = []
    fsync, replace, unlink = os.fsync, Path.replace, Path.unlink

    def synced(number):
        acts.append(("sync", (OPEN_FILES / str(number)).resolve()))
        fsync(number)

    def replaced(path, target):
        acts.append(("rename", Path(target)))
        return replace(path, target)

    def unlinked(path, missing_ok=False):
        acts.append(("remove", path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(Path, "unlink", unlinked)
    output = tmp_path / "a.jsonl"
    run_job(predictor, rows, output)
    gone = acts.index(("remove", tmp_path / "a.jsonl.journal"))
    for name in ("a.jsonl", "a.jsonl.bad.jsonl"):
        assert ("sync", tmp_path) in acts[acts.index(("rename", tmp_path / name)) : gone]
    assert acts[gone + 1 :].count(("sync", tmp_path)) == 1


def test_a_journal_that_another_process_has_just_removed_is_not_written(tmp_path):
    pytest.importorskip("fcntl")
    path = tmp_path / "a.journal"
    for again in (False, True):
        with path.open("a+b") as file:
            path.unlink()
            if again:
                path.write_bytes(b"")
            with pytest.raises(ValueError, match="has just finished"):
                journal._lock(file, path)


def test_a_torn_line_costs_nothing_but_itself(predictor, rows, tmp_path, monkeypatch):
    """What is done after it was taken up is not done again either."""
    monkeypatch.setattr(journal, "_INTERVAL", 0.0)
    output = tmp_path / "answers.jsonl"

    def until(last):
        def stop(done, source):
            if done.rows == last:
                raise Killed

        return stop

    with pytest.raises(Killed):
        run_job(predictor, rows, output, report=until(64))
    with (tmp_path / "answers.jsonl.journal").open("ab") as file:
        file.write(b'{"rows": 96, "answ')
    with pytest.raises(Killed):
        run_job(predictor, rows, output, report=until(128))
    predictor.reset_statistics()
    assert run_job(predictor, rows, output).rows == 150
    assert predictor.statistics.rows == 150 - 128


def test_a_job_that_did_nothing_yet_gives_way_to_another(tmp_path):
    names = tmp_path / "a", tmp_path / "a.bad"
    journal.Output(*names, {"model": 1}).close()
    with journal.Output(*names, {"model": 2}) as out:
        assert not out.resumed
        out.finish()


@pytest.mark.parametrize(
    "change", ["model", "options", "batch_size", "columns", "end of the input"]
)
def test_what_decides_the_bytes_is_part_of_the_job(
    change, program, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(journal, "_INTERVAL", 0.0)
    table, output = tmp_path / "rows.jsonl", tmp_path / "a.jsonl"
    line = json.dumps({"text": "good film", "id": "x" * 1000, "other": "bad"}) + "\n"
    table.write_text(line * 300)
    folders = [tmp_path / "one", tmp_path / "two"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        (folder / "config.json").write_text(str(number))

    def run(changed, **options):
        what = change if changed else ""
        size, length = (2 if what == "batch_size" else 1), (9 if what == "options" else 18)
        predictor = Predictor(program, tokenizer, batch_size=size, max_length=length)
        keep = ["id"] if what != "columns" else []
        source = Source(table, columns=["text"], keep=keep)
        return predict_file(predictor, source, output, model=folders[what == "model"], **options)

    def stop(done, source):
        raise Killed

    with pytest.raises(Killed):
        run(False, report=stop)
    if change == "end of the input":
        table.write_text(line * 299 + line.replace("good", "poor"))
    word = {"end of the input": "input"}.get(change, change)
    with pytest.raises(ValueError, match=f"differs in: {word};"):
        run(True)


def test_half_a_character_in_a_kept_value_is_written_as_it_was(
    program, tokenizer, tmp_path
) -> None:
    path, output = tmp_path / "rows.jsonl", tmp_path / "answers.tsv"
    path.write_text('{"text": "good film", "id": "\\ud800"}\n')
    predict_file(Predictor(program, tokenizer), Source(path, columns=["text"], keep=["id"]), output)
    assert output.read_text().splitlines()[1].startswith("1\t\\ud800\t")
