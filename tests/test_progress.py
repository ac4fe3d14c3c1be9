"""Reports of long tasks in a log."""

from __future__ import annotations

import queue

import pytest

from qa_fast.cli import bar
from qa_fast.progress import Log, clock
from qa_fast.train.report import Pace, ProgressLine, StepReport


def test_a_log_repeats_the_latest_note() -> None:
    lines: queue.Queue[str] = queue.Queue()
    with Log(lines.put, seconds=0.001) as log:
        log.note("train: 3 of 12 examples")
        first, second = lines.get(timeout=60), lines.get(timeout=60)
    assert first == second == "train: 3 of 12 examples (0:00 since the start)"


def test_a_short_task_adds_no_line() -> None:
    lines: list[str] = []
    with Log(lines.append) as log:
        log.note("train: 12 of 12 examples")
    assert lines == []


class Notes(Log):
    """A log that keeps its notes."""

    all: list[str] = []  # noqa: RUF012

    def note(self, text: str) -> None:
        self.all.append(text)


def test_commands_note_their_progress_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Notes, "all", [])
    monkeypatch.setattr(bar, "Log", Notes)
    with bar.showing("examples") as report:
        report.say("[train]")
        assert report.progress is not None
        for split, total in (("train", 12_000), ("train", 12_000), ("validation", None)):
            report.progress(split, 1500, total)
    # Two scorings after each other, as `quantize` makes them.
    assert bar.with_bar(lambda progress: [progress(done, 4) for done in (2, 4, 1)], "dev") == [None] * 3
    assert Notes.all == [
        "train: 1,500 of 12,000 examples",
        "train: 3,000 of 12,000 examples",
        "validation: 1,500 examples",
        *(f"dev: {done} of 4 features" for done in (2, 4, 1)),
    ]
    assert capsys.readouterr().err == "[train]\n"


def test_training_notes_steps_and_prints_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Notes, "all", [])
    monkeypatch.setattr("qa_fast.train.report.Log", Notes)
    with ProgressLine() as progress:
        progress("precision float32")
        progress(StepReport(10, 400, 1, 2.5, 1e-4, 1.0, 20.0, 3000.0, 3661.0, 31.0))
    assert Notes.all == [
        "precision float32",
        "10/400 loss 2.500 20.0 features/s 3,000 tokens/s 1:01:01 left (0:31 went into compiling)",
    ]
    assert capsys.readouterr().err == "precision float32\n"


def test_the_time_left_counts_the_widths_that_are_still_to_be_compiled() -> None:
    pace = Pace()
    for seconds, compiled in ((8.0, True), (0.1, False), (4.0, True)):
        pace.add(seconds, 16, 2000, compiled)
        # After a single step that compiled something it is not known whether other widths will.
        assert pace.compiling_left(4) == 0.0 or pace.compilations == 2
    assert pace.compiling_left(4) == 12.0
    assert pace.compiling_left(2) == pace.compiling_left(1) == Pace().compiling_left(4) == 0.0
    assert pace.rates() == (160.0, 20000.0)


def test_durations() -> None:
    assert [clock(seconds) for seconds in (0, 59.6, 3600)] == ["0:00", "1:00", "1:00:00"]
