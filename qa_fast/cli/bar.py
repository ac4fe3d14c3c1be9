"""The progress bar of commands that read the features of a split."""

from __future__ import annotations

from typing import Any


def with_bar(work: Any) -> Any:
    """Return the result of `work(progress)`, with a progress bar of features on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("features", total=None)
        return work(lambda done, total: bar.update(task, completed=done, total=total))
