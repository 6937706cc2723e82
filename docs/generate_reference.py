"""The pages of docs/reference/, made from the code: settings, commands and metrics.

    make docs        # or: python docs/generate_reference.py

A row of a table is a pydantic field, a typer option or a metric family. The texts exist in the code alone.
tests/unit/test_reference.py fails when a page differs from what this program writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import typer.main
from pydantic import BaseModel

# The only modules of raycls that this program uses.
from raycls.cli import app
from raycls.config import AugmentConfig, NetworkConfig, OptimConfig, TrainingConfig
from raycls.lifecycle.guards import GuardPolicy
from raycls.lifecycle.limits import UploadLimits
from raycls.registry.policy import PromotionPolicy
from raycls.serving.replica.captured import CapturePolicy
from raycls.serving.replica.drift_sums import drift_families
from raycls.serving.replica.experiment_metrics import experiment_families
from raycls.serving.replica.metrics import Metrics
from raycls.serving.settings import ConsoleConfig, ControlPlaneConfig, ServingConfig
from raycls.serving.state import Trigger
from raycls.tuning.space import Domain
from raycls.tuning.spec import StudySpec

FOLDER = Path(__file__).parent / "reference"
DEFAULT_COMMANDS = {
    ("tune", "run"),
    ("retrain", "start"),
}  # `raycls tune cifar10` is `raycls tune run cifar10`
WORDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "string": "text",
    "null": "none",
}
TYPES = {int: "whole number", float: "number", str: "text", Path: "path"}
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}


def pages() -> dict[str, str]:
    """Every page of the folder: its file's name and its text."""
    return {
        "settings.md": settings(),
        "policies.md": policies(),
        "commands.md": commands(),
        "metrics.md": metrics(),
    }


def settings() -> str:
    """The page of everything that can be set in a configuration or a file."""
    sections: dict[str, type[BaseModel]] = {
        "network": NetworkConfig,
        "optim": OptimConfig,
        "augment": AugmentConfig,
        "training": TrainingConfig,
    }
    lines = [
        *_head("Settings"),
        "Set a training setting with `--set`, by its path or by its last part where only one section has it:",
        "`raycls train cifar10 --set optim.lr=0.2 --set epochs=8`. The preset chooses some of the defaults from the",
        "dataset's size; the run prints the values it uses.",
    ]
    for name, section in sections.items():
        lines += ["", f"## Training: `{name}`", "", *_fields(section, prefix=f"{name}.")]
    lines += [
        "",
        "## Serving",
        "",
        "These are the `args` of the application in `serve_config.yaml`.",
        "",
        *_fields(ServingConfig),
        "",
        "## Control plane",
        "",
        "These are the `args` of the second application in `serve_config.yaml`.",
        "",
        *_fields(ControlPlaneConfig),
        "",
        "## Console",
        "",
        "These are the `args` of the third application in `serve_config.yaml`.",
        "",
        *_fields(ConsoleConfig),
        "",
        "## A study",
        "",
        "`raycls tune` takes them as options (`max_epochs` is `--max-epochs`) and stores them with the study.",
        "",
        *_fields(
            StudySpec, only=[name for name in StudySpec.model_fields if name in StudySpec.__annotations__]
        ),
        "",
        "## A searched setting",
        "",
        "One entry of the file that `raycls tune --space` reads: a range (`low`, `high`) or `choices`.",
        "",
        *_fields(Domain),
    ]
    return "\n".join(lines) + "\n"


def policies() -> str:
    """The page of what decides by itself: promotions, experiments, capture, retraining, and what people may send."""
    lines = [
        *_head("Policies"),
        "## Promotion",
        "",
        "What a version must do to become champion. Set a field with `--set`, as in",
        "`raycls promote pets 3 --set metric=macro_f1 --set margin=0.005`.",
        "",
        *_fields(PromotionPolicy),
        "",
        "## Guards",
        "",
        "What ends an experiment, where the latency factor is 3, and what takes a promotion back while it is watched.",
        "",
        *_fields(GuardPolicy),
        "",
        "## Capture",
        "",
        "Which pictures of live requests are kept for review: `raycls uploads capture`.",
        "",
        *_fields(CapturePolicy),
        "",
        "## Retraining by itself",
        "",
        "When the server retrains a model: `raycls retrain when`.",
        "",
        *_fields(Trigger),
        "",
        "## What people may send",
        "",
        "The limits of one request of new pictures, of the store, and of feedback.",
        "",
        *_fields(UploadLimits),
    ]
    return "\n".join(lines) + "\n"


def commands() -> str:
    """The page of every command with its arguments and options."""
    root: Any = typer.main.get_command(app)
    lines = [
        *_head("Commands"),
        "Progress goes to stderr, results to stdout. With `--json`, stdout is one JSON document. Exit code 0: done;",
        "1: the work failed; 2: the command was used wrongly, and the message says how to use it; 130: interrupted.",
    ]
    for path, command in _leaves(root, ()):
        shown = path[:-1] if path in DEFAULT_COMMANDS else path
        lines += ["", f"## `{' '.join(('raycls', *shown))}`", "", *_described(command.help or "")]
        rows = [
            _parameter(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)
        ]
        if rows := [row for row in rows if row]:
            lines += ["", *_table(("argument or option", "value", "meaning"), rows)]
    return "\n".join(lines) + "\n"


def metrics() -> str:
    """The page of what a replica reports at GET /metrics."""
    version: Any = SimpleNamespace(name="cifar10", version="1", rejection=None)
    rows = []
    served = Metrics("replica", version, ("cat",), "torch", "cpu").collect()
    for family in [*served, *experiment_families("replica", None), *drift_families(None)]:
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        rows.append((f"`{family.name}{suffix}`", family.type, family.documentation))
    lines = [
        *_head("Metrics"),
        "`GET /metrics` is Prometheus text with the series of all replicas; the label `replica` tells them apart.",
        "",
        *_table(("metric", "kind", "what it counts"), rows),
    ]
    return "\n".join(lines) + "\n"


def _head(title: str) -> list[str]:
    return [f"# {title}", "", "<!-- Made by `make docs` from the code: change the texts there. -->", ""]


def _fields(model: type[BaseModel], prefix: str = "", only: Iterable[str] | None = None) -> list[str]:
    schema = model.model_json_schema()
    required = schema.get("required", ())
    rows = []
    for name in only or model.model_fields:
        field = schema["properties"][name]
        default = "required" if name in required else _value(field.get("default"))
        rows.append((f"`{prefix}{name}`", _kind(field, schema), default, field.get("description", "")))
    return _table(("setting", "value", "default", "meaning"), rows)


def _kind(field: dict[str, Any], schema: dict[str, Any]) -> str:
    """What a field accepts, in words."""
    if "$ref" in field:
        field = schema["$defs"][field["$ref"].rpartition("/")[2]]
    if "anyOf" in field:
        kinds = [_kind(option, schema) for option in field["anyOf"]]
        if "number" in kinds and "whole number" in kinds:
            kinds.remove("whole number")
        return " or ".join(kinds)
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if field.get("type") == "array":
        items = field.get("items") or {}
        return f"list of: {_kind(items, schema)}" if items else "list"
    if field.get("type") == "object":
        return "mapping"
    words = WORDS[field["type"]]
    bounds = [text.format(_number(field[name])) for name, text in BOUNDS.items() if name in field]
    return ", ".join([words, *bounds])


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}"


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _number(value)
    return f"`{list(value)}`" if isinstance(value, list | tuple) else f"`{value}`"


def _leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The commands that can be called, a group that does something by itself before its own."""
    for name, child in getattr(command, "commands", {}).items():
        if getattr(child, "commands", None):
            if getattr(child, "invoke_without_command", False):
                yield (*path, name), child
            yield from _leaves(child, (*path, name))
        else:
            yield (*path, name), child


def _described(text: str) -> list[str]:
    """A docstring with its example as a block of its own."""
    words, _, example = " ".join(text.split()).partition("Example: ")
    return [words.strip(), *(["", "```sh", example.strip(), "```"] if example else [])]


def _parameter(parameter: Any) -> tuple[str, str, str] | None:
    if parameter.name == "help":
        return None
    argument = parameter.param_type_name == "argument"
    name = (
        f"`{parameter.name.upper()}`" if argument else ", ".join(f"`{option}`" for option in parameter.opts)
    )
    meaning = parameter.help or ""
    if not argument and parameter.default not in (None, False, (), []) and "default" not in meaning:
        meaning += f"; default: `{parameter.default}`"
    if argument and not parameter.required and parameter.default is not None:
        meaning += f"; default: `{parameter.default}`"
    return name, _accepted(parameter), meaning


def _accepted(parameter: Any) -> str:
    """What an argument or option accepts, in words."""
    if getattr(parameter, "is_flag", False):
        return "flag"
    annotation = parameter.type_descriptor.annotation
    (kind,) = get_args(annotation) or (annotation,)
    bounds = [
        text.format(_number(bound))
        for text, name in (("at least {}", "min"), ("at most {}", "max"))
        if (bound := getattr(parameter, name, None)) is not None
    ]
    several = ["several"] if parameter.multiple or parameter.nargs == -1 else []
    return ", ".join([parameter.metavar or TYPES[kind], *bounds, *several])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [row(head), row(["---"] * len(head)), *map(row, rows)]


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
