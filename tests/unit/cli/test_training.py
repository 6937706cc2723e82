"""What `raycls train` and `raycls tune` refuse of their options before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from raycls.cli import app
from raycls.config import Config, TrainingConfig
from raycls.errors import UsageError
from raycls.training.trainer import train


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("train digits --resume a-run --log wandb", "leave out all options"),
        ("train digits --resume a-run --profile", "leave out all options"),
        ("tune digits --resume a-study --log wandb", "leave out all other options"),
        ("train digits --preset smoke --log tensorboard", "no tool 'tensorboard'"),
        ("tune digits --preset smoke --log tensorboard", "no tool 'tensorboard'"),
    ],
)
def test_options_that_do_not_fit_are_refused(digits_home: Path, arguments: str, told: str) -> None:
    outcome = CliRunner().invoke(app, arguments.split())
    assert isinstance(outcome.exception, UsageError), outcome.output
    assert told in str(outcome.exception)


def test_a_probe_is_not_profiled(digits_home: Path) -> None:
    config = Config(training=TrainingConfig(probe=True))
    with pytest.raises(UsageError, match="a probe has no training steps to profile"):
        train("digits", config, profile=True)
