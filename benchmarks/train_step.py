"""What does a quantization-aware training step cost, beside a float32 one?

    python benchmarks/train_step.py [--hidden 384 --layers 6 --heads 12 --batch 32 --length 64]
        [--rounds 7] [--torch] [--record FILE.json]

One model with random weights in both lives, one optimizer (AdamW), dropout on, the steps taken in
turns: whatever else the machine does falls on both alike. Printed are the medians over the rounds
and the median over the rounds of the ratio. With ``--torch`` (extra ``conversion``) the same of
transformers' IBert, ``quant_mode`` off and on.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

import ibert_jax as ib
from ibert_jax.files import write_whole
from ibert_jax.layers.leaf import set_life
from ibert_jax.training.batches import Batch
from ibert_jax.training.kinds import KINDS
from ibert_jax.training.optimizer import make_optimizer, warmup_linear_decay
from ibert_jax.training.step import dropout_key, initial_state, make_train_step

VOCABULARY = 8000
Step = Callable[[], Any]


def shape_of(args: argparse.Namespace) -> dict[str, int]:
    """The model's sizes, as both configurations name them."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": args.hidden,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "intermediate_size": 4 * args.hidden,
        "max_position_embeddings": args.length + 2,
    }


def batch_of(args: argparse.Namespace) -> Batch:
    draw = np.random.default_rng(0)
    ids = draw.integers(4, VOCABULARY, (args.batch, args.length), np.int32)
    return Batch(
        inputs={"input_ids": ids, "attention_mask": np.ones_like(ids)},
        targets={"labels": draw.integers(0, 2, args.batch).astype(np.int32)},
        weights=np.ones(args.batch, np.float32),
    )


def our_steps(args: argparse.Namespace, batch: Batch) -> dict[str, Step]:
    """A step of either life; each goes on from the state that it left."""
    steps: dict[str, Step] = {}
    for name, quantized in (("ours, float32", False), ("ours, quantization-aware", True)):
        model = ib.IBertForSequenceClassification(
            ib.IBertConfig(**shape_of(args)), rngs=nnx.Rngs(0)
        )
        ib.calibrate(model, [dict(batch.inputs)])
        model.train()
        set_life(model, observing=quantized, quantized=quantized)
        optimizer = make_optimizer(
            warmup_linear_decay(1e-5, 10_000, 0), weight_decay=0.01, clip_norm=1.0
        )
        step = make_train_step(model, optimizer, dropout_key(0, 0), KINDS["classification"].loss)
        states = [initial_state(model, optimizer)]

        def run(step: Any = step, states: list[Any] = states) -> None:
            states[0], loss = step(states[0], batch)
            jax.block_until_ready((states[0], loss))

        steps[name] = run
    return steps


def torch_steps(args: argparse.Namespace, batch: Batch) -> dict[str, Step]:
    import torch
    import transformers

    inputs = {name: torch.tensor(array).long() for name, array in batch.inputs.items()}
    labels = torch.tensor(batch.targets["labels"]).long()
    steps: dict[str, Step] = {}
    for name, quantized in (("IBert, float32", False), ("IBert, quant_mode", True)):
        config = transformers.IBertConfig(**shape_of(args), quant_mode=quantized)
        model = transformers.IBertForSequenceClassification(config).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

        def run(model: Any = model, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            model(**inputs, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

        steps[name] = run
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, default in (("hidden", 384), ("layers", 6), ("heads", 12)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("batch", 32), ("length", 64), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--record", type=Path, metavar="FILE.json")
    args = parser.parse_args()

    batch = batch_of(args)
    steps = our_steps(args, batch) | (torch_steps(args, batch) if args.torch else {})
    first, times = {}, {name: [] for name in steps}
    for name, step in steps.items():
        begun = time.perf_counter()
        step()
        first[name] = time.perf_counter() - begun
        step()  # the second one may still compile: its state has been through the first
    for _ in range(args.rounds):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - begun)

    rows = []
    names = list(steps)
    for plain, quantized in zip(names[::2], names[1::2], strict=True):
        ratios = [b / a for a, b in zip(times[plain], times[quantized], strict=True)]
        for name, ratio in ((plain, 1.0), (quantized, statistics.median(ratios))):
            rows.append(
                {
                    "name": name,
                    "seconds": statistics.median(times[name]),
                    "of its float32 step": ratio,
                    "first step, seconds": first[name],
                }
            )
            print("{:26} {:.4f} s  {:5.2f}  first {:6.2f} s".format(*rows[-1].values()))
    if args.record:
        found = {
            "versions": {"ibert_jax": ib.__version__, "jax": jax.__version__},
            "device": platform.processor() or platform.machine(),
            "shape": shape_of(args) | {"batch": args.batch, "length": args.length},
            "rounds": args.rounds,
            "rows": rows,
        }
        write_whole(args.record, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
