"""Does `ibert-jax train` end the same after kill -9, and is a broken checkpoint ever believed?

    python benchmarks/resume.py [--kills 10] [--seed 0] [--output FILE.json]

A tiny classifier learns generated text on the real command line: in float, quantization-aware, in
float again, with dropout, evaluation and the choice of the best epoch. One run is left alone.
Others are killed with SIGKILL, each at a random moment of its training, every second one a few
milliseconds into the writing of a checkpoint, and given again. All must end with the same bytes in
every model file, and tell the same losses, learning rates, measures and checksums of the data.
Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from flax import nnx

import ibert_jax as ib
from ibert_jax.inference import default_directory
from ibert_jax.tokenizer import Tokenizer

WORDS = ("a", "the", "film", "was", "plot", "of", "story", "and", "music", "very")
JUDGING = ("bad", "good")
OPTIONS = [
    "--float-epochs", "3", "--qat-epochs", "2", "--continue-float", "--select-best",
    "--learning-rate", "1e-3", "--qat-learning-rate", "1e-4", "--batch-size", "16",
    "--length-buckets", "2", "--checkpoint-every", "7", "--log-every", "3",
]  # fmt: skip
STAGES = ("float", "calibrated", "qat", "float_continued")
CHANGING = ("time", "sentences_per_second", "tokens_per_second")
"""Fields of the metrics that tell of the clock."""
UNDER_WAY = "*orbax-checkpoint-tmp*"
"""What orbax calls a checkpoint, and parts of it, before they are complete."""


def write_model(directory: Path) -> None:
    """A one-layer classifier with the tokenizer (30,522 tokens) of the model inside the package."""
    tokenizer = Tokenizer.load(default_directory())
    config = ib.IBertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=64, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=128, max_position_embeddings=65, pad_token_id=0, initializer_range=0.1,
    )  # fmt: skip
    ib.IBertForSequenceClassification(config, rngs=nnx.Rngs(0)).save_pretrained(directory)
    tokenizer.save(directory)


def write_sentences(path: Path, rows: int, seed: int) -> None:
    draw = random.Random(seed)
    lines = ["sentence\tlabel"]
    for _ in range(rows):
        label = draw.randrange(2)
        words = [*draw.choices(WORDS, k=draw.randint(1, 20)), JUDGING[label]]
        lines.append(f"{' '.join(draw.sample(words, len(words)))}\t{label}")
    path.write_text("\n".join(lines) + "\n")


class Run:
    """A run directory and the command that fills it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.directory = folder / name
        self._command = [sys.executable, "-m", "ibert_jax.cli", "train", str(folder / "model")]
        self._command += ["--train", str(folder / "train.tsv"), "--dev", str(folder / "dev.tsv")]
        self._command += ["--output", str(self.directory), *OPTIONS]
        self._command += ["--compile-cache", str(folder / "cache")]

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def finish(self) -> str:
        """Run to the end; what the command said."""
        process = self.start()
        _, said = process.communicate()
        if process.returncode != 0:
            raise SystemExit(f"the command failed: {said}")
        return said

    def begin(self) -> tuple[subprocess.Popen[str], float]:
        """The process, and the seconds it took until it told of its first steps."""
        started, process = time.perf_counter(), self.start()
        while not self.told():
            if process.poll() is not None:
                raise SystemExit(f"the command failed: {process.communicate()[1]}")
            time.sleep(0.01)
        return process, time.perf_counter() - started

    def kill(self, delay: float, into_checkpoint: float | None) -> dict[str, Any] | None:
        """Kill it; where it was then. None: it ended too early.

        delay: seconds since its first steps. into_checkpoint: further seconds from the moment
        when the next checkpoint has a temporary folder.
        """
        process, _ = self.begin()
        time.sleep(delay)
        if into_checkpoint is not None:
            while not self.under_way() and process.poll() is None:
                time.sleep(0.0005)
            time.sleep(into_checkpoint)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            return None
        last = self.told()[-1]
        return {
            "stage": last["stage"],
            "step": last["step"],
            "checkpoint_under_way": bool(self.under_way()),
        }

    def under_way(self) -> list[Path]:
        return [*(self.directory / "checkpoints").glob(UNDER_WAY)]

    def told(self) -> list[dict[str, Any]]:
        """The complete lines of the metrics file."""
        path = self.directory / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]

    def weights(self) -> dict[str, str]:
        """SHA-256 of every file of every model."""
        files = [f for stage in STAGES for f in sorted((self.directory / stage).iterdir())]
        return {
            str(f.relative_to(self.directory)): hashlib.sha256(f.read_bytes()).hexdigest()
            for f in files
        }

    def metrics(self) -> list[dict[str, Any]]:
        return [
            {name: value for name, value in line.items() if name not in CHANGING}
            for line in self.told()
        ]

    def compare(self, other: Run) -> dict[str, bool]:
        """What ended the same; each of them is as strict as bytes can be."""
        mine, theirs = self.metrics(), other.metrics()
        order = [
            [(line["stage"], line["step"], line["data"]) for line in lines if "data" in line]
            for lines in (mine, theirs)
        ]
        results = [json.loads((run.directory / "summary.json").read_text())["results"]
                   for run in (self, other)]  # fmt: skip
        return {
            "weights": self.weights() == other.weights(),
            "metrics": mine == theirs and results[0] == results[1],
            "data_order": order[0] == order[1],
        }


def kill_and_resume(folder: Path, whole: Run, span: float, args: argparse.Namespace) -> list[Any]:
    """One line a kill. span: seconds from the first steps to the end, left alone."""
    draw, rows = random.Random(args.seed), []
    while len(rows) < args.kills:
        run = Run(folder, f"killed-{len(rows)}")
        delay = draw.uniform(0, 0.95 * span)
        into = draw.uniform(0, 0.05) if len(rows) % 2 else None
        where = run.kill(delay, into)
        if where is None:  # as if never drawn
            subprocess.run(["rm", "-r", str(run.directory)], check=True)
            continue
        said = run.finish()
        resumed = [line for line in said.splitlines() if line.startswith("continuing")]
        row = {
            "delay_s": round(delay, 3),
            **where,
            "resumed": resumed[0] if resumed else "from the start",
            **run.compare(whole),
        }
        print(row, flush=True)
        rows.append(row)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write the figures here, as JSON")
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        write_sentences(folder / "train.tsv", 300, seed=1)
        write_sentences(folder / "dev.tsv", 60, seed=2)
        Run(folder, "compiles").finish()
        whole = Run(folder, "whole")
        process, begun = whole.begin()
        started = time.perf_counter()
        process.communicate()
        span = time.perf_counter() - started
        print(f"left alone: {begun:.1f} s to the first steps, {span:.1f} s from there", flush=True)
        again = Run(folder, "compiles").compare(whole)
        rows = kill_and_resume(folder, whole, span, args)
        steps = json.loads((whole.directory / "summary.json").read_text())["steps"]
        checkpoint = sum(
            f.stat().st_size
            for f in max((whole.directory / "checkpoints").iterdir()).rglob("*")
            if f.is_file()
        )
    same = {name: all(row[name] for row in rows) for name in again}
    record = {
        "versions": {name: version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint")},
        "python": platform.python_version(),
        "device": str(jax.devices()[0].device_kind),
        "options": " ".join(OPTIONS),
        "steps": steps,
        "checkpoint_bytes": checkpoint,
        "seed": args.seed,
        "seconds_of_training_left_alone": round(span, 2),
        "same_when_left_alone_twice": again,
        "same_after_kill": same,
        "kills_during_a_checkpoint": sum(row["checkpoint_under_way"] for row in rows),
        "kills": rows,
    }
    print(json.dumps({name: record[name] for name in record if name != "kills"}, indent=1))
    if args.output:
        args.output.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(same.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
