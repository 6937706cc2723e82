"""The direction of imports, and that importing does nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import raycls

ROOT = Path(raycls.__file__).parent
MODULES = sorted(path.relative_to(ROOT.parent) for path in ROOT.rglob("*.py"))

# A module may import its own room and the rooms before it.
ORDER = [
    {"errors", "home", "progress", "machine", "command", "config", "local_http"},
    {"ray_patches", "cluster"},
    {"data"},
    {"models"},
    {"engines", "tracking"},
    {"registry"},
    {"training"},
    {"tuning", "reports"},
    {"serving"},
    {"benchmark"},
    {"demo"},
    {"cli", "__main__"},
]
RAY = {
    "cluster", "ray_patches", "data/ingest", "training/trainer", "training/failures", "training/events",
    "training/worker", "tuning/study", "tuning/execution", "tuning/callbacks", "tuning/trial", "serving", "demo",
}  # fmt: skip
MLFLOW = {"tracking", "registry"}
DEFINE_CLASSES_OF_RAY = {"train_processes", "execution", "callbacks", "trial"}


def _room(module: Path) -> str:
    return module.parts[1].removesuffix(".py")


def _imports(module: Path, *, top_level: bool = False) -> set[str]:
    tree = ast.parse((ROOT.parent / module).read_text())
    nodes = tree.body if top_level else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _allowed(module: Path, rooms: set[str]) -> bool:
    name = "/".join(module.parts[1:]).removesuffix(".py")
    return any(name == room or name.startswith(f"{room}/") for room in rooms)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_go_one_way(module: Path) -> None:
    if module.name == "__init__.py" and len(module.parts) == 2:
        assert _imports(module) <= {"__future__", "__future__.annotations"}
        return
    (level,) = [i for i, rooms in enumerate(ORDER) if _room(module) in rooms]
    later = {f"raycls.{room}" for rooms in ORDER[level + 1 :] for room in rooms}
    # config knows the manifest's type and the networks' names, and nothing that they do.
    known = {"raycls.data.packed", "raycls.models.networks"} if _room(module) == "config" else set()
    used = {
        ".".join(name.split(".")[:2]) for name in _imports(module) if not any(map(name.startswith, known))
    }
    assert not used & later


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_only_their_modules_import_ray_and_mlflow(module: Path) -> None:
    roots = {name.split(".")[0] for name in _imports(module)}
    assert "ray" not in roots or _allowed(module, RAY)
    assert "mlflow" not in roots or _allowed(module, MLFLOW)


def test_importing_everything_light_touches_nothing(tmp_path: Path) -> None:
    light = [
        ".".join(module.with_suffix("").parts).removesuffix(".__init__")
        for module in MODULES
        if "serving" not in module.parts and module.stem not in DEFINE_CLASSES_OF_RAY
    ]
    program = (
        "import importlib, sys, logging\n"
        f"for name in {light!r}: importlib.import_module(name)\n"
        "assert 'ray' not in sys.modules, 'ray'\n"
        "assert 'mlflow' not in sys.modules, 'mlflow'\n"
        "assert not logging.getLogger().handlers, 'logging'\n"
    )
    home = tmp_path / "home"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": "/usr/bin:/bin", "HOME": str(home), "RAYCLS_HOME": str(home)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_loop_runs_with_torch_alone() -> None:
    program = (
        "import sys, raycls.training.loop, raycls.engines.predictor\n"
        "assert not {'ray', 'mlflow', 'matplotlib'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_replica_starts_without_pytorch() -> None:
    """Importing PyTorch takes half of a start, and the engine `openvino` needs none of it."""
    program = (
        "import sys, raycls.serving.replica.classifier\n"
        "assert not {'torch', 'mlflow', 'captum'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
