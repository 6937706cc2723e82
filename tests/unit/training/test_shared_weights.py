"""A file of weights reaches workers on other nodes: they have another home, and the same storage path."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raycls.cli.training import weights_path
from raycls.errors import SourceError
from raycls.models.networks import FastCNN
from raycls.models.weights import load_weights
from raycls.training.shared_weights import SHARED, on_this_node, shared


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "laptop" / "body.pt"
    path.parent.mkdir()
    torch.save({"a": torch.ones(3)}, path)
    return path


def test_on_one_machine_the_path_itself_is_used(home: Path, file: Path) -> None:
    assert shared(str(file)) == str(file)
    assert on_this_node(str(file)) == str(file)
    assert on_this_node("pretrained") == "pretrained"


def test_another_node_copies_it_once(
    home: Path, storage: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = weights_path(str(file), None, None)
    assert source and source.startswith(SHARED)
    assert source.endswith("/body.pt"), "its name stays, for people who read it in MLflow"
    monkeypatch.setenv("RAYCLS_HOME", str(tmp_path / "other"))
    content = file.read_bytes()
    file.unlink()
    here = Path(on_this_node(source))
    assert here.read_bytes() == content
    assert here.is_relative_to(tmp_path / "other")
    (stored,) = storage.rglob("body.pt")
    stored.unlink()
    assert on_this_node(source) == str(here)
    assert [path.name for path in here.parent.iterdir()] == ["body.pt"]


def test_each_network_gets_the_file_of_its_name(
    home: Path, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("a.in1k", "b"):
        torch.save({"x": torch.ones(len(name))}, folder / f"{name}.pth")
    (folder / "notes.txt").write_text("where they come from")
    source = weights_path(str(folder), "timm/b", None)
    assert source
    monkeypatch.setenv("RAYCLS_HOME", str(tmp_path / "other"))
    assert len(torch.load(on_this_node(source, "timm/a.in1k"))["x"]) == len("a.in1k")
    assert len(torch.load(on_this_node(source, "b"))["x"]) == 1
    with pytest.raises(SourceError, match=r"has no c.pth: it has a.in1k, b, of which each"):
        on_this_node(source, "timm/c")


def test_a_folder_without_weights_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has no \.pt, \.pth, \.safetensors files: name each after"):
        weights_path(str(tmp_path), None, None)


def test_two_files_of_one_name_are_two(home: Path, storage: Path, file: Path) -> None:
    first = shared(str(file))
    assert shared(str(file)) == first
    torch.save({"a": torch.zeros(3)}, file)
    assert shared(str(file)) != first
    assert len(list(storage.rglob("body.pt"))) == 2


def test_a_damaged_or_missing_copy_is_said(
    home: Path, storage: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shared(str(file))
    monkeypatch.setenv("RAYCLS_HOME", str(tmp_path / "other"))
    (stored,) = storage.rglob("body.pt")
    stored.write_bytes(b"half")
    with pytest.raises(SourceError, match="is damaged"):
        on_this_node(source)
    stored.unlink()
    with pytest.raises(SourceError, match="cannot read weights/"):
        on_this_node(source)
    monkeypatch.delenv("RAYCLS_STORAGE")
    with pytest.raises(SourceError, match="no RAYCLS_STORAGE"):
        on_this_node(source)


def test_a_training_loads_them(home: Path, storage: Path, tmp_path: Path) -> None:
    trained, other = (FastCNN(widths=(8, 8, 8), num_classes=3, image_size=8) for _ in range(2))
    file = tmp_path / "trained.pt"
    torch.save(trained.state_dict(), file)
    load_weights(other, on_this_node(shared(str(file))))
    body = {name: tensor for name, tensor in trained.state_dict().items() if not name.startswith("head.")}
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in body.items())
