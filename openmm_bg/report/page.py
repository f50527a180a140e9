"""The parts of a report, and the one HTML page that they become."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING

from openmm_bg.report.svg import inline_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure with its caption.

    Attributes:
        title: What it shows, in a few words.
        figure: The figure.
        caption: What it says, in numbers with their errors.
        command: The command that made the data.
        description: What it shows, for people who do not see it; the title if not given.
    """

    title: str
    figure: Figure
    caption: str
    command: str = ""
    description: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: What it shows.
        header: Names of the columns.
        rows: Its cells as text, the first of each row being its name.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class KeyFigure:
    """A number that the page starts with: its name, value, meaning, and whether it is a warning."""

    name: str
    value: str
    meaning: str
    warns: bool = False


@dataclass
class Section:
    """A section of the page.

    Attributes:
        title: Its heading.
        text: What it is about.
        warnings: Sentences that a reader must not miss.
        pictures: Its figures.
        tables: Its tables.
        listings: Longer texts under a heading each, folded.
    """

    title: str
    text: str = ""
    warnings: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    listings: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.warnings or self.pictures or self.tables or self.listings)


def render(
    title: str,
    subtitle: str,
    key_figures: Sequence[KeyFigure],
    warnings: Sequence[str],
    sections: Sequence[Section],
) -> str:
    """Return the page as HTML that needs no other file and runs no program.

    Args:
        title: The heading.
        subtitle: A line below it.
        key_figures: The numbers that it starts with.
        warnings: Sentences about the whole page that a reader must not miss.
        sections: The sections; empty ones are left out.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    folder = resources.files("openmm_bg.report") / "templates"
    counter = 0

    def draw(picture: Picture) -> Markup:
        nonlocal counter
        counter += 1
        return Markup(inline_svg(picture.figure, f"figure{counter}", picture.description or picture.title))

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((folder / "report.html.jinja").read_text())
    shown = [section for section in sections if not section.is_empty]
    return template.render(
        title=title,
        subtitle=subtitle,
        key_figures=key_figures,
        warnings=warnings,
        sections=list(zip(_identifiers([section.title for section in shown]), shown, strict=True)),
        style=Markup((folder / "report.css").read_text()),
        draw=draw,
        unbroken=_unbroken,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _identifiers(titles: Sequence[str]) -> list[str]:
    """Return headings as identifiers, each different."""
    found: list[str] = []
    for title in titles:
        name = "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())
        while name in found:
            name += "-again"
        found.append(name)
    return found


def _unbroken(text: str) -> str:
    """Keep numbers together with their errors and units."""
    return re.sub(
        r" ± |(?<=\d) (?=(?:K|kT|%|min)(?!\w))| (?=UTC)", lambda m: m[0].replace(" ", "\u00a0"), text
    )
