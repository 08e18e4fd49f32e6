"""Finetuning from start to end: a float stage, then a quantization-aware stage."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any, TextIO

import jax

from ibert_jax.checks import check_kind
from ibert_jax.quantize import calibrate
from ibert_jax.tokenizer import Tokenizer
from ibert_jax.training.best import BestModel
from ibert_jax.training.checkpoint import Checkpoints, Position
from ibert_jax.training.evaluation import Predict, answers_of, make_predict, measured
from ibert_jax.training.kinds import kind_of
from ibert_jax.training.metrics import MetricsLog
from ibert_jax.training.options import TrainOptions
from ibert_jax.training.prepare import (
    Data,
    check_fit,
    check_model,
    load_data,
    load_model,
    note_task,
)
from ibert_jax.training.rundir import RunDirectory
from ibert_jax.training.sharding import sharing_of
from ibert_jax.training.stage import STAGE_NAMES, Stage, plan_stages, run_stage
from ibert_jax.training.state import TrainState, take_apart
from ibert_jax.training.step import initial_state


def finetune(
    options: TrainOptions,
    *,
    model: Any = None,
    tokenizer: Tokenizer | None = None,
    stream: TextIO | None = None,
) -> dict[str, Any]:
    """Finetune a model in float, quantize it, finetune it again; resume where it was cut off.

    The run directory `options.output` then holds `float/`, `calibrated/` and `qat/` (models with
    their tokenizer, labels and task, the last two ready to be frozen: quantized after training,
    and trained quantization-aware), `float_continued/` if it was asked for,
    `metrics.jsonl`, `summary.json`, `options.json` and `checkpoints/`. A run that was killed and is
    started again with the same options ends with the same weights, bit for bit, as one that was
    not (on the same machine and versions; never tried on a GPU, where gradients of embeddings may
    be summed in any order unless XLA is told otherwise, `--xla_gpu_deterministic_ops=true`).

    Args:
      options: what to do.
      model: starts from this model, with the head of the task's kind, instead of reading
        `options.model`; it is trained in place. Dropout, labels and quantization are its own:
        options that want others are refused.
      tokenizer: the model's, instead of the one in `options.model`.
      stream: where progress is shown; standard error by default.

    Returns:
      The content of `summary.json`: `task` and `metric` (the names of the measures that count),
      `results` (the measures of the float, the calibrated, the quantization-aware and the
      continued float model on the dev file, with `primary`, the mean of those that count),
      `steps`, and `seconds` of this process.

    Raises:
      FileNotFoundError, ValueError, ...: bad files or options, a run directory of another run, a
        loss that is not finite; in one sentence each.
      TypeError: what are no options, or no tokenizer of this package.
    """
    check_kind("options", options, TrainOptions, "ib.TrainOptions(model=..., output=...)")
    if tokenizer is not None:
        check_kind(
            "a tokenizer", tokenizer, Tokenizer, "ibert_jax.tokenizer.Tokenizer.load(folder)"
        )
    if jax.process_count() > 1:
        raise ValueError(
            f"expected a process alone, got {jax.process_count()} that share their devices; a "
            "training loop for several is in examples/many_hosts.py"
        )
    shown: TextIO = sys.stderr if stream is None else stream
    run = RunDirectory(options)
    finished = run.summary()
    if finished is not None:
        print(f"{run.path} holds this run, finished; nothing is left to do", file=shown)
        return finished
    tokenizer = tokenizer or Tokenizer.load(options.model)
    if model is None:
        model = load_model(options)
    else:
        check_model(options, model)
        note_task(model, options.task)
    check_fit(options, model)
    data = load_data(options, model.config, tokenizer)
    examples = data.train.examples
    notes = {"cut short": examples.truncated, "left out": examples.left_out}
    print(
        f"{len(examples)} training examples; batches an epoch: {data.train.steps_per_epoch}, of "
        f"{', '.join(map(str, data.train.lengths))} tokens"
        + "".join(f"; {count} {what}" for what, count in notes.items() if count),
        file=shown,
    )
    keep = options.keep_checkpoints
    with run.begin(), Checkpoints(run.checkpoints, keep=keep) as checkpoints:
        return _Finetuning(options, run, model, tokenizer, data, checkpoints, shown).run()


class _Finetuning:
    """A run under way: its model, and what it has found so far."""

    def __init__(
        self,
        options: TrainOptions,
        run: RunDirectory,
        model: Any,
        tokenizer: Tokenizer,
        data: Data,
        checkpoints: Checkpoints,
        stream: TextIO,
    ) -> None:
        self.options, self.directory, self.checkpoints = options, run, checkpoints
        self.model, self.tokenizer, self.data = model, tokenizer, data
        self.stream = stream
        self.stages = plan_stages(options, data.train.steps_per_epoch)
        self.sharing = sharing_of(options.batch_size // options.accumulate, options.devices)
        self.results: dict[str, Any] = {}
        self._predicts: dict[bool, Predict] = {}

    def run(self) -> dict[str, Any]:
        """Do what is left to do; returns the summary."""
        started = time.monotonic()
        current, state = self._resume()
        step = 0 if state is None else int(state.step)
        board = self.directory.tensorboard if self.options.tensorboard else None
        position = current, step
        with MetricsLog(self.directory.metrics, position, STAGE_NAMES, board=board) as log:
            for stage in self.stages[current:]:
                self._enter(stage, resumed=state is not None)
                best = self._best(stage)
                run_stage(
                    self.model,
                    stage,
                    self.options,
                    train=self.data.train,
                    dev=self.data.dev,
                    resumed=state,
                    save=partial(self._save, stage),
                    predict=self._predict(),
                    judge=best and best.judge,
                    log=log,
                    stream=self.stream,
                    sharing=self.sharing,
                )
                state = None
                if best is not None:
                    best.take()
                self._evaluate(stage.name)
                self._write_model(stage.name)
        task = self.options.task
        summary = {
            "task": task.name,
            "metric": list(task.metric),
            "results": self.results,
            "steps": {stage.name: stage.steps for stage in self.stages},
            "seconds": round(time.monotonic() - started, 1),
        }
        self.directory.write_summary(summary)
        for stage in self.stages:  # not before: a run that is cut short still needs them
            best = self._best(stage)
            if best is not None:
                best.forget()
        return summary

    def _resume(self) -> tuple[int, TrainState | None]:
        """The stage to continue with, and its state where it had begun."""
        like = initial_state(self.model, self.stages[0].optimizer)
        found = self.checkpoints.restore(like)
        if found is None:
            return 0, None
        state, position = found
        self.results = position.results
        name = STAGE_NAMES[position.stage]
        self._say(f"continuing the {name} stage after step {position.step}")
        return position.stage, state

    def _enter(self, stage: Stage, *, resumed: bool) -> None:
        """Bring the model into the stage's life."""
        if stage.name == "float_continued" and not resumed:
            kind = kind_of(self.options.task)
            self.model = kind.head.from_pretrained(self.directory.path / "float")
        if not stage.quantized:
            self.model.quantize(False)
        elif resumed:
            self.model.quantize(True)  # ranges and weights come from the checkpoint
        else:
            batches = self.data.calibration.in_order()
            self._say(f"calibrating on {len(self.data.calibration.examples)} training examples")
            calibrate(self.model, (batch.inputs for batch, _ in batches))
            self._evaluate("calibrated")
            self._write_model("calibrated")

    def _best(self, stage: Stage) -> BestModel | None:
        if not self.options.select_best or stage.steps == 0:
            return None
        directory = self.directory.path / f"best_{stage.name}"
        return BestModel(self.model, directory, rising=self.options.task.rising)

    def _predict(self) -> Predict:
        """Answers of the model in its present life; compiled once for each of the two."""
        quantized = self.model.config.quant_mode
        if quantized not in self._predicts:
            self.model.eval()
            self._predicts[quantized] = make_predict(self.model, self.options.task)
        return self._predicts[quantized]

    def _save(self, stage: Stage, state: TrainState) -> None:
        step = int(state.step)
        epoch, batch = divmod(step, stage.steps_per_epoch)
        self.checkpoints.save(state, Position(stage.number, step, epoch, batch, self.results))

    def _evaluate(self, name: str) -> None:
        if self.data.dev is None:
            return
        self._say(f"evaluating the {name} model on {len(self.data.dev.examples)} examples")
        task, predict = self.options.task, self._predict()
        found = measured(
            answers_of(predict, take_apart(self.model, copy=False), self.sharing),
            self.data.dev,
            task,
            self.model.config.id2label,
        )
        self.results[name] = {**found.measures, "primary": found.primary}
        told = ", ".join(f"{metric} {found.measures[metric]:.4f}" for metric in task.metric)
        self._say(f"{name}: {told} on dev")

    def _say(self, message: str) -> None:
        print(message, file=self.stream, flush=True)

    def _write_model(self, name: str) -> None:
        directory = self.directory.path / name
        self.model.save_pretrained(directory)
        self.tokenizer.save(directory)
