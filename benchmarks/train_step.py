"""What does a quantization-aware training step cost, beside a float32 one?

    python benchmarks/train_step.py [--hidden 384 --layers 6 --heads 12 --batch 32 --length 64]
        [--vocabulary 8000] [--rounds 7] [--torch | --masked-lm] [--record FILE.json]

One model with random weights in both lives, one optimizer (AdamW), dropout on, the steps taken in
turns: whatever else the machine does falls on both alike. Printed are the medians over the rounds
and the median over the rounds of the ratio. With ``--torch`` (extra ``conversion``) the same of
transformers' IBert, ``quant_mode`` off and on. With ``--masked-lm`` a masked language model's, and
how much it saves to score the tokens that are to be guessed alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from machine import device_name, versions

import ibert_jax as ib
from ibert_jax.files import write_whole
from ibert_jax.layers.leaf import set_life
from ibert_jax.training.batches import Batch
from ibert_jax.training.kinds import KINDS
from ibert_jax.training.masking import Masking, guesses
from ibert_jax.training.optimizer import make_optimizer, warmup_linear_decay
from ibert_jax.training.step import dropout_key, initial_state, make_train_step

EVERY, GUESSES = "every token scored", "guesses alone"
LIVES = {"float32": False, "quantization-aware": True}
"""Name -> whether it is quantized."""
Step = Callable[[], Any]


def shape_of(args: argparse.Namespace) -> dict[str, int]:
    """The model's sizes, as both configurations name them."""
    return {
        "vocab_size": args.vocabulary,
        "hidden_size": args.hidden,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "intermediate_size": 4 * args.hidden,
        "max_position_embeddings": args.length + 2,
    }


def batch_of(args: argparse.Namespace) -> Batch:
    """Sentences with a label each."""
    draw = np.random.default_rng(0)
    ids = draw.integers(4, args.vocabulary, (args.batch, args.length), np.int32)
    return Batch(
        inputs={"input_ids": ids, "attention_mask": np.ones_like(ids)},
        targets={"labels": draw.integers(0, 2, args.batch).astype(np.int32)},
        weights=np.ones(args.batch, np.float32),
    )


def masked_batches_of(args: argparse.Namespace) -> dict[str, Batch]:
    """The same masked sentences twice: every token is scored, or those to be guessed."""
    plain = batch_of(args)
    ids, masking = plain.inputs["input_ids"], Masking(0.15, 3, args.vocabulary)
    hidden, labels = masking(ids, ids, np.random.default_rng(1))
    inputs = plain.inputs | {"input_ids": hidden}
    places, found = guesses(labels, masking.room(args.length))
    return {
        EVERY: Batch(inputs, {"labels": labels}, plain.weights),
        GUESSES: Batch(inputs | {"scored_tokens": places}, {"labels": found}, plain.weights),
    }


def our_steps(args: argparse.Namespace, kind: str, batch: Batch, whose: str) -> dict[str, Step]:
    """A step of either life; each goes on from the state that it left."""
    steps: dict[str, Step] = {}
    for life, quantized in LIVES.items():
        model = KINDS[kind].head(ib.IBertConfig(**shape_of(args)), rngs=nnx.Rngs(0))
        ib.calibrate(model, [dict(batch.inputs)])
        model.train()
        set_life(model, observing=quantized, quantized=quantized)
        optimizer = make_optimizer(
            warmup_linear_decay(1e-5, 10_000, 0), weight_decay=0.01, clip_norm=1.0
        )
        step = make_train_step(model, optimizer, dropout_key(0, 0), KINDS[kind].loss)
        states = [initial_state(model, optimizer)]

        def run(step: Any = step, states: list[Any] = states) -> None:
            states[0], loss = step(states[0], batch)
            jax.block_until_ready((states[0], loss))

        steps[f"{whose}, {life}"] = run
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
    for name, default in (("batch", 32), ("length", 64), ("vocabulary", 8000), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--torch", action="store_true")
    other.add_argument("--masked-lm", action="store_true")
    parser.add_argument("--record", type=Path, metavar="FILE.json")
    args = parser.parse_args()

    steps: dict[str, Step] = {}
    if args.masked_lm:
        for whose, batch in masked_batches_of(args).items():
            steps |= our_steps(args, "masked_lm", batch, whose)
    else:
        batch = batch_of(args)
        steps |= our_steps(args, "classification", batch, "ours")
        steps |= torch_steps(args, batch) if args.torch else {}
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

    def ratio(name: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(times[name], times[other], strict=True))

    rows = []
    names = list(steps)
    for plain, quantized in zip(names[::2], names[1::2], strict=True):
        for name in (plain, quantized):
            rows.append(
                {
                    "name": name,
                    "seconds": statistics.median(times[name]),
                    "of its float32 step": ratio(name, plain),
                    "first step, seconds": first[name],
                }
            )
            print("{:40} {:.4f} s  {:5.2f}  first {:6.2f} s".format(*rows[-1].values()))
    shares = {}
    if args.masked_lm:
        shares = {life: ratio(f"{GUESSES}, {life}", f"{EVERY}, {life}") for life in LIVES}
    for life, share in shares.items():
        print(f"{GUESSES} take {share:.2f} of the time, {life}")
    if args.record:
        found = {
            "versions": versions(["ibert_jax", "jax"]),
            "device": device_name(),
            "shape": shape_of(args) | {"batch": args.batch, "length": args.length},
            "rounds": args.rounds,
            "rows": rows,
        } | ({f"{GUESSES}, of the time with {EVERY}": shares} if shares else {})
        write_whole(args.record, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
