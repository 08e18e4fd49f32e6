"""Does `ibert-jax predict` keep its promises on a large file: flat memory, no row lost by kill -9?

    python benchmarks/predict_stream.py [--rows 1000000] [--kills 10] [--output FILE.json]

Writes a text file of so many random rows, some of which cannot be read, and a tiny integer program
with random weights, which takes the time of the rest to show. The command runs once without a stop,
its memory read from /proc at every tenth of the rows, and once more killed with SIGKILL at random
rows, each time given again. Both outputs must be the same bytes. Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import ibert_jax as ib
from ibert_jax.inference import default_directory
from ibert_jax.tokenizer import Tokenizer

WORDS = ("a", "the", "film", "was", "good", "bad", "not", "plot", "of", "café", "東京", "🙂")
BAD = (b"", b"caf\xe9", b"\xff\xfe\xfd")


def write_rows(path: Path, rows: int) -> int:
    """Random sentences, one row in about 5,000 unreadable; returns how many are."""
    rng, bad = random.Random(1), 0
    with path.open("wb") as file:
        for _ in range(rows):
            if rng.random() < 2e-4:
                bad += 1
                file.write(rng.choice(BAD) + b"\n")
            else:
                file.write(" ".join(rng.choices(WORDS, k=rng.randint(1, 12))).encode() + b"\n")
    return bad


def write_model(directory: Path) -> None:
    """A one-layer classifier with the tokenizer of the model inside the package."""
    tokenizer = Tokenizer.load(default_directory())
    config = ib.IBertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=65, pad_token_id=0, initializer_range=0.5,
    )  # fmt: skip
    model = ib.IBertForSequenceClassification(config, rngs=nnx.Rngs(0))
    ids = np.random.default_rng(0).integers(1000, 20000, (16, 24)).astype(np.int32)
    ib.freeze(ib.calibrate(model, [{"input_ids": ids}])).save(directory)
    tokenizer.save(directory)


def committed(output: Path) -> int:
    """The rows that the journal of a job tells of."""
    journal = output.with_name(output.name + ".journal")
    lines = journal.read_bytes().split(b"\n")[1:-1] if journal.exists() else []
    return json.loads(lines[-1])["rows"] if lines else 0


def memory(process: subprocess.Popen[bytes], field: str) -> int:
    """MiB of a process, VmRSS now or VmHWM at most; 0 once it is over."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith(field)]
    return int(found[0]) // 1024 if found else 0


def run_whole(command: list[str], output: Path, rows: int) -> dict[str, object]:
    """Run without a stop; memory after every tenth of the rows."""
    started, peak = time.monotonic(), 0
    process = subprocess.Popen([*command, str(output)], stderr=subprocess.PIPE)
    resident: list[int] = []
    while process.poll() is None:
        time.sleep(0.2)
        peak = max(peak, memory(process, "VmHWM"))
        if committed(output) >= (len(resident) + 1) * rows // 10:
            resident.append(memory(process, "VmRSS"))
    assert process.stderr is not None
    said = process.stderr.read().decode()
    assert process.returncode == 0, said
    summary = said.strip().splitlines()[0].removeprefix("ibert-jax: ")
    return {
        "seconds": round(time.monotonic() - started, 1),
        "resident_mib_by_tenths": resident,
        "peak_mib": peak,
        "said": summary.replace(str(output), output.name),
    }


def run_killed(command: list[str], output: Path, rows: int, kills: int) -> list[dict[str, int]]:
    """Run, kill at random rows and run again; what each kill found."""
    rng = random.Random(2)
    found = []
    for target in sorted(rng.sample(range(rows // 100, rows * 9 // 10), kills)):
        process = subprocess.Popen([*command, str(output)], stderr=subprocess.DEVNULL)
        while committed(output) < target:
            assert process.poll() is None, "over before it was killed"
            time.sleep(0.01)
        time.sleep(rng.random())  # anywhere between two commits
        process.kill()
        process.wait()
        assert not output.exists(), "over before it was killed; give more rows"
        found.append({"wanted": target, "committed": committed(output)})
    subprocess.run([*command, str(output)], check=True, stderr=subprocess.DEVNULL)
    return found


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--output", type=Path, help="write the results here, as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        bad = write_rows(here / "rows.txt", args.rows)
        write_model(here / "model")
        command = [sys.executable, "-m", "ibert_jax.cli", "predict", "--model", str(here / "model")]
        command += ["--file", str(here / "rows.txt"), "--batch-size", "128", "--no-text"]
        command += ["--compile-cache", str(here / "cache"), "--output"]
        whole, killed = here / "whole.jsonl", here / "killed.jsonl"
        result: dict[str, object] = {
            "rows": args.rows,
            "bad_rows": bad,
            "whole": run_whole(command, whole, args.rows),
            "kills": run_killed(command, killed, args.rows, args.kills),
        }
        same = all(
            digest(Path(f"{whole}{ending}")) == digest(Path(f"{killed}{ending}"))
            for ending in ("", ".bad.jsonl")
        )
        lines = [Path(f"{killed}{e}").read_bytes().count(b"\n") for e in ("", ".bad.jsonl")]
        result |= {
            "identical": same,
            "answers": lines[0],
            "problems": lines[1],
            "sha256": digest(whole),
            "device": str(jax.devices()[0].device_kind),
            "processor": platform.processor() or platform.machine(),
            "versions": {name: version(name) for name in ("jax", "flax", "tokenizers")},
        }
    print(json.dumps(result, indent=2))
    if args.output is not None:
        args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if same and lines == [args.rows - bad, bad] else 1


if __name__ == "__main__":
    sys.exit(main())
