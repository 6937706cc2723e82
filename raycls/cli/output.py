"""How a command prints its result on stdout: one JSON document, or tables and lines for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="print the result as one JSON document")]


def print_json(value: Any) -> None:
    print(json.dumps(value))


def print_metrics(metrics: dict[str, float]) -> None:
    for name, value in metrics.items():
        print(f"{name:<20} {value:.4f}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, title in enumerate(header):
        table.add_column(title, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    width = None if sys.stdout.isatty() else 160  # a file or a pipe has no width
    Console(width=width, highlight=False, markup=False).print(table)
