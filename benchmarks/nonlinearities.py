"""What does each nonlinear function cost in integers? The paper's ablation (section 4.3), repeated.

    python benchmarks/nonlinearities.py CHECKPOINT --data FILE [--record FILE.json]

CHECKPOINT is a finetuned model with activation ranges, such as the qat/ or calibrated/ folder of a
run of `ibert-jax train`. It is frozen with nothing left in float, with `force_dequant` in each of
its values, and with h-GELU, the piecewise quadratic x relu6(1.702 x + 3) / 6, in the place of
GELU. Nothing is trained again, so each row says what an approximation costs a model that was made
with i-GELU; everything around the nonlinear functions is integers throughout.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp

import ibert_jax as ib
from ibert_jax.commands.console import format_table
from ibert_jax.commands.options import use_compile_cache
from ibert_jax.config import FORCE_DEQUANT
from ibert_jax.layers import gelu
from ibert_jax.tokenizer import Tokenizer
from ibert_jax.training import KINDS, batches_of, evaluate, read_examples, task_of

HARD = "h-GELU"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HardGELU(gelu.FloatGELU):
    """A frozen h-GELU, computed in float as the others that are left in float."""

    def __call__(self, q: jax.Array) -> jax.Array:
        """int32 [..., F] -> int32 [..., F] at 2^-(k + 15), below 2^30."""
        largest = gelu.power_of_two(gelu.INPUT_BITS - 1 - self.grid)
        x = jnp.clip(gelu.dequantize(q, self.scale), -largest, largest)
        hard = x * jnp.clip(1.702 * x + 3, 0, 6) / 6
        return gelu.round_onto(hard, gelu.power_of_two(self.grid + 15), 2**30)


def program_of(directory: str, head: Any, name: str) -> ib.IntegerModel:
    """The checkpoint frozen with `force_dequant` of that name, or with h-GELU."""
    model = head.from_pretrained(directory, force_dequant="gelu" if name == HARD else name)
    jax.clear_caches()  # the two GELUs in float have one structure, but not one function
    if name != HARD:
        return ib.freeze(model.quantize())
    with patch.object(gelu, "FloatGELU", HardGELU):
        return ib.freeze(model.quantize())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--data", required=True, help="labelled examples of the model's task")
    parser.add_argument("--max-examples", type=int)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--record", type=Path, help="write the rows here, as JSON")
    args = parser.parse_args()
    use_compile_cache(None)
    config = ib.IBertConfig.from_json_file(Path(args.checkpoint) / "config.json")
    task = task_of(config)
    if task is None:
        raise SystemExit(f"{args.checkpoint} was not trained for a task by ibert-jax train")
    head = KINDS[task.kind].head
    data = batches_of(
        read_examples([args.data], task, config.label2id, limit=args.max_examples),
        tokenizer=Tokenizer.load(args.checkpoint),
        config=config,
        task=task,
        batch_size=args.batch_size,
        buckets=2,
    )
    models = {"everything in float": head.from_pretrained(args.checkpoint)}
    rows: list[dict[str, Any]] = []
    for name in (*models, *FORCE_DEQUANT, HARD):
        model = models.get(name) or program_of(args.checkpoint, head, name)
        found = evaluate(model, data, task)
        first = rows[0]["answers"] if rows else found.answers
        others = sum(a != b for a, b in zip(found.answers, first, strict=True))
        points = 100 * found.primary
        rows.append(
            {"in_float": name, "points": points, "other_answers": others, "answers": found.answers}
        )
        print(f"{name:20} {points:7.2f} {others:6}", flush=True)
    for row in rows:
        del row["answers"]
    base = next(row["points"] for row in rows if row["in_float"] == "none")
    header = ("in float", "points", "to all integers", "other answers than float")
    cells = [
        (
            row["in_float"],
            f"{row['points']:.2f}",
            f"{row['points'] - base:+.2f}",
            str(row["other_answers"]),
        )
        for row in rows
    ]
    print(format_table(header, cells, right="<>>>"))
    if args.record:
        record = {
            "versions": {"ibert_jax": ib.__version__, "jax": version("jax")},
            "device": str(jax.devices()[0].device_kind),
            "task": task.name,
            "metric": list(task.metric),
            "examples": len(data.examples.source),
            "rows": rows,
        }
        args.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
