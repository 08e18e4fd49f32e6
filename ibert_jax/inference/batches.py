"""A predictor for batches of columns, as Ray Data hands them to its actors.

    import ray
    from ibert_jax.inference import BatchPredictor

    rows = ray.data.read_parquet("reviews")
    answers = rows.map_batches(
        BatchPredictor,
        fn_constructor_kwargs={"directory": "my_integer_model", "columns": ["review"]},
        batch_size=1024,
        compute=ray.data.ActorPoolStrategy(size=2),
    )
    answers.write_parquet("answers")

Each actor keeps a CPU (`num_gpus=1` gives it a GPU as well), and reading needs one besides: with as
many actors as CPUs, Ray waits for ever. Nothing here is Ray's: whatever calls a class with a dict
of NumPy arrays will do.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ibert_jax.inference.predictor import Predictor
from ibert_jax.inference.results import INPUTS, Refused, record

# What stands for a row that was not answered, by the type of the column.
_NOTHING: dict[str, tuple[Any, Any]] = {
    "str": (object, ""),
    "float": (np.float64, np.nan),
    "int": (np.int64, 0),
    "bool": (np.bool_, False),
}


class BatchPredictor:
    """Answers batches of columns.

    directory: of the model, frozen or not; every actor loads it by itself. columns: those that
    make a row, by default as `ibert-jax predict` finds them. options: as for `Predictor.load`.

    Called with a dict of arrays of one length, it returns them with the fields of the answers
    beside them: numbers and strings as they are, vectors as float32 [rows, hidden_size], the rest
    as JSON. `problem` says why a row was not answered; for others it is empty.
    """

    def __init__(
        self, directory: str | Path, *, columns: Sequence[str] = (), **options: Any
    ) -> None:
        self.predictor = Predictor.load(directory, **options)
        self._columns = tuple(columns)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a batch.

        Raises ValueError where a column is missing or one of the answers' names is taken.
        """
        task = self.predictor.task
        fields = [f for f in dataclasses.fields(task.result) if f.name not in INPUTS]
        taken = [name for name in (*(f.name for f in fields), "problem") if name in batch]
        if taken:
            raise ValueError(
                f"expected columns of other names than {', '.join(taken)}, rename them"
            )
        cells = [batch[name] for name in self._chosen(batch)]
        found = [each for window in self.predictor.stream(self._rows(cells)) for each in window]
        records = [None if isinstance(r, Refused) else record(r, inputs=False) for r in found]
        answers = {field.name: self._column(field, records) for field in fields}
        problems = [each.reason if isinstance(each, Refused) else "" for each in found]
        return {**batch, **answers, "problem": np.asarray(problems, object)}

    def _chosen(self, batch: Mapping[str, Any]) -> Sequence[str]:
        known = [self._columns] if self._columns else self.predictor.task.columns
        for names in known:
            if all(name in batch for name in names):
                return names
        wanted = " or ".join("+".join(names) for names in known)
        raise ValueError(f"expected columns {wanted}, got {', '.join(batch)}; name the columns")

    def _rows(self, cells: Sequence[Any]) -> Iterator[Any]:
        for values in zip(*cells, strict=True):
            plain = [v.tolist() if isinstance(v, np.ndarray | np.generic) else v for v in values]
            try:
                yield self.predictor.task.row(plain)
            except (TypeError, ValueError) as error:
                yield Refused(str(error))

    def _column(
        self, field: dataclasses.Field[Any], records: Sequence[dict[str, Any] | None]
    ) -> np.ndarray:
        if field.name == "vector":
            nothing = [np.nan] * self.predictor.config.hidden_size
            rows = [nothing if each is None else each["vector"] for each in records]
            return np.asarray(rows, np.float32).reshape(len(records), len(nothing))
        dtype, nothing = _NOTHING.get(str(field.type), (object, None))
        values = [nothing if each is None else each[field.name] for each in records]
        if str(field.type) not in _NOTHING:
            values = [json.dumps(value) for value in values]
        return np.asarray(values, dtype)
