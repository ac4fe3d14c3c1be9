"""The learning rate range test: its schedule, how a curve is read, and a whole one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from qa_fast.cli.app import app
from qa_fast.errors import UserError
from qa_fast.train import TrainConfig
from qa_fast.train.rates import HIGHEST, drawn, rate_test, read_curve
from qa_fast.train.schedule import learning_rate_at
from tests.backend import JIT
from tests.small_runs import make_model_folder, make_shards


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global keras
    import keras


def test_rates_rise_by_a_factor() -> None:
    rates = np.array([learning_rate_at(step, 50, 1e-2, "range", 0.1) for step in range(50)])
    np.testing.assert_allclose(rates[1:] / rates[:-1], 10 ** (4 / 50))
    assert rates[-1] == pytest.approx(1e-2)
    assert rates[0] == pytest.approx(1e-6 * 10 ** (4 / 50))


def test_a_curve_is_read_at_its_lowest() -> None:
    """The loss falls until a rate of 1e-3 and rises behind it; smoothing delays the minimum a little."""
    rates = [learning_rate_at(step, 200, 1e-2, "range", 0.0) for step in range(200)]
    losses = [3 + (np.log10(rate) + 3) ** 2 for rate in rates]
    found = read_curve(rates, losses)
    assert 1e-4 <= found.suggested <= 2e-4
    lines = list(drawn(found, rows=9))
    assert len(lines) == 9
    assert min(lines, key=lambda line: line.count("#")).split()[0] in {f"{rate:.1e}" for rate in found.rates}
    early = read_curve(rates, [0.0, *losses[1:]])  # a lucky first batch is no minimum
    assert early.suggested > 1e-5
    with pytest.raises(UserError, match=r"a range test needs 10 steps .* received 4"):
        read_curve(rates[:4], losses[:4])


def test_a_whole_range_test(tmp_path: Path) -> None:
    make_shards(tmp_path / "shards", make_model_folder(tmp_path / "tiny"))
    done = CliRunner().invoke(app, ["sweep", str(tmp_path / "shards"), "--rates", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert len(found["rates"]) == len(found["losses"]) == 100
    assert found["rates"][-1] == pytest.approx(HIGHEST)
    # A decay that blows the weights up ends in a loss that is no number; the curve is read up to there.
    options = TrainConfig(
        batch_size=8, precision="float32", jit=JIT, clip_norm=0.0, weight_decay=1e6, patience=1, validation_examples=5
    )
    said: list[str] = []
    far = rate_test([str(tmp_path / "shards")], options, said.append, steps=40)
    assert 10 <= len(far.rates) < 40
    assert any("is not a number from a rate of about" in line for line in said)
