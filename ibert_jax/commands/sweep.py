"""`ibert-jax sweep`: `ibert-jax train` for several seeds and learning rates."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ibert_jax.commands.console import format_table
from ibert_jax.commands.options import add_command
from ibert_jax.commands.train import add_options, fields

_EXAMPLES = """\
  ibert-jax sweep my_bert --task rte --train train.tsv --dev dev.tsv --output sweep \\
      --seeds 0 1 2 --learning-rates 2e-5 5e-5

each run has its directory in --output, as `ibert-jax train` would leave it. Given again, it
passes over finished runs and goes on with one that was cut short; more seeds or rates are added
"""
_OWN = ("seeds", "learning_rates", "qat_learning_rates")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command's arguments: those of `train`, but for what is several here."""
    parser = add_command(
        commands,
        "sweep",
        summary="train once for each seed and learning rate, and tell mean and spread",
        examples=_EXAMPLES,
    )
    add_options(parser)
    several: tuple[tuple[str, type, str, list[Any], str], ...] = (
        ("--seeds", int, "N", [0], "of data order, dropout and a new head"),
        ("--learning-rates", float, "X", [5e-5], "peaks of the float stage's schedule"),
        ("--qat-learning-rates", float, "X", [5e-6], "peaks of the second stage's schedule"),
    )
    for flag, kind, metavar, default, text in several:
        parser.add_argument(
            flag,
            nargs="+",
            type=kind,
            default=default,
            metavar=metavar,
            help=f"{text} (default: {default[0]})",
        )
    parser.set_defaults(run=run, goes_on=True)


def run(args: argparse.Namespace) -> int:
    """Train all, and print mean and spread of what the task counts."""
    from ibert_jax.training import TrainOptions, sweep

    values = fields(args)
    lists = {name: values.pop(name) for name in _OWN}
    found = sweep(TrainOptions(**values), **lists)
    if args.json:
        print(json.dumps(found))
    else:
        print(_table(found))
    return 0


def _table(found: dict[str, Any]) -> str:
    """A row for each pair of learning rates: mean ± standard deviation by stage, in percent."""
    unit = 1 if found["metric"] == ["perplexity"] else 100
    stages = list(dict.fromkeys(stage for one in found["rates"] for stage in one["stages"]))
    rows = []
    for one in found["rates"]:
        cells = [
            f"{unit * of['mean']:.2f} ± {unit * of['spread']:.2f}" if of else ""
            for of in (one["stages"].get(stage) for stage in stages)
        ]
        runs = max((of["runs"] for of in one["stages"].values()), default=0)
        rates = f"{one['learning_rate']:g}", f"{one['qat_learning_rate']:g}"
        rows.append((*rates, str(runs), *cells))
    header = ("learning rate", "qat", "runs", *stages)
    failed = [run["directory"] for run in found["runs"] if "error" in run]
    note = f"\nwithout {', '.join(failed)}, which diverged" if failed else ""
    table = format_table(header, rows, right=">" * len(header))
    return f"{table}\n{' and '.join(found['metric'])} on dev{note}"
