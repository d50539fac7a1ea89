"""One self-contained page, made from the document alone. It loads nothing, and can be read without scripts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from steprule.console.embedding import embedded, policy
from steprule.console.text import clean
from steprule.lab.report import charts, svg, tables, words
from steprule.lab.report.derive import Chapter, Quantity, ReportArm, arms, axes, band, chapters, quantities, sensitivity
from steprule.lab.report.style import COLOURS
from steprule.lab.report.tables import Table

TEMPLATES = ("page.html.j2", "task.html.j2", "macros.html.j2", "page.css")
SCRIPTS = ("vendor/uPlot.iife.min.js", "page.js")
STILL = ("distance", "training_loss", "score", "validation_loss", "gradient_norm", "clip_coefficient", "update_ratio")
"""The quantities that print and a page without scripts show; the first two of losses and scores are enough."""


@dataclass(frozen=True)
class Drawn:
    """A figure with its caption and the numbers behind it."""

    svg: Markup
    caption: str
    table: Table


@dataclass(frozen=True)
class Section:
    """One task on the page."""

    anchor: str
    chapter: Chapter
    verdict: str
    stills: list[Drawn]
    figures: list[Drawn]
    numbers: Table
    tables: list[tuple[Table, str]]
    footnotes: list[str]
    quantities: list[Quantity]
    axes: list[str]
    exhibits: list[tuple[str, list[dict[str, Any]]]]


def page(document: dict[str, Any]) -> str:
    """Return the report as HTML, in which everything from the document is text."""
    document = clean(document)
    parts, ordered = chapters(document), arms(document)
    sections = [_section(document, chapter, place) for place, chapter in enumerate(parts)]
    scripts = [Markup(_text(name)) for name in SCRIPTS]  # noqa: S704 - our own files
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            heading=words.heading(document),
            document=document,
            arms=ordered,
            sections=sections,
            overview=_overview(document, parts, ordered) if len(parts) > 1 else None,
            cards=[(arm, _formula(arm), _cost(arm.row)) for arm in ordered],
            failed=tables.lost(document, ("failed", "interrupted")),
            diverged=tables.lost(document, ("diverged",)),
            facts=_facts(document),
            data=_data(sections, ordered),
            scripts=scripts,
            policy=policy(scripts),
            vendor_css=Markup(_text("vendor/uPlot.min.css")),  # noqa: S704 - our own copy
            colours=COLOURS,
            words=words,
            x_labels=charts.X_LABELS,
        )
    )


@cache
def _text(name: str) -> str:
    return (resources.files("steprule.lab.report") / name).read_text(encoding="utf-8")


def _environment() -> Environment:
    loader = DictLoader({name: _text(name) for name in TEMPLATES})
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _overview(document: dict[str, Any], parts: Sequence[Chapter], ordered: Sequence[ReportArm]) -> tuple[Table, Drawn]:
    drawn = Markup(charts.profiles(parts, ordered, "profile"))  # noqa: S704 - an SVG whose texts are escaped
    caption = (
        "Performance profile: the share of tasks on which an optimiser met the target within τ times the epochs "
        "of the fastest one there. Higher is better; a line that stays below 100 % missed targets."
    )
    return tables.overview(document, parts, ordered), Drawn(drawn, caption, tables.profiles(parts, ordered))


def _section(document: dict[str, Any], chapter: Chapter, place: int) -> Section:
    known = quantities(chapter)
    name = chapter.task["name"]
    return Section(
        anchor=f"task{place}",
        chapter=chapter,
        verdict=document["verdicts"].get(name, "") if len(chapter.cells) > 1 else words.single_run(document) or "",
        stills=_stills(chapter, known, place),
        figures=_figures(chapter, place),
        numbers=tables.numbers(document, chapter),
        tables=_tables(document, chapter),
        footnotes=words.footnotes(document, chapter),
        quantities=known,
        axes=_axes(chapter),
        exhibits=_exhibits(chapter),
    )


def _axes(chapter: Chapter) -> list[str]:
    """Return the x axes of curves. Epochs come first if optimisers made different numbers of iterations."""
    found = axes(chapter)
    lengths = {max((run["iterations"] for run in cell.result["runs"]), default=0) for cell in chapter.cells} - {0}
    if len(lengths) > 1 and "epoch" in found and not chapter.task["theory"]:
        found.sort(key=lambda x: x != "epoch")
    return found


def _stills(chapter: Chapter, known: Sequence[Quantity], place: int) -> list[Drawn]:
    """Draw the figures of a page without scripts."""
    found = {quantity.name: quantity for quantity in known if quantity.name in STILL}
    if "distance" in found:
        found.pop("training_loss", None)
    if "score" in found:
        found.pop("validation_loss", None)
    drawn: list[Drawn] = []
    for name in STILL:
        if name in found:
            x = _axes(chapter)[0]
            image = Markup(charts.curves(chapter, found[name], x, f"t{place}-{name}"))  # noqa: S704 - escaped texts
            table = tables.curve(chapter, found[name], x, chapter.phases[0])
            drawn.append(Drawn(image, found[name].label.capitalize(), table))
    return drawn


def _figures(chapter: Chapter, place: int) -> list[Drawn]:
    """Draw the still charts, except those without data."""
    drawn: list[Drawn] = []

    def add(chart: Callable[[Chapter, str], str], table: Callable[[Chapter], Table], caption: str) -> None:
        image = Markup(chart(chapter, f"t{place}-{chart.__name__}"))  # noqa: S704 - an SVG whose texts are escaped
        drawn.append(Drawn(image, caption, table(chapter)))

    runs = [run for cell in chapter.cells for run in cell.result["runs"]]
    if any(run["test_score"] is not None for run in runs):
        add(charts.scores, tables.scores, _SCORES if chapter.several else "The score on test data, met once.")
    if chapter.task["target"] is not None and chapter.phases:
        add(charts.targets, tables.targets, "Time to target: a dot is one seed, a cross one that missed.")
    if any(len(sensitivity(cell)) > 1 for cell in chapter.cells):
        add(charts.rates, tables.rates, _RATES)
        add(charts.trials, tables.trials, _TRIALS)
    return drawn


_SCORES = (
    "A dot is one seed, scored once on test data; the bar is the interval, the tick the median. Hollow: at the default "
    "learning rate."
)
_RATES = (
    "Sensitivity to the learning rate: validation loss at the end of training. A ring marks the kept rate; above, "
    "✕ marks rates at which a run diverged, □ at which one failed."
)
_TRIALS = (
    "The cost of tuning: the best validation loss after k learning rates, as the median over every order in which they "
    "could have been tried, with quartiles."
)


def _tables(document: dict[str, Any], chapter: Chapter) -> list[tuple[Table, str]]:
    """Return the tables of a task, each with a sentence on how to read it."""
    read = {
        "matrix": "▲ the row's optimiser is better than the column's, ▼ worse, ≈ the data cannot tell.",
        "variants": "The loss on the whole training set at the end. Where the two intervals overlap, the variant "
        "learns as well, as far as these seeds tell.",
        "defaults": "Each optimiser at the learning rate its authors give, and at the one that tuning kept.",
        "costs": "Measured while training this network: the step of the optimiser alone, its memory between steps. "
        "The notes above describe the timing.",
    }
    found = {
        "matrix": tables.matrix(document, chapter),
        "variants": tables.variants(document, chapter),
        "defaults": tables.defaults(chapter),
        "costs": tables.costs(chapter),
    }
    return [(table, read[name]) for name, table in found.items() if table is not None]


def _exhibits(chapter: Chapter) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the exhibits: the data's first, then those of each optimiser's trained network."""
    shown = [("data", chapter.task["reference"])]
    for cell in chapter.cells:
        made = [run for phase in ("report", "default") for run in cell.runs(phase) if run["exhibits"]]
        shown += [(cell.arm.key, made[0]["exhibits"])] if made else []
    return [(name, exhibits) for name, exhibits in shown if exhibits]


def _formula(arm: ReportArm) -> Markup | None:
    """Return the typeset formula, or None if there is no formula or the typesetter cannot read it."""
    drawn = svg.formula(arm.row["equations"], f"formula{arm.look.place}", arm.row["formula"] or "")
    return None if drawn is None else Markup(drawn)  # noqa: S704 - outlines, and an escaped description


def _cost(row: dict[str, Any]) -> str:
    """Word the memory traffic of a step."""
    if row["bytes_per_parameter"] is None:
        return "not known: this optimiser's code is not the library's"
    count = len(row["passes"])
    passes = "1 pass" if count == 1 else f"{count} passes"
    return f"{passes} over memory, {row['bytes_per_parameter']:g} bytes a parameter ({row['backend'] or 'no backend'})"


def _facts(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Return everything that is needed to repeat the study."""
    protocol, git = document["protocol"], document["git"]
    state = "none" if git is None else git["commit"] + (", with changes" if git["modified"] else ", without changes")
    return [
        ("Command", document["command"]),
        ("Learning rates", _rates(protocol) or "given"),
        ("Trials an optimiser", _trials(protocol)),
        ("Tuning seeds", ", ".join(map(str, protocol["tuning_seeds"])) or "none"),
        ("Report seeds", ", ".join(map(str, protocol["report_seeds"])) or "none"),
        ("Versions", ", ".join(f"{name} {number}" for name, number in document["versions"].items())),
        ("Machine", ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in document["hardware"].items())),
        ("Git", state),
        ("Started", f"{document['started']}, took {document['seconds']:,.0f} s"),
        ("State", "interrupted" if document["interrupted"] else "complete" if document["complete"] else "in progress"),
    ]


def _rates(protocol: dict[str, Any]) -> str:
    """Word the learning rates of each task, and of the optimisers that have their own."""
    several, told = len(protocol["grids"]) > 1, list[str]()
    for name, grid in protocol["grids"].items():
        own = protocol.get("own_grids", {}).get(name, {})
        listed = [
            ", ".join(map(words.rate, grid)),
            *(f"{key} {', '.join(map(words.rate, g))}" for key, g in own.items()),
        ]
        told.append((f"{name}: " if several else "") + "; ".join(listed))
    return "; ".join(told)


def _trials(protocol: dict[str, Any]) -> str:
    """Return how many runs chose each optimiser's learning rate; tasks differ where a grid has grown."""
    found = sorted({len(grid) * len(protocol["tuning_seeds"]) for grid in protocol["grids"].values()}) or [0]
    return f"{found[0]:,}" + (f" to {found[-1]:,}, by task" if len(found) > 1 else "")


def _data(sections: Sequence[Section], ordered: Sequence[ReportArm]) -> Markup:
    """Return the script's data, as JSON that cannot end its element."""
    drawn = {
        "arms": [
            {
                "name": charts.short(arm.key),
                "colour": arm.look.variable,
                "dash": arm.look.dash,
                "marker": arm.look.marker,
            }
            for arm in ordered
        ],
        "tasks": [_task_data(section) for section in sections],
    }
    return embedded(drawn)


def _task_data(section: Section) -> dict[str, Any]:
    chapter = section.chapter
    least = chapter.task["optimum"]
    return {
        "quantities": {
            quantity.name: {
                "label": quantity.label,
                "log": quantity.log,
                "percent": quantity.percent,
                "unit": quantity.unit,
            }
            for quantity in section.quantities
        },
        "theory": [{"label": line["label"], "x": line["x"], "y": line["y"]} for line in chapter.task["theory"]],
        "optimum": least,
        "phases": {
            phase: [_lines(section, cell, phase) for cell in chapter.cells if cell.drawn(phase)]
            for phase in chapter.phases
        },
    }


def _lines(section: Section, cell: Any, phase: str) -> dict[str, Any]:
    """Return one optimiser's curves: x by name, and for every quantity the median and the range."""
    runs, task = cell.drawn(phase), section.chapter.task
    drawn = {quantity.name: band(runs, quantity, section.axes[0], task) for quantity in section.quantities}
    first = section.quantities[0]
    return {
        "arm": cell.arm.look.place,
        "x": {x: _digits(band(runs, first, x, task).x) for x in section.axes},
        "y": {
            name: [_digits(one.middle), *([_digits(one.low), _digits(one.high)] if len(runs) > 1 else [])]
            for name, one in drawn.items()
        },
    }


def _digits(values: Sequence[float | None]) -> list[float | None]:
    """Return the numbers as short as a chart needs."""
    return [None if value is None else float(f"{value:.4g}") if abs(value) < 1e4 else round(value) for value in values]
