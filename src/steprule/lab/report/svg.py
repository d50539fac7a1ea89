"""A matplotlib figure as inline SVG: named, described, its ids unlike any other's, its colours the page's."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from steprule.lab.report.style import COLOURS, GRID, INK, MUTED, PAPER

_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"} | {
    light: f"--c{place}" for place, (light, _) in enumerate(COLOURS)
}

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 10.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "path.simplify_threshold": 0.3,
}


def series(place: int) -> str:
    """Return the mark by which the page can hide the parts of one optimiser."""
    return f"series-{place}"


def render(figure: Figure, name: str, title: str, description: str, **saving: Any) -> str:
    """Return the figure as an SVG element that carries its own title and description."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing, **saving)
    return _inline(buffer.getvalue(), name, title, description)


def _inline(text: str, name: str, title: str, description: str) -> str:
    """Turn a stand-alone SVG file into an element of a page."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="series-(\d+)"', r'<g class="of-\1"', body)
    # Ids are unique within a figure only, and several figures share the page.
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\1{name}-", body)
    body = re.sub(r"#[0-9a-f]{6}\b", _variable, body)
    body = re.sub(r"<[^>]*>", _shortened, body)
    head, rest = body.split(">", 1)
    head = re.sub(r'\s(?:width|height|xmlns|xmlns:xlink|version)="[^"]*"', "", head).replace("xlink:", "")
    named = f' role="img" aria-labelledby="{name}-title {name}-desc">'
    told = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
    return head + named + told + rest.replace("xlink:href", "href").strip()


def _shortened(tag: re.Match[str]) -> str:
    """Write a tag's coordinates and scales to four digits; the numbers that are read stand between the tags."""
    return re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.4g}", tag[0])


def _variable(found: re.Match[str]) -> str:
    """Let a colour follow the page's light or dark scheme, and keep it where there is no page."""
    name = _VARIABLES.get(found[0])
    return f"var({name}, {found[0]})" if name else found[0]


def formula(equations: Sequence[str], name: str, description: str) -> str | None:
    """Return the equations set one under another, aligned at their equals signs, as inline SVG.

    Its width is in em, so that every formula of the page is set in the same size. None where the typesetter cannot
    read one.
    """
    size = 19.0
    # Text-size fractions cannot be read from the back of a lecture hall.
    lines = [equation.replace(r"\frac", r"\dfrac") for equation in equations]
    heights = [52.0 if r"\dfrac" in line else 36.0 for line in lines]
    if not lines or max(map(len, lines)) > LONGEST or len(lines) > MOST:
        return None
    with mpl.rc_context({"mathtext.fontset": "cm", "svg.fonttype": "path", "text.parse_math": True}):
        figure = Figure(figsize=(6, sum(heights) / 72))
        for place, line in enumerate(lines):
            left, equals, right = line.partition("=")
            baseline = 1 - (sum(heights[:place]) + heights[place] / 2 + 5) / sum(heights)
            text: Any = {"fontsize": size, "color": INK, "va": "baseline"}
            figure.text(0.3, baseline, f"${left.strip()}$", ha="right", **text)
            figure.text(0.3, baseline, f"$\\,{equals}\\,{right.strip()}$", ha="left", **text)
        try:
            drawn = render(figure, name, "Update rule", description, bbox_inches="tight", pad_inches=0.04)
        except (ValueError, RecursionError):
            return None
    width = float(drawn.split('viewBox="', 1)[1].split('"', 1)[0].split()[2])
    return drawn.replace("<svg ", f'<svg style="width: {1.45 * width / size:.2f}em" ', 1)


LONGEST, MOST = 600, 40
"""Signs of a line and lines of a formula beyond which it is shown as text."""
