"""Are the integers of a frozen program those of the model it was trained as, on a whole file?

    python benchmarks/equality.py --checkpoint run/qat --data dev.tsv

Freezes a quantization-aware checkpoint, and compares every int32 logit of the program with the
quantization-aware model's in evaluation, at batch sizes 1, 7 and 64 and padded to the batch's
longest row, to 64 and to 128 tokens. Prints one line a setting; exits with 1 on any difference.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

import ibert_jax as ib
from ibert_jax.inference import load_classifier
from ibert_jax.tokenizer import Tokenizer

BATCH_SIZES = (1, 7, 64)
PADDINGS = (0, 64, 128)
Rows = list[list[int]]


def batches(rows: Rows, size: int, padding: int, pad: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches of ``size`` rows (the last is filled up with its first row), padded on the right."""
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        chunk = chunk + [chunk[0]] * (size - len(chunk))
        width = max(padding, max(map(len, chunk)))
        ids = np.full((size, width), pad, np.int32)
        for index, row in enumerate(chunk):
            ids[index, : len(row)] = row
        mask = np.arange(width)[None] < np.array([len(row) for row in chunk])[:, None]
        yield {"input_ids": ids, "attention_mask": mask.astype(np.int32)}


def logits(
    run: Callable[[dict[str, np.ndarray]], jax.Array], rows: Rows, size: int, padding: int, pad: int
) -> np.ndarray:
    """int32 [rows, labels]."""
    found = [np.asarray(run(batch)) for batch in batches(rows, size, padding, pad)]
    return np.concatenate(found)[: len(rows)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()

    model = load_classifier(arguments.checkpoint)
    assert isinstance(model, ib.IBertForSequenceClassification)
    model.quantize(True)
    model.eval()
    program = ib.freeze(model)
    tokenizer = Tokenizer.load(arguments.checkpoint)
    lines = arguments.data.read_text(encoding="utf-8").split("\n")[1:]
    texts = [line.split("\t")[0] for line in lines if line.strip()]
    rows = [e.ids.tolist() for e in tokenizer.encode(texts, max_length=128)]
    pad = model.config.pad_token_id

    simulate = jax.jit(lambda model, batch: model(**batch).logits.q)
    trained = logits(lambda batch: simulate(model, batch), rows, 64, 128, pad)
    print(f"{len(rows)} sentences, {trained.size} int32 logits, {len(np.unique(trained))} distinct")
    differing = 0
    for size in BATCH_SIZES:
        for padding in PADDINGS:
            frozen = logits(lambda b: program.integers(**b).logits, rows, size, padding, pad)
            wrong = int((frozen != trained).sum())
            differing += wrong
            width = padding or "the longest"
            print(f"batch {size:2}, padded to {width}: {wrong} logits differ", flush=True)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
