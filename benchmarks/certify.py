"""Certify a program of RoBERTa-base's shape, random weights, and say how long each part takes.

    python benchmarks/certify.py [--layers 12] [--output FILE.json]

Ranges do not care whether weights were trained: wide random ones are the harder case.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from flax import nnx

import ibert_jax as ib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--output", type=Path, help="write the certificate and the times here")
    args = parser.parse_args()
    config = ib.IBertConfig(
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, pad_token_id=1,
        num_hidden_layers=args.layers,
    )  # fmt: skip
    model = ib.IBertForSequenceClassification(config, rngs=nnx.Rngs(0))
    ids = np.random.default_rng(0).integers(4, config.vocab_size, (4, 32))
    seconds = {}
    started = time.perf_counter()
    program = ib.freeze(ib.calibrate(model, [{"input_ids": ids}]))
    seconds["calibrate and freeze"] = time.perf_counter() - started
    started = time.perf_counter()
    ib.certify(program, overflow=False)
    seconds["census of three forms, 8 x 128"] = time.perf_counter() - started
    started = time.perf_counter()
    certificate = ib.certify(program)
    seconds["whole certificate, compiled before"] = time.perf_counter() - started
    print(certificate)
    for what, duration in seconds.items():
        print(f"{duration:6.1f} s  {what}")
    if args.output:
        record = {"seconds": seconds, "certificate": json.loads(certificate.to_json())}
        args.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
