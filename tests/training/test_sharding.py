"""Devices that share a batch, in one process and in several, find what one device finds."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from ibert_jax.frozen import freeze
from ibert_jax.models import IBertForSequenceClassification
from ibert_jax.tokenizer import Tokenizer
from ibert_jax.training import (
    KINDS,
    Batcher,
    batches_of,
    dropout_key,
    initial_state,
    load_task,
    make_optimizer,
    make_train_step,
    read_examples,
    warmup_linear_decay,
)
from ibert_jax.training.sharding import sharing_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "many_hosts.py"


def start(words: list[str], devices: int) -> subprocess.Popen[str]:
    # Compiled without optimization: that takes half the time, and changes no integer.
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    return subprocess.Popen(
        [sys.executable, str(EXAMPLE), *words],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> list[float]:
    """The losses that it told."""
    said, complained = process.communicate(timeout=500)
    assert process.returncode == 0, complained
    # Gloo's threads write to the same output, so that a line of theirs may be empty or stand before
    # one of ours.
    return [float(loss) for loss in re.findall(r"loss (\d+\.\d{6})$", said, re.MULTILINE)]


def read(file: Path, model: IBertForSequenceClassification, directory: Path) -> Batcher:
    task = load_task("classification")
    return batches_of(
        read_examples([file], task, model.config.label2id),
        tokenizer=Tokenizer.load(directory),
        config=model.config,
        task=task,
        batch_size=16,
        buckets=1,
    )


def alone(model: IBertForSequenceClassification, data: Batcher) -> list[float]:
    """The losses of the same training on the one device of this process."""
    model.train()
    schedule = warmup_linear_decay(5e-5, data.steps_per_epoch, 0)
    optimizer = make_optimizer(schedule, weight_decay=0.01, clip_norm=1.0)
    step = make_train_step(model, optimizer, dropout_key(0, 0), KINDS["classification"].loss)
    state, losses = initial_state(model, optimizer), []
    for batch in data.epoch((0,)):
        state, loss = step(state, batch)
        losses.append(float(loss))
    return losses


def test_eight_devices_of_two_processes(
    model_directory: Path, train_file: Path, tmp_path: Path
) -> None:
    """The example for many hosts: losses and integers are those of one device."""
    directory, few = tmp_path / "model", tmp_path / "train.tsv"
    shutil.copytree(model_directory, directory)
    config = json.loads((directory / "config.json").read_text())
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (directory / "config.json").write_text(json.dumps(config | still))
    few.write_text("\n".join(train_file.read_text().splitlines()[:60]) + "\n")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    words = [str(directory), str(few), str(tmp_path / "out"), "--batch-size", "16"]
    words += ["--coordinator", address, "--processes", "2", "--process"]
    processes = [start([*words, str(number)], devices=4) for number in range(2)]

    model = IBertForSequenceClassification.from_pretrained(directory)
    data = read(few, model, directory)
    losses = alone(model, data)
    told = [finish(process) for process in processes]
    assert told[0] == told[1]
    # Eight partial sums, added in another order; and told with six digits.
    np.testing.assert_allclose(told[0], losses, rtol=1e-5, atol=1e-6)

    trained = IBertForSequenceClassification.from_pretrained(tmp_path / "out")
    program = freeze(trained.quantize())
    run = jax.jit(lambda program, inputs: program.integers(**inputs).logits)
    found = np.load(tmp_path / "out" / "logits.npy")
    assert len(np.unique(found)) > 50
    for batch, members in data.in_order():
        logits = np.asarray(run(program, batch.inputs))[: len(members)]
        np.testing.assert_array_equal(logits, found[members])


def test_shares_are_equal() -> None:
    """This process has one device."""
    assert sharing_of(16, None) is None
    assert sharing_of(16, 1) is None
    with pytest.raises(ValueError, match="at most the 1 devices of this machine, got 2"):
        sharing_of(16, 2)
