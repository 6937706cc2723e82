"""The direction of imports, and that importing does nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

import raycls

ROOT = Path(raycls.__file__).parent
MODULES = sorted(path.relative_to(ROOT.parent) for path in ROOT.rglob("*.py"))

# A module may import its own room and the rooms before it.
ORDER = [
    {"errors", "home", "progress", "machine", "command", "config", "local_http", "metrics"},
    {"ray_patches", "cluster"},
    {"data"},
    {"models"},
    {"engines", "tracking", "drift"},
    {"registry"},
    {"training"},
    {"tuning", "reports"},
    {"serving"},
    {"scoring"},
    {"lifecycle"},
    {"control_plane"},
    {"console"},
    {"benchmark"},
    {"demo"},
    {"cli", "__main__"},
]
RAY = {
    "cluster", "ray_patches", "data/ingest", "training/trainer", "training/scaling",
    "training/failures", "training/events", "training/process_group",
    "training/worker", "tuning/plan", "tuning/execution", "tuning/callbacks", "tuning/trial", "serving",
    "scoring/score", "scoring/listing", "scoring/actor", "scoring/workers",
    "control_plane/app", "control_plane/served", "control_plane/retrain_watch", "control_plane/work",
    "console/app", "demo",
}  # fmt: skip
MLFLOW = {"tracking", "registry"}
PUBLIC = {"_replace", "_asdict", "_exit"}  # of named tuples and of os, whatever their names
DEFINE_CLASSES_OF_RAY = {"train_processes", "process_group", "execution", "callbacks", "trial"}


def _room(module: Path) -> str:
    return module.parts[1].removesuffix(".py")


@cache
def _tree(module: Path) -> ast.Module:
    return ast.parse((ROOT.parent / module).read_text())


def _imports(module: Path, *, top_level: bool = False) -> set[str]:
    tree = _tree(module)
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
    # config knows the info's type and the networks' names, and nothing that they do.
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


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_only_tracking_and_registry_call_mlflows_client(module: Path) -> None:
    if _allowed(module, MLFLOW):
        return
    calls = [node.func for node in ast.walk(_tree(module)) if isinstance(node, ast.Call)]
    assert not [call for call in calls if ast.unparse(call).endswith(("tracking.client", "MlflowClient"))]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_only_ray_patches_uses_private_names_of_a_library(module: Path) -> None:
    if module.parts[1] == "ray_patches":
        return
    tree = _tree(module)
    own = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_self(node.value)}
    own |= {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    private = [
        name
        for name in _imports(module)
        if not name.startswith("raycls") and any(map(_is_private, name.split(".")))
    ]
    private += [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and _is_private(node.attr)
        and not _is_self(node.value)
        and node.attr not in own | PUBLIC
    ]
    assert not private


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_file_has_at_most_300_lines(module: Path) -> None:
    assert len((ROOT.parent / module).read_text().splitlines()) <= 300


def test_every_import_is_declared() -> None:
    """A library that raycls imports stands in pyproject.toml, and does not come along with another by chance."""
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    names = {re.split(r"[\[<>=]", line)[0].lower().replace("_", "-") for line in declared}
    imported = {name.split(".")[0] for module in MODULES for name in _imports(module)}
    outside = imported - set(sys.stdlib_module_names) - {"raycls"}
    distributions = packages_distributions()
    missing = {
        name
        for name in outside
        if not names & {each.lower().replace("_", "-") for each in distributions.get(name, [name])}
    }
    assert not missing


def test_the_loop_needs_torch_alone_and_importing_everything_light_touches_nothing(tmp_path: Path) -> None:
    light = [
        ".".join(module.with_suffix("").parts).removesuffix(".__init__")
        for module in MODULES
        if not {"serving", "control_plane", "console"} & set(module.parts)
        and module.stem not in DEFINE_CLASSES_OF_RAY
    ]
    program = (
        "import importlib, sys, logging, raycls.training.loop, raycls.engines.predictor\n"
        "assert not {'ray', 'mlflow', 'matplotlib', 'timm', 'torchvision'} & set(sys.modules)\n"
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


def test_a_replica_starts_without_pytorch() -> None:
    """Importing PyTorch takes half of a start, and the engine `openvino` needs none of it."""
    program = (
        "import sys, raycls.serving.replica.classifier\n"
        "assert not {'torch', 'mlflow', 'captum'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_pages_ask_of_the_control_plane_needs_no_pytorch() -> None:
    """It would keep half a gigabyte for it. Reports and comparisons run in Ray tasks (raycls/control_plane/work.py)."""
    asked = (
        "control_plane.app",
        "control_plane.application",
        "tuning.lineage",
        "tuning.record",
        "tuning.pareto",
    )
    asked += ("reports.study_report", "reports.last_check", "reports.model_files", "training.curves")
    program = "".join(f"import raycls.{module}\n" for module in asked)
    program += "import sys\nassert not {'torch', 'captum'} & set(sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
