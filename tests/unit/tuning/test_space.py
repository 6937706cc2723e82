"""What may be searched, and what is refused before a study starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycls.config import Config
from raycls.data.versions import open_dataset
from raycls.errors import ConfigError
from raycls.training.presets import preset
from raycls.tuning import space as spaces
from raycls.tuning.space import Domain


@pytest.fixture
def config(digits_home: Path) -> Config:
    return preset("quick", open_dataset("digits").info)


def test_the_default_space_is_around_the_configuration_and_its_grid_is_4_by_4_by_3(config: Config) -> None:
    space = spaces.around(config, images=1000)
    assert spaces.own_values(space, config) == {path: config.flat()[path] for path in space}
    points = spaces.grid(space)
    assert len(points) == 4 * 4 * 3
    assert {point["network.dropout"] for point in points} == {0.0, 0.25, 0.5}
    rates = sorted({point["optim.lr"] for point in points})
    assert rates[0] == pytest.approx(config.optim.lr / 4)
    assert rates[1] / rates[0] == pytest.approx(rates[3] / rates[2])
    sizes = sorted({point["training.batch_size"] for point in points})
    assert sizes == pytest.approx([config.training.batch_size * factor / 4 for factor in (1, 2, 4, 8)], abs=1)
    assert spaces.around(config, images=30)["training.batch_size"].high == 30


def test_a_file_may_hold_any_setting(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(
        "lr: {low: 0.05, high: 1.0, log: true}\n"
        "training.batch_size: {low: 16, high: 64, step: 16}\n"
        "schedule: {choices: [linear, cosine]}\n"
        "network.widths: {choices: [[8, 16], [16, 32, 32]]}\n"
        "flip: {choices: [true, false]}\n"
    )
    space = spaces.load(file, config)
    assert list(space) == [
        "optim.lr",
        "training.batch_size",
        "optim.schedule",
        "network.widths",
        "augment.flip",
    ]
    assert space["training.batch_size"].grid() == [16, 32, 48, 64]
    values = {path: domain.grid()[-1] for path, domain in space.items()}
    chosen = spaces.configured(config, values)
    assert chosen.network.widths == (16, 32, 32)
    assert chosen.optim.schedule == "cosine"
    assert chosen.augment.flip is False
    assert chosen.optim.lr == pytest.approx(1.0)
    assert spaces.own_values(space, config) is None  # widths that are none of the choices


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "write settings, like lr"),
        ("- lr", "write settings, like lr"),
        ("lr: {low: [", "cannot be read"),
        ("learning: {low: 1, high: 2}", "unknown setting 'learning'; the settings are: network.name"),
        ("lr: {low: 1, high: 0.5}", "lr: .*low and a larger high"),
        ("lr: {low: 0, high: 0.5, log: true}", "a log scale needs a low above 0"),
        ("lr: {low: 0.1, high: 0.5, choices: [1]}", "some choices and nothing else"),
        ("lr: {low: 0.1, hihg: 0.5}", "hihg"),
        ("lr: {low: 0.1, high: 500}", r"optim\.lr=500"),
        ("batch_size: {low: 16.5, high: 32}", r"training\.batch_size=16\.5"),
        ("batch_size: {low: 16, high: 32, step: 0.5}", "takes whole numbers"),
        ("schedule: {choices: [linear, square]}", r"optim\.schedule='square'"),
        ("epochs: {low: 1, high: 3}", "--max-epochs"),
        ("flip: {choices: []}", "some choices"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_reason(
    config: Config, tmp_path: Path, text: str, told: str
) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=told) as error:
        spaces.load(file, config)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(config: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
        spaces.load(tmp_path / "nowhere.yaml", config)


def test_a_domain_knows_its_values() -> None:
    assert Domain(low=0.0, high=0.5, step=0.1).contains(0.3)
    assert not Domain(low=0.0, high=0.5, step=0.1).contains(0.35)
    assert not Domain(low=1, high=4).contains(5)
    assert not Domain(low=1, high=4).contains("2")
    assert Domain(choices=([8, 16], [32])).contains("[8, 16]")
