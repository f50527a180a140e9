"""Figures as SVG that becomes part of a page: its colours follow the page's, light or dark."""

from __future__ import annotations

import html
import io
import re
from typing import TYPE_CHECKING

from openmm_bg.plotting import STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 160  # of surfaces, which are pictures within the SVG


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """Return a figure as an SVG element.

    Black becomes the text colour of the page, the background transparent, but white behind surfaces, whose darkest
    colours would be lost on a dark page. The size is left to the page.

    Args:
        figure: The figure.
        name: Goes before every identifier in it, so that several figures fit on a page.
        description: What it shows, for people who do not see it.
    """
    import matplotlib
    from matplotlib.collections import QuadMesh

    figure.patch.set_alpha(0.0)
    for ax in figure.axes:
        surfaces = [one for one in ax.collections if isinstance(one, QuadMesh)]
        for one in surfaces:
            one.set_rasterized(True)
        ax.patch.set(facecolor="white", alpha=1.0 if surfaces else 0.0)
    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(STYLE):
        figure.savefig(text, format="svg", dpi=_DPI, metadata=nothing)
    drawing = text.getvalue()
    drawing = drawing[drawing.index("<svg") :].strip()
    drawing = re.sub(r"<metadata>.*?</metadata>\s*", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'\bid="', f'id="{name}-', drawing)
    drawing = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", drawing)
    drawing = drawing.replace("#000000", "currentColor")
    width, height = (round(inches * 96) for inches in figure.get_size_inches())
    (box,) = re.findall(r'viewBox="([^"]*)"', drawing)
    opening = (
        f'<svg role="img" aria-label="{html.escape(description)}" viewBox="{box}" width="{width}" '
        f'height="{height}" fill="currentColor" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return opening + drawing[drawing.index(">") + 1 :]
