"""The progress of long commands on standard error: a bar on a terminal, a line every half minute in a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from qa_fast.progress import Log, Reporter


@contextmanager
def showing(unit: str) -> Iterator[Reporter]:
    """Yield a reporter whose messages and progress appear on standard error.

    Args:
        unit: What is counted, such as "examples".
    """
    from rich.console import Console

    console = Console(stderr=True, highlight=False)

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    if not console.is_terminal:
        with Log(say) as log:
            yield Reporter(say, _noting(log, unit))
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), _rate_column(unit)
    tasks: dict[str, Any] = {}
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:

        def progress(part: str, count: int, total: int | None) -> None:
            if part not in tasks:
                tasks[part] = bar.add_task(part, total=total)
            bar.update(tasks[part], advance=count, total=total)

        yield Reporter(say, progress)


def _noting(log: Log, unit: str) -> Callable[[str, int, int | None], None]:
    """Return a function that notes how much of each part is done, see `Reporter.progress`."""
    done: dict[str, int] = {}

    def progress(part: str, count: int, total: int | None) -> None:
        done[part] = done.get(part, 0) + count
        log.note(f"{part}: {done[part]:,}{f' of {total:,}' if total else ''} {unit}")

    return progress


def with_bar(work: Callable[..., Any], part: str, *, quiet: bool = False) -> Any:
    """Return the result of `work(progress=...)`, which reports how many of all features are finished while it runs.

    Args:
        work: A smaller number than before begins to count anew.
        part: What is read, for the text beside the bar.
        quiet: Show nothing.
    """
    if quiet:
        return work()
    with showing("features") as report:
        before = 0

        def progress(done: int, total: int) -> None:
            nonlocal before
            assert report.progress is not None
            report.progress(part, done - before, total)
            before = done

        return work(progress=progress)


def _rate_column(unit: str) -> Any:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class RateColumn(ProgressColumn):
        """Shows how much is done, and how much each second."""

        def render(self, task: Task) -> Text:
            speed = f", {task.speed:,.0f}/s" if task.speed else ""
            return Text(f"{task.completed:,.0f} {unit}{speed}")

    return RateColumn()
