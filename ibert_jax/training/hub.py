"""Data sets by their names, through Hugging Face `datasets`, where there is a network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ibert_jax.training.rows import Row
from ibert_jax.training.tasks import Task


def hub_rows(task: Task, split: str) -> Iterator[Row]:
    """The rows of a split of the task's data set.

    Raises ValueError where the task names none, `datasets` is not installed, or it fails.
    """
    if not task.hub:
        raise ValueError(
            f"expected train_files: the task {task.name} names no data set to be downloaded"
        )
    try:
        import datasets  # type: ignore[import-not-found]
    except ImportError:
        raise ValueError(
            f"downloading the data of {task.name} needs Hugging Face datasets; install it, as by "
            "pip install 'ibert-jax[datasets]', or name train_files and a dev_file"
        ) from None
    name = "/".join(task.hub)
    try:
        data: Any = datasets.load_dataset(*task.hub, split=split)
    except Exception as error:  # of many kinds: no network, no such set, an outdated cache
        first = str(error).strip().split("\n")[0]
        raise ValueError(
            f"could not load {split} of {name} ({type(error).__name__}: {first}); is there a "
            "network? or name train_files and a dev_file"
        ) from None
    for number, fields in enumerate(data, 1):
        yield Row(f"row {number} of {name} {split}", fields)
