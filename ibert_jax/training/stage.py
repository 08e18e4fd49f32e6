"""One stage of a run: so many steps under one schedule, in one life of the model."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

import jax
import numpy as np
import optax

from ibert_jax.layers.leaf import set_life
from ibert_jax.quantize import set_observers
from ibert_jax.training.batches import Batch, Batcher
from ibert_jax.training.evaluation import Predict, answers_of, measured
from ibert_jax.training.kinds import kind_of
from ibert_jax.training.metrics import MetricsLog
from ibert_jax.training.optimizer import make_optimizer, warmup_linear_decay
from ibert_jax.training.options import TrainOptions
from ibert_jax.training.progress import Progress
from ibert_jax.training.sharding import Sharing
from ibert_jax.training.state import Arrays, Skeleton, TrainState
from ibert_jax.training.step import TrainStep, dropout_key, initial_state, make_train_step

STAGE_NAMES = ("float", "qat", "float_continued")


class DivergedError(ValueError):
    """The loss is not finite any more."""


@dataclass(frozen=True)
class Stage:
    """What a stage is to do.

    number: its place in `STAGE_NAMES`. steps: in all; steps_per_epoch: in a pass over the data.
    schedule: step to learning rate. optimizer: over a dict of named parameters.
    """

    number: int
    steps: int
    steps_per_epoch: int
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation

    @property
    def name(self) -> str:
        """`float`, `qat` or `float_continued`."""
        return STAGE_NAMES[self.number]

    @property
    def quantized(self) -> bool:
        """Whether the model is in its quantization-aware life."""
        return self.name == "qat"

    @property
    def stream(self) -> int:
        """Of random numbers: the two second stages see the same batches, for comparison's sake."""
        return min(self.number, 1)


def plan_stages(options: TrainOptions, steps_per_epoch: int) -> list[Stage]:
    """The float stage (perhaps of no step), and those after it that were asked for."""
    first = (options.float_epochs, options.learning_rate, options.warmup)
    second = (options.qat_epochs, options.qat_learning_rate, options.qat_warmup)
    stages = []
    for number, (epochs, peak, warmup) in enumerate((first, second, second)):
        steps = int(min(epochs * steps_per_epoch, options.max_steps or math.inf))
        schedule = warmup_linear_decay(peak, steps, round(warmup * steps))
        optimizer = make_optimizer(
            schedule,
            weight_decay=options.weight_decay,
            clip_norm=options.clip_norm,
            rate_factors=options.rate_factors,
        )
        stages.append(Stage(number, steps, steps_per_epoch, schedule, optimizer))
    if options.qat_epochs == 0:
        return stages[:1]
    return stages if options.continue_float else stages[:2]


Judge = Callable[[Arrays, Arrays, float], None]
"""(params, others, what the task counts of them on dev): told of every epoch."""


def run_stage(
    model: Any,
    stage: Stage,
    options: TrainOptions,
    *,
    train: Batcher,
    dev: Batcher | None,
    resumed: TrainState | None,
    save: Callable[[TrainState], None],
    predict: Predict,
    judge: Judge | None,
    log: MetricsLog,
    stream: TextIO,
    sharing: Sharing | None = None,
) -> None:
    """Train the model in place; it is left in evaluation.

    Args:
      model: in the life of the stage, with the head of the task's kind.
      resumed: where an earlier process stopped; None starts from the model's arrays.
      save: makes a checkpoint of a state. predict: of `make_predict`, for this life.
      judge: is told how good every epoch was, the last one too. None: the last one is not
        evaluated here.
      log: receives a line every `options.log_every` steps, and the dev measures of every epoch.
      sharing: the devices that share each batch; None, the default one alone.

    Raises:
      DivergedError: the loss is not finite.
    """
    task, names = options.task, model.config.id2label
    model.train()
    if not stage.quantized:
        set_life(model, observing=False)  # the ranges of the float life are calibration's matter
    skeleton = Skeleton(model)
    state = initial_state(model, stage.optimizer) if resumed is None else resumed
    if sharing is not None:
        state = sharing.replicate(state)
    step = int(state.step)
    freeze_at = options.freeze_ranges_after if stage.quantized else None
    if freeze_at is not None and step > freeze_at:
        set_observers(model, "frozen")

    def make_step() -> TrainStep:
        return make_train_step(
            model,
            stage.optimizer,
            dropout_key(options.seed, stage.stream),
            kind_of(task).loss,
            parts=options.accumulate,
            bfloat16=options.bfloat16 and not stage.quantized,
            sharing=sharing,
        )

    train_step = make_step()
    progress = Progress(stage.name, total=stage.steps, done=step, stream=stream)
    if step < stage.steps:
        lengths = ", ".join(map(str, train.lengths))
        progress.note(f"{stage.name}: the first batch of each length ({lengths}) is compiled first")
    meter = _Meter(stage, options, log, progress)

    def look_at_dev(epoch: int) -> None:
        if dev is None or (step == stage.steps and judge is None):
            return
        arrays = state.params, state.others
        found = measured(answers_of(predict, arrays, sharing), dev, task, names)
        told = {f"dev_{name}": value for name, value in found.measures.items()}
        log.write(stage=stage.name, step=step, **told)
        score = f"{' and '.join(task.metric)} {found.primary:.4f}"
        progress.note(f"{stage.name}: epoch {epoch + 1}, dev {score}")
        if judge is not None:
            judge(*arrays, found.primary)
        meter.pause()

    while step < stage.steps:
        epoch, first = divmod(step, stage.steps_per_epoch)
        for batch in train.epoch((options.seed, stage.stream, epoch), first):
            if step == freeze_at:
                set_observers(model, "frozen")
                train_step = make_step()
            state, loss = train_step(state, batch)
            step += 1
            meter.add(step, loss, batch)
            # Before the checkpoint: who continues from that need not look again.
            if step % stage.steps_per_epoch == 0 or step == stage.steps:
                look_at_dev(epoch)
            if step % options.checkpoint_every == 0 or step == stage.steps:
                # Told up to here: who continues from here then tells the same.
                meter.tell(step)
                save(state)
                meter.pause()
            if step == stage.steps:
                break
    progress.close()
    skeleton.put_into(model, state.params, state.others)
    model.eval()


class _Meter:
    """Means since it was last told, every `log_every` steps and at checkpoints."""

    def __init__(
        self, stage: Stage, options: TrainOptions, log: MetricsLog, progress: Progress
    ) -> None:
        self._stage, self._every = stage, options.log_every
        self._log, self._progress = log, progress
        self._losses: list[jax.Array] = []
        self._sentences = self._tokens = self._data = 0
        self._since = time.monotonic()

    def add(self, step: int, loss: jax.Array, batch: Batch) -> None:
        """Step number `step` (from 1) was started; the one before is waited for.

        Waiting one step behind keeps the device busy while the next batch is put together.
        """
        if self._losses:
            self._losses[-1].block_until_ready()
        self._losses.append(loss)
        self._sentences += batch.sentences
        self._tokens += batch.tokens
        self._data = zlib.crc32(batch.inputs["input_ids"].tobytes(), self._data)
        self._progress.advance()
        if step % self._every == 0 or step == self._stage.steps:
            self.tell(step)

    def pause(self) -> None:
        """Do not count the time since the last step: it went elsewhere."""
        self._since = time.monotonic()

    def tell(self, step: int) -> None:
        """Log the mean loss and the speed up to a step, unless just done.

        `data` is a checksum of the token ids since: runs that saw the same data show the same.

        Raises DivergedError where the loss is not finite.
        """
        if not self._losses:
            return
        loss = float(np.mean([float(one) for one in self._losses]))
        if not math.isfinite(loss):
            raise DivergedError(
                f"expected a finite loss, got {loss} up to step {step} of the {self._stage.name} "
                "stage; lower its learning rate"
            )
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        rate = float(np.asarray(self._stage.schedule(step - 1)))
        speed = self._sentences / seconds
        self._log.write(
            stage=self._stage.name,
            step=step,
            loss=loss,
            learning_rate=rate,
            sentences_per_second=round(speed, 1),
            tokens_per_second=round(self._tokens / seconds, 1),
            data=f"{self._data:08x}",
        )
        self._progress.show(loss=loss, rate=rate, speed=speed)
        self._losses, self._sentences, self._tokens, self._data = [], 0, 0, 0
        self._since = now
