"""What only other processes show: a real kill -9, and several devices."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import ibert_jax as ib
from ibert_jax.inference import Predictor
from ibert_jax.tokenizer import Tokenizer

# The command itself, but it commits after every window: a kill shall find it within its work.
COMMAND = """
import sys
from ibert_jax.inference import journal
journal._INTERVAL = 0.0
from ibert_jax.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(not hasattr(os, "kill"), reason="needs POSIX signals")
def test_kill_9(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Killed at random moments and given again, the command ends with the bytes of one run."""
    rng = random.Random(3)
    rows = tmp_path / "rows.tsv"
    lines = [
        " ".join(rng.choices(("good", "bad", "film", "very"), k=1 + n % 12)) for n in range(4000)
    ]
    lines[1234] = "one\ttoo many"
    rows.write_text("sentence\n" + "\n".join(lines) + "\n")
    command = [sys.executable, "-c", COMMAND, "predict", "--model", str(tiny_checkpoint)]
    command += ["--file", str(rows), "--batch-size", "2", "--max-length", "16"]
    command += ["--compile-cache", str(tmp_path / "cache"), "--output"]

    def start(output: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, str(output)], stderr=subprocess.PIPE)

    whole = tmp_path / "whole.jsonl"
    _, said = start(whole).communicate(timeout=120)
    assert b"3,999 of 4,000 rows answered" in said, said.decode()

    output = tmp_path / "answers.jsonl"
    journal = tmp_path / "answers.jsonl.journal"
    sizes = []
    for _ in range(2):
        process = start(output)
        before = journal.stat().st_size if journal.exists() else 0
        wanted = before + rng.randint(400, 2500)
        while not (journal.exists() and journal.stat().st_size > wanted):
            assert process.poll() is None, "over before it was killed"
            time.sleep(0.001)
        process.kill()
        process.communicate()
        assert not output.exists()
        sizes.append(journal.stat().st_size)
    assert 0 < sizes[0] < sizes[1]
    _, said = start(output).communicate(timeout=120)
    assert b"3,999 of 4,000 rows answered" in said, said.decode()
    assert output.read_bytes() == whole.read_bytes()
    endings = (Path(f"{path}.bad.jsonl").read_bytes() for path in (output, whole))
    assert len(set(endings)) == 1
    assert not journal.exists()


SHARED = """
import sys
import jax, numpy as np
from ibert_jax.inference import Predictor
assert len(jax.devices()) == 3
predictor = Predictor.load(sys.argv[1], batch_size=13, max_length=16)
texts = ["good " * n + "bad film " * (n % 3) for n in range(13)]
np.save(sys.argv[2], predictor.logits(texts))
assert predictor.statistics.padded_tokens == 15 * 16, "five rows a device"
"""


def test_devices_share_each_batch(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Three devices give the integers of one, though 13 rows are no multiple of three."""
    model = ib.IBertForSequenceClassification.from_pretrained(tiny_checkpoint)
    ids = np.random.default_rng(0).integers(2, 8, (4, 16)).astype(np.int32)
    program = ib.freeze(ib.calibrate(model, [{"input_ids": ids}]))
    directory = tmp_path / "integer"
    program.save(directory)
    Tokenizer.load(tiny_checkpoint).save(directory)
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    done = subprocess.run(
        [sys.executable, "-c", SHARED, str(directory), str(tmp_path / "logits.npy")],
        env={**environment, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    texts = ["good " * n + "bad film " * (n % 3) for n in range(13)]
    alone = Predictor(program, Tokenizer.load(directory), batch_size=13, max_length=16)
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), alone.logits(texts))
