"""What the commands share: settings from options, and summaries that say what the figures mean."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def settings_from(cls: type[Settings], parameters: Mapping[str, Any], **changes: Any) -> Settings:
    """Build a settings dataclass from a command's parameters of the same names.

    Args:
        cls: The dataclass.
        parameters: The parameters by name; others than the dataclass has are left out.
        changes: Fields that differ from the parameters.

    Raises:
        InputError: If a setting makes no sense.
    """
    names = {field.name for field in dataclasses.fields(cls)}
    return cls(**{name: value for name, value in {**parameters, **changes}.items() if name in names})


def say(text: str) -> None:
    """Print a line."""
    print(text, file=sys.stdout)


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]], title: str = "") -> None:
    """Print a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # not markup: labels may have brackets
    # A file or a pipe has no width to fit into.
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)


def print_summary(rows: Iterable[tuple[str, str, str]], title: str = "") -> None:
    """Print figures: name, value, and what it means."""
    print_table(("figure", "value", "meaning"), rows, title)
