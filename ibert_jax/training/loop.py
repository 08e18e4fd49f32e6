"""Finetuning from start to end: a float stage, then a quantization-aware stage."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from flax import nnx

from ibert_jax.models import IBertForSequenceClassification
from ibert_jax.quantize import calibrate
from ibert_jax.tokenizer import Tokenizer
from ibert_jax.training.batches import Batcher
from ibert_jax.training.checkpoint import Checkpoints, Position
from ibert_jax.training.data import TokenizedExamples, read_examples, tokenize
from ibert_jax.training.evaluation import evaluate
from ibert_jax.training.metrics import MetricsLog
from ibert_jax.training.options import TrainOptions
from ibert_jax.training.rundir import RunDirectory
from ibert_jax.training.stage import STAGE_NAMES, Stage, plan_stages, run_stage
from ibert_jax.training.state import TrainState
from ibert_jax.training.step import initial_state

_CALIBRATION_STREAM = 100
"""Of random numbers; the stages' own streams are their numbers."""


def finetune(
    options: TrainOptions,
    *,
    model: IBertForSequenceClassification | None = None,
    tokenizer: Tokenizer | None = None,
    stream: TextIO | None = None,
) -> dict[str, Any]:
    """Finetune a classifier in float, quantize it, finetune it again; resume where it was cut off.

    The run directory `options.output` then holds `float/` and `qat/` (models with their tokenizer,
    the second ready to be frozen), `metrics.jsonl`, `summary.json`, `options.json` and
    `checkpoints/`. A run that was killed and is started again with the same options ends with the
    same weights, bit for bit, as one that was not (on the same machine and versions).

    Args:
      options: what to do.
      model: starts from this model instead of reading `options.model`; it is trained in place.
      tokenizer: the model's, instead of the one in `options.model`.
      stream: where progress is shown; standard error by default.

    Returns:
      The content of `summary.json`: `accuracy`, the results of the float, the calibrated and the
      quantization-aware model on the dev file; `steps` and `seconds` of this process.

    Raises:
      FileNotFoundError, ValueError, ...: bad files or options, a run directory of another run, a
        loss that is not finite; in one sentence each.
    """
    shown: TextIO = sys.stderr if stream is None else stream
    run = RunDirectory(options)
    finished = run.summary()
    if finished is not None:
        print(f"{run.path} holds this run, finished; nothing is left to do", file=shown)
        return finished
    tokenizer = tokenizer or Tokenizer.load(options.model)
    model = model or _load_model(options)
    data = _load_data(options, model, tokenizer)
    examples = data.train.examples
    print(
        f"{len(examples)} training sentences in {data.train.steps_per_epoch} batches an epoch, of "
        f"{', '.join(map(str, data.train.lengths))} tokens; {examples.truncated} cut short",
        file=shown,
    )
    with Checkpoints(run.checkpoints, keep=options.keep_checkpoints) as checkpoints:
        return _Finetuning(options, run, model, tokenizer, data, checkpoints, shown).run()


def _load_model(options: TrainOptions) -> IBertForSequenceClassification:
    overrides: dict[str, Any] = {
        "hidden_dropout_prob": options.dropout,
        "attention_probs_dropout_prob": options.attention_dropout,
        "id2label": None if options.labels is None else dict(enumerate(options.labels)),
        "quantization": None if options.scheme is None else {"scheme": options.scheme},
    }
    return IBertForSequenceClassification.from_pretrained(
        options.model,
        rngs=nnx.Rngs(options.seed),
        **{name: value for name, value in overrides.items() if value is not None},
    )


@dataclass(frozen=True)
class _Data:
    """Batches of the training sentences, of a sample of them for calibration, of the dev file."""

    train: Batcher
    calibration: Batcher
    dev: Batcher | None


def _load_data(
    options: TrainOptions, model: IBertForSequenceClassification, tokenizer: Tokenizer
) -> _Data:
    config = model.config
    longest = min(options.max_length, config.max_sequence_length)

    def load(paths: tuple[str, ...]) -> TokenizedExamples:
        examples = read_examples(
            paths,
            config.label2id,
            text_column=options.text_column,
            label_column=options.label_column,
        )
        found = tokenize(examples, tokenizer, max_length=longest)
        if found.tokens.max() >= config.vocab_size:
            raise ValueError(
                f"expected token ids below the model's vocabulary of {config.vocab_size}, got "
                f"{found.tokens.max()}; the tokenizer belongs to another model"
            )
        return found

    batches = partial(
        Batcher,
        batch_size=options.batch_size,
        pad_token_id=config.pad_token_id,
        buckets=options.length_buckets,
    )
    train = load(options.train_files)
    random = np.random.default_rng([options.seed, _CALIBRATION_STREAM])
    sample = random.permutation(len(train))[: options.calibration_sentences]
    dev = None if options.dev_file is None else batches(load((options.dev_file,)))
    return _Data(batches(train), batches(train.select(sample)), dev)


class _Finetuning:
    """A run under way: its model, and what it has found so far."""

    def __init__(
        self,
        options: TrainOptions,
        run: RunDirectory,
        model: IBertForSequenceClassification,
        tokenizer: Tokenizer,
        data: _Data,
        checkpoints: Checkpoints,
        stream: TextIO,
    ) -> None:
        self.options, self.directory, self.checkpoints = options, run, checkpoints
        self.model, self.tokenizer, self.data = model, tokenizer, data
        self.stream = stream
        self.stages = plan_stages(options, data.train.steps_per_epoch)
        self.accuracy: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Do what is left to do; returns the summary."""
        started = time.monotonic()
        current, state = self._resume()
        step = 0 if state is None else int(state.step)
        with MetricsLog(self.directory.metrics, (current, step), STAGE_NAMES) as log:
            for stage in self.stages[current:]:
                self._enter(stage, resumed=state is not None)
                run_stage(
                    self.model,
                    stage,
                    self.options,
                    train=self.data.train,
                    dev=self.data.dev,
                    resumed=state,
                    save=partial(self._save, stage),
                    log=log,
                    stream=self.stream,
                )
                state = None
                self._evaluate(stage.name)
                self._write_model(self.directory.path / stage.name)
        summary = {
            "accuracy": self.accuracy,
            "steps": {stage.name: stage.steps for stage in self.stages},
            "seconds": round(time.monotonic() - started, 1),
        }
        self.directory.write_summary(summary)
        return summary

    def _resume(self) -> tuple[int, TrainState | None]:
        """The stage to continue with, and its state where it had begun."""
        like = initial_state(self.model, self.stages[0].optimizer)
        found = self.checkpoints.restore(like)
        if found is None:
            return 0, None
        state, position = found
        self.accuracy = position.results
        name = STAGE_NAMES[position.stage]
        print(f"continuing the {name} stage after step {position.step}", file=self.stream)
        return position.stage, state

    def _enter(self, stage: Stage, *, resumed: bool) -> None:
        """Bring the model into the stage's life."""
        if stage.name == "float":
            self.model.quantize(False)
        elif resumed:
            self.model.quantize(True)  # ranges and weights come from the checkpoint
        else:
            calibrate(
                self.model,
                (
                    {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
                    for batch, _ in self.data.calibration.in_order()
                ),
            )
            self._evaluate("calibrated")

    def _save(self, stage: Stage, state: TrainState) -> None:
        step = int(state.step)
        epoch, batch = divmod(step, stage.steps_per_epoch)
        self.checkpoints.save(state, Position(stage.number, step, epoch, batch, self.accuracy))

    def _evaluate(self, name: str) -> None:
        if self.data.dev is None:
            return
        found = evaluate(self.model, self.data.dev)
        self.accuracy[name] = {**found._asdict(), "accuracy": found.share}
        print(
            f"{name}: {found.correct} of {found.total} dev sentences right, "
            f"{100 * found.share:.2f}%",
            file=self.stream,
            flush=True,
        )

    def _write_model(self, directory: Path) -> None:
        self.model.save_pretrained(directory)
        self.tokenizer.save(directory)
