"""One training run for each seed and pair of learning rates, and what they have in common."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax

from ibert_jax.training.loop import finetune
from ibert_jax.training.metrics import write_json
from ibert_jax.training.options import TrainOptions
from ibert_jax.training.stage import DivergedError

SUMMARY = "sweep.json"


def sweep(
    options: TrainOptions,
    *,
    seeds: Sequence[int],
    learning_rates: Sequence[float],
    qat_learning_rates: Sequence[float],
    stream: TextIO | None = None,
) -> dict[str, Any]:
    """Finetune once for every seed and learning rate, one after the other.

    Each run has a directory of its own in `options.output`. One that is finished is not repeated,
    one that was cut short goes on, so that the same sweep may be given again, or a larger one. A
    run whose loss is not finite any more is noted and passed over.

    Args:
      options: of all runs, but for what follows.
      seeds, learning_rates, qat_learning_rates: at least one of each, none twice.
      stream: where progress is shown; standard error by default.

    Returns:
      The content of `sweep.json`, which is in `options.output` then: `metric`; `runs`, each with
      `directory` (in `options.output`), `seed`, `learning_rate`, `qat_learning_rate` and
      `results` by stage, or `error`; and `rates`, for each pair of learning rates the `mean`,
      `spread` (the standard deviation of a sample; 0 of one run) and `runs` by stage of what the
      task counts.

    Raises:
      ValueError: options that make no sense, of any of the runs, before the first begins.
    """
    shown: TextIO = sys.stderr if stream is None else stream
    planned = _plan(options, seeds, learning_rates, qat_learning_rates)
    runs = []
    for number, (values, one) in enumerate(planned, 1):
        print(f"run {number} of {len(planned)}: {values['directory']}", file=shown, flush=True)
        try:
            runs.append({**values, "results": finetune(one, stream=shown)["results"]})
        except DivergedError as error:
            print(str(error), file=shown, flush=True)
            runs.append({**values, "error": str(error)})
        jax.clear_caches()  # of this run's functions; what they compiled to is cached on disk
    summary = {
        "task": options.task.name,
        "metric": list(options.task.metric),
        "runs": runs,
        "rates": _by_rates(runs),
    }
    write_json(Path(options.output) / SUMMARY, summary)
    return summary


def _plan(
    options: TrainOptions, seeds: Sequence[int], rates: Sequence[float], qat: Sequence[float]
) -> list[tuple[dict[str, Any], TrainOptions]]:
    """The runs, by seed last: (what tells them apart, their options)."""
    given = {"seeds": seeds, "learning_rates": rates, "qat_learning_rates": qat}
    for name, values in given.items():
        if not values or len(set(values)) != len(values):
            raise ValueError(f"{name} must be different values, at least one, got {[*values]}")
    planned = []
    for rate, qat_rate, seed in itertools.product(rates, qat, seeds):
        values = {"seed": seed, "learning_rate": rate, "qat_learning_rate": qat_rate}
        directory = f"rate-{_name(rate)}-qat-{_name(qat_rate)}-seed-{seed}"
        one = dataclasses.replace(options, output=str(Path(options.output) / directory), **values)
        planned.append(({"directory": directory, **values}, one))
    return planned


def _name(rate: float) -> str:
    """A rate in a folder's name, short where that says it all."""
    return short if float(short := f"{rate:g}") == rate else repr(rate)


def _by_rates(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread over the seeds, for each pair of rates in their order."""
    names = ("learning_rate", "qat_learning_rate")
    pairs = dict.fromkeys(tuple(run[name] for name in names) for run in runs)
    return [
        {
            **dict(zip(names, pair, strict=True)),
            "stages": _by_stage(
                [
                    run["results"]
                    for run in runs
                    if "results" in run and tuple(run[name] for name in names) == pair
                ]
            ),
        }
        for pair in pairs
    ]


def _by_stage(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    found: dict[str, list[float]] = {}
    for one in results:
        for stage, measures in one.items():
            found.setdefault(stage, []).append(measures["primary"])
    return {
        stage: {
            "mean": statistics.fmean(values),
            "spread": statistics.stdev(values) if len(values) > 1 else 0.0,
            "runs": len(values),
        }
        for stage, values in found.items()
    }
