"""What do integers cost in accuracy: each task in float, quantized after training, and trained so?

    python benchmarks/tasks.py run cola --seed 0 --data DATA --model MINILM --output RUNS
    python benchmarks/tasks.py table RUNS [--write benchmarks/results/tasks]

`run` finetunes a checkpoint with the options of tasks.toml, freezes what it left, and evaluates the
float models and the frozen integer programs on the task's evaluation file; `--dry` only prints the
commands. Given again it goes on where it was cut short. `table` gathers finished runs, and writes
tasks.json and tasks.md with `--write`. Nothing is chosen by looking at the evaluation files.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ibert_jax.cli import build_parser
from ibert_jax.commands.train import fields
from ibert_jax.files import write_whole
from ibert_jax.training import TrainOptions

TABLE = Path(__file__).with_suffix(".toml")
MODELS = ("float_continued", "float", "integer_calibrated", "integer_qat")
DIFFERENCES = {
    "post-training − float": ("integer_calibrated", "float"),
    "QAT − float continued": ("integer_qat", "float_continued"),
    "QAT − float": ("integer_qat", "float"),
}
OVER_EXAMPLES = "QAT − float continued, error over examples"
NOT_COMPARED = ("model", "output", "train_files", "checkpoint_every", "keep_checkpoints")
"""Options of a run that may differ from the table's: its paths and its housekeeping."""

HEAD = """\
# Tasks: float, post-training integers, integers trained quantization-aware

Written by `python benchmarks/tasks.py table`; do not edit. Measured on frozen integer programs, not
on a simulation. **Float continued** is the fair baseline of QAT: the float model trained for the
same further steps, on the same batches, under the same schedule. **Post-training** is the float
model with ranges from 512 of its training examples (minimum and maximum, biases not corrected),
with which the quantization-aware stage starts. Figures are points (100 times the measure), ± the
standard error over seeds; differences are of runs of one seed. Options were fixed beforehand
(`benchmarks/tasks.toml`); nothing is chosen on the evaluation files.

Seeds share their evaluation examples, so that what the choice of examples does to a difference is
the same for all of them and does not show over seeds. The last column tells it: the standard error
of QAT − float continued **over examples** (paired bootstrap, `ibert-jax eval`), of a task the mean
of its runs', as if seeds were no help; of the means, from the tasks', which are independent.
"""
REPRODUCE = """
## Reproduce a row

```sh
python benchmarks/tasks.py run {task} --seed 0 --data DATA --model MINILM --output RUNS
```

MINILM is sentence-transformers/all-MiniLM-L6-v2, DATA a folder with the files that
`benchmarks/tasks.toml` names. `--dry` prints the commands, which are:

```sh
{commands}
```
"""


def tables() -> dict[str, dict[str, Any]]:
    """The options of each task, common ones included."""
    found = tomllib.loads(TABLE.read_text("utf-8"))
    common = found.pop("common")
    return {task: common | own for task, own in found.items()}


def commands(task: str, seed: int, data: Path, model: Path, run: Path) -> list[list[str]]:
    """The words of what makes a run, after `ibert-jax`: train, freeze twice, evaluate."""
    values = dict(tables()[task])
    train, evaluated = values.pop("train"), str(data / values.pop("data"))
    words = ["train", str(model), "--output", str(run), "--task", task]
    words += ["--train", *(str(data / name) for name in train)]
    for name, value in values.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    freezes = [
        ["freeze", str(run / life), str(run / f"integer_{life}"), "--no-certificate"]
        for life in ("calibrated", "qat")
    ]
    models = [str(run / name) for name in MODELS]
    return [
        [*words, "--seed", str(seed)],
        *freezes,
        ["eval", *models, "--data", evaluated, "--json"],
    ]


def run(args: argparse.Namespace) -> int:
    directory = args.output / f"{args.task}-{args.seed}"
    todo = commands(args.task, args.seed, args.data, args.model, directory)
    if args.dry:
        print("\n".join(shlex.join(["ibert-jax", *words]) for words in todo))
        return 0
    if (directory / "eval.jsonl").exists():
        print(f"{directory} is finished")
        return 0
    for words in todo:
        frozen = words[0] == "freeze" and Path(words[2]).exists()
        if frozen:  # by an earlier try; freezing takes seconds
            shutil.rmtree(words[2])
        last = words[0] == "eval"
        done = subprocess.run(
            [sys.executable, "-m", "ibert_jax.cli", *words],
            stdout=subprocess.PIPE if last else None,
            text=True,
            check=True,
        )
        if last:
            print(done.stdout, end="")
            write_whole(directory / "eval.jsonl", done.stdout)
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    return 0


def read_run(directory: Path) -> dict[str, Any] | None:
    """What a finished run found; None for any other directory."""
    file = directory / "eval.jsonl"
    if not file.exists():
        return None
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    found = {Path(line["model"]).name: line for line in lines}
    if not found.keys() >= set(MODELS):
        return None  # still being written
    options = json.loads((directory / "options.json").read_text("utf-8"))
    task, seed = options["task"]["name"], options["seed"]
    summary = json.loads((directory / "summary.json").read_text("utf-8"))
    return {
        "task": task,
        "seed": seed,
        "metric": " and ".join(summary["metric"]),
        "examples": lines[0]["examples"],
        "steps": summary["steps"],
        "training_seconds": summary["seconds"],
        "points": {name: 100 * found[name]["primary"] for name in MODELS},
        "other_answers_than_float_continued": {
            name: found[name]["other_answers"] for name in MODELS[1:]
        },
        "error_over_examples": 100 * found["integer_qat"]["difference_error"],
        "differs_from_table": differing(task, seed, options),
    }


def differing(task: str, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """Options of a run that are not those of the table."""
    words = commands(task, seed, Path(), Path("m"), Path("r"))[0]
    expected = TrainOptions(**fields(build_parser().parse_args(words))).to_dict()
    return {
        name: value
        for name, value in options.items()
        if name not in NOT_COMPARED and expected.get(name) != value
    }


def mean_and_error(values: Iterable[float]) -> dict[str, Any]:
    """Mean, standard error (None of one value), and how many."""
    some = [*values]
    error = statistics.stdev(some) / math.sqrt(len(some)) if len(some) > 1 else None
    return {"mean": statistics.fmean(some), "standard_error": error, "count": len(some)}


def gather(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means by task, and over everything."""
    for one in runs:
        points = one["points"]
        one["differences"] = {name: points[a] - points[b] for name, (a, b) in DIFFERENCES.items()}
    tasks: dict[str, Any] = {}
    for task in tables():
        mine = [one for one in runs if one["task"] == task]
        if mine:
            tasks[task] = {
                "metric": mine[0]["metric"],
                "examples": mine[0]["examples"],
                "seeds": [one["seed"] for one in mine],
                **{
                    kind: {
                        name: mean_and_error(one[kind][name] for one in mine)
                        for name in mine[0][kind]
                    }
                    for kind in ("points", "differences")
                },
                "error_over_examples": statistics.fmean(one["error_over_examples"] for one in mine),
            }
    errors = [(len(task["seeds"]), task["error_over_examples"]) for task in tasks.values()]
    return {
        "versions": {name: version(name) for name in ("jax", "flax", "optax", "numpy")},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "hyperparameters": tables(),
        "tasks": tasks,
        "over_runs": {
            name: mean_and_error(one["differences"][name] for one in runs) for name in DIFFERENCES
        },
        "over_tasks": {
            name: mean_and_error(task["differences"][name]["mean"] for task in tasks.values())
            for name in DIFFERENCES
        },
        "error_over_examples": {
            "over_runs": math.hypot(*(n * error for n, error in errors)) / len(runs),
            "over_tasks": math.hypot(*(error for _, error in errors)) / len(errors),
        },
        "runs": runs,
    }


def told(figure: dict[str, Any], *, signed: bool = False) -> str:
    """A mean and its error, as Markdown shows it."""
    mean = f"{figure['mean']:{'+' if signed else ''}.2f}"
    error = figure["standard_error"]
    return mean if error is None else f"{mean} ± {error:.2f}"


def markdown(found: dict[str, Any]) -> str:
    """The page."""
    header = ["task", "measure", "examples", "seeds", "float continued", "float", "post-training"]
    header += ["QAT", *DIFFERENCES, OVER_EXAMPLES]
    rows = [header, ["---"] * len(header)]
    for task, one in found["tasks"].items():
        points = [told(one["points"][name]) for name in MODELS]
        differences = [told(one["differences"][name], signed=True) for name in DIFFERENCES]
        seeds = ", ".join(map(str, one["seeds"]))
        error = f"{one['error_over_examples']:.2f}"
        what = [task, one["metric"], str(one["examples"]), seeds]
        rows.append([*what, *points, *differences, error])
    for name, key in (("mean over runs", "over_runs"), ("mean over tasks", "over_tasks")):
        count = str(next(iter(found[key].values()))["count"])
        cells = [f"**{told(found[key][each], signed=True)}**" for each in DIFFERENCES]
        error = f"**{found['error_over_examples'][key]:.2f}**"
        rows.append([f"**{name}**", "", "", count, "", "", "", "", *cells, error])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    notes = [
        f"* {one['task']}, seed {one['seed']}: {json.dumps(one['differs_from_table'])}"
        for one in found["runs"]
        if one["differs_from_table"]
    ]
    missing = [task for task in found["hyperparameters"] if task not in found["tasks"]]
    if missing:
        lines += ["", f"Without a finished run: {', '.join(missing)}."]
    if notes:
        lines += ["", "Options of runs that are not those of the table:", "", *notes]
    task = next(iter(found["tasks"]))
    words = commands(task, 0, Path("DATA"), Path("MINILM"), Path("RUNS") / f"{task}-0")
    shown = "\n".join(shlex.join(["ibert-jax", *each]) for each in words)
    options = ["", "## Options", "", *option_table(found["hyperparameters"])]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    end = f"\nPython {found['python']}, {versions}.\n"
    return (
        "\n".join([HEAD, *lines, *options])
        + "\n"
        + REPRODUCE.format(task=task, commands=shown)
        + end
    )


def option_table(by_task: dict[str, dict[str, Any]]) -> list[str]:
    """Rows of Markdown: an option, and its value for each task."""
    names = dict.fromkeys(name for values in by_task.values() for name in values)
    rows = [["option", *by_task], ["---"] * (1 + len(by_task))]
    for name in names:
        cells = [values.get(name, "") for values in by_task.values()]
        rows.append([name, *(", ".join(c) if isinstance(c, list) else str(c) for c in cells)])
    return [f"| {' | '.join(row)} |" for row in rows]


def table(args: argparse.Namespace) -> int:
    runs = [found for path in sorted(args.runs.iterdir()) if (found := read_run(path))]
    if not runs:
        print(f"expected finished runs in {args.runs}, found none", file=sys.stderr)
        return 2
    found = gather(runs)
    page = markdown(found)
    print(page)
    if args.write:
        write_whole(args.write.with_suffix(".json"), json.dumps(found, indent=1) + "\n")
        write_whole(args.write.with_suffix(".md"), page)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(required=True)
    one = parts.add_parser("run", help="train, freeze and evaluate one seed of a task")
    one.add_argument("task", choices=tables())
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--data", type=Path, required=True, help="folder of the data sets' folders")
    one.add_argument("--model", type=Path, required=True, help="directory of the checkpoint")
    one.add_argument("--output", type=Path, required=True, help="folder of all runs")
    one.add_argument("--dry", action="store_true", help="only print the commands")
    one.set_defaults(run=run)
    many = parts.add_parser("table", help="gather finished runs")
    many.add_argument("runs", type=Path, help="folder of all runs")
    many.add_argument("--write", type=Path, metavar="NAME", help="write NAME.json and NAME.md")
    many.set_defaults(run=table)
    args = parser.parse_args()
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
