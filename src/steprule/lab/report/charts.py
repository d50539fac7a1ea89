"""The report's still figures, for print and for a page without scripts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from steprule.lab.report import svg, words
from steprule.lab.report.derive import (
    Band,
    Cell,
    Chapter,
    Quantity,
    ReportArm,
    after_trials,
    band,
    met,
    profile,
    sensitivity,
)
from steprule.lab.report.style import MUTED

WIDTH, HEIGHT = 5.4, 3.7
"""Of a figure, in inches: at 72 points each it fits a phone as it is, and two stand side by side elsewhere."""

LABELLED = 15
"""Lines beyond which their ends are not labelled: the legend is."""

CROWDED = 5
"""Bands beyond which more of them hide the lines."""

SEVERAL = 2.0
"""Powers of ten from which on they alone number an axis."""

X_LABELS = {"iteration": "iterations", "epoch": "epochs", "examples": "examples seen", "seconds": "seconds"}


def short(key: str, most: int = 18) -> str:
    """Return a name that fits a margin."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in key)
    return clean if len(clean) <= most else clean[: most - 1] + "…"


def _margin(arms: Iterable[ReportArm]) -> float:
    """Return the share of the width that the longest name takes."""
    return 0.03 + 0.019 * max((len(short(arm.key)) for arm in arms), default=0)


def _figure(left: float = 0.14, right: float = 0.97, height: float = HEIGHT, top: float = 0.96) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, height))
    axes: Any = figure.subplots()
    figure.subplots_adjust(left=left, right=right, top=top, bottom=0.5 / height)
    return figure, axes


def _style(arm: ReportArm) -> dict[str, Any]:
    dash = arm.look.dash
    return {"color": arm.look.light, "linestyle": (0, dash) if dash else "-", "gid": svg.series(arm.look.place)}


def curves(chapter: Chapter, quantity: Quantity, x: str, name: str) -> str:
    """Draw every optimiser at its kept learning rate, each line labelled at its end."""
    phase = chapter.phases[0]
    bands = [(cell.arm, band(cell.drawn(phase), quantity, x, chapter.task)) for cell in chapter.cells]
    bands = [(arm, drawn) for arm, drawn in bands if drawn.last]
    labelled = len(bands) <= LABELLED
    with mpl.rc_context(svg.STYLE):
        figure, axes = _figure(right=1 - _margin(arm for arm, _ in bands) if labelled else 0.97)
        for arm, drawn in bands:
            _band(axes, arm, drawn)
        axes.set_xlabel(X_LABELS[x])
        axes.set_ylabel(quantity.label)
        axes.xaxis.set_major_formatter(FuncFormatter(_short_number))
        axes.margins(x=0)
        _vertical(axes, quantity)
        _theory(axes, chapter, quantity, x)
        if labelled:
            _label_ends(axes, bands)
        title = f"{quantity.label.capitalize()} against {X_LABELS[x]}"
        told = "Median and range over the seeds: " if chapter.several else ""
        return svg.render(figure, name, title, f"{told}{_ends(bands)}.")


def _band(axes: Any, arm: ReportArm, drawn: Band) -> None:
    """Draw the median line with sparse markers over the range of the seeds."""
    x = [math.nan if value is None else value for value in drawn.x]
    low, middle, high = ([math.nan if y is None else y for y in line] for line in (drawn.low, drawn.middle, drawn.high))
    faint = 0.12 if len(axes.get_lines()) < CROWDED else 0.0
    axes.fill_between(x, low, high, color=arm.look.light, alpha=faint, linewidth=0, gid=svg.series(arm.look.place))
    # Markers begin at another point for every optimiser, so that they do not fall on each other.
    every = max(1, len(x) // 6)
    marks = {"marker": arm.look.marker, "markersize": 4.5, "markevery": (arm.look.place % every, every)}
    axes.plot(x, middle, linewidth=1.7, **marks, **_style(arm))


def _theory(axes: Any, chapter: Chapter, quantity: Quantity, x: str) -> None:
    """Draw the bound that theory gives for the training loss, up to the last iteration of any optimiser."""
    if x != "iteration" or quantity.name not in {"training_loss", "distance"} or not chapter.task["theory"]:
        return
    least = (chapter.task["optimum"] or 0.0) if quantity.name == "distance" else 0.0
    axes.autoscale(enable=False)
    for line in chapter.task["theory"]:
        pairs = [(at, y - least) for at, y in zip(line["x"], line["y"], strict=True) if None not in {at, y}]
        known = [(at, y) for at, y in pairs if y > 0]
        axes.plot([at for at, _ in known], [y for _, y in known], color=MUTED, linewidth=1.2, linestyle=(0, (2, 2)))


def _short_number(value: float, _: object) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e4 else f"{value:g}"


def _vertical(axes: Any, quantity: Quantity) -> None:
    """Scale the vertical axis; one line that flies off does not flatten the others."""
    values = [float(y) for line in axes.get_lines() for y in line.get_ydata() if math.isfinite(y)]
    if quantity.log and any(y > 0 for y in values):
        _logarithmic(axes, "y")
    elif quantity.percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        ends = [float(line.get_ydata()[-1]) for line in axes.get_lines()]
        worst = min(filter(math.isfinite, ends), default=0.0)
        axes.set_ylim(max(min(values, default=0.0), math.floor(10 * worst) / 10 - 0.2) - 0.005, 1.005)


def _logarithmic(axes: Any, name: str) -> None:
    """Scale an axis, x or y, and number it: by powers of ten where there are several, and between them elsewhere."""
    getattr(axes, f"set_{name}scale")("log")
    low, high = getattr(axes, f"get_{name}lim")()
    decades, axis = math.log10(high) - math.log10(low), getattr(axes, f"{name}axis")
    few = MaxNLocator(5, steps=[1, 2, 5, 10]) if decades < 0.5 else LogLocator(subs=(1.0, 2.0, 5.0))
    axis.set_major_locator(LogLocator(numticks=7) if decades > SEVERAL else few)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Return the positions, pushed apart in pairs until neighbours are `gap` apart, and all from 0 to 1."""
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    placed = [wanted[place] for place in order]
    for _ in range(100):
        for lower in range(len(placed) - 1):
            push = max(0.0, gap - (placed[lower + 1] - placed[lower])) / 2
            placed[lower] -= push
            placed[lower + 1] += push
        placed[:1] = [max(height, 0.0) for height in placed[:1]]
        placed[-1:] = [min(height, 1.0) for height in placed[-1:]]
    return [placed[order.index(place)] for place in range(len(wanted))]


def _label_ends(axes: Any, bands: Sequence[tuple[ReportArm, Band]]) -> None:
    """Write each name in the margin, where its line ends or would go on."""
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [(arm, float(to_axes.transform(drawn.last)[1])) for arm, drawn in bands if drawn.last]
    ends = [(arm, min(max(height, 0.0), 1.0)) for arm, height in ends if math.isfinite(height)]
    heights = spread([height for _, height in ends], 0.058)
    for (arm, height), label in zip(ends, heights, strict=True):
        mark = svg.series(arm.look.place)
        link: Any = {"transform": axes.transAxes, "color": arm.look.light, "linewidth": 0.8, "clip_on": False}
        axes.plot([1, 1.02], [height, label], gid=mark, **link)
        text: Any = {"color": arm.look.light, "fontweight": "bold", "fontsize": 9.5, "va": "center", "gid": mark}
        axes.text(1.03, label, short(arm.key), transform=axes.transAxes, **text)


def _ends(bands: Sequence[tuple[ReportArm, Band]]) -> str:
    """Word the end of each line, for readers who cannot see it."""
    return ", ".join(f"{arm.key} ends at {drawn.last[1]:.3g}" for arm, drawn in bands if drawn.last)


def rates(chapter: Chapter, name: str) -> str:
    """Draw validation loss against learning rate, and above it, a row an optimiser, where runs were lost."""
    tuned = [cell for cell in chapter.cells if sensitivity(cell)]
    strip = 0.13 * len(tuned) + 0.25
    with mpl.rc_context(svg.STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT + strip))
        rows: Any
        axes: Any
        rows, axes = figure.subplots(2, sharex=True, height_ratios=[strip, HEIGHT - 0.6])
        left = max(0.14, _margin(cell.arm for cell in tuned))
        figure.subplots_adjust(left=left, right=0.97, top=0.97, bottom=0.5 / (HEIGHT + strip), hspace=0.05)
        for place, cell in enumerate(tuned):
            _rate_line(axes, cell)
            _lost_row(rows, cell, place)
        rows.set_ylim(-len(tuned) + 0.4, 0.6)
        rows.set_yticks([])
        rows.tick_params(axis="x", length=0, labelbottom=False, which="both")
        rows.spines[["left", "bottom"]].set_visible(False)
        if any(math.isfinite(y) and y > 0 for line in axes.get_lines() for y in line.get_ydata()):
            _logarithmic(axes, "y")
        _logarithmic(axes, "x")
        axes.set_xlabel("learning rate η")
        axes.set_ylabel("validation loss")
        told = "; ".join(map(_told, tuned))
        return svg.render(figure, name, "Validation loss against learning rate", f"{told}.")


def _rate_line(axes: Any, cell: Cell) -> None:
    """Draw the rates that finished, with a ring at the kept one, and a gap at each that did not."""
    seen = sensitivity(cell)
    y = [math.nan if rate.loss is None else rate.loss for rate in seen]
    axes.plot(
        [rate.lr for rate in seen], y, marker=cell.arm.look.marker, markersize=4, linewidth=1.5, **_style(cell.arm)
    )
    kept = [rate for rate in seen if rate.lr == cell.result["lr"] and rate.loss is not None]
    ring: Any = {"markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.5, "linestyle": "none"}
    axes.plot(
        [rate.lr for rate in kept],
        [rate.loss for rate in kept],
        marker="o",
        color=cell.arm.look.light,
        gid=svg.series(cell.arm.look.place),
        **ring,
    )


def _lost_row(rows: Any, cell: Cell, place: int) -> None:
    """Mark on the optimiser's own row each learning rate at which a run diverged or failed."""
    for status, marker in (("diverged", "x"), ("failed", "s")):
        at = [rate.lr for rate in sensitivity(cell) if status in rate.lost]
        shape: Any = {
            "marker": marker,
            "markersize": 5,
            "markeredgewidth": 1.6,
            "fillstyle": "none",
            "linestyle": "none",
        }
        mark = {"color": cell.arm.look.light, "gid": svg.series(cell.arm.look.place)}
        rows.plot(at, [-place] * len(at), **mark, **shape)
    _row_name(rows, cell.arm, place)


def _row_name(rows: Any, arm: ReportArm, place: int) -> None:
    """Write a name before its row."""
    text: Any = {"ha": "right", "va": "center", "color": arm.look.light, "fontweight": "bold", "fontsize": 9.5}
    at: Any = {"xycoords": rows.get_yaxis_transform(), "xytext": (-6, 0), "textcoords": "offset points"}
    rows.annotate(short(arm.key), (0, -place), gid=svg.series(arm.look.place), annotation_clip=False, **at, **text)


def _told(cell: Cell) -> str:
    """Word one optimiser's sensitivity, for readers who cannot see it."""
    lost = [words.rate(rate.lr) for rate in sensitivity(cell) if rate.lost]
    told = f"{cell.arm.key} is best at {words.rate(cell.result['lr'])}"
    return told + (f", diverged or failed at {', '.join(lost)}" if lost else "")


def scores(chapter: Chapter, name: str) -> str:
    """Draw each seed's test score as a dot, over the interval and median of its optimiser."""
    metric = chapter.task["metric"]
    with mpl.rc_context(svg.STYLE):
        figure, axes = _rows(chapter)
        for place, cell in enumerate(chapter.cells):
            _row_name(axes, cell.arm, place)
            for phase, summary, size in (("default", "default", 4), ("report", "tuned", 5)):
                found = [run["test_score"] for run in cell.runs(phase) if run["test_score"] is not None]
                _row_dots(
                    axes, cell.arm, found, place + (0.24 if phase == "default" else 0), size, hollow=phase == "default"
                )
                kept = cell.result[summary] and cell.result[summary]["test_score"]
                if kept and phase == "report" and chapter.several:
                    _row_interval(axes, cell.arm, kept, place)
        axes.set_xlabel(f"test {metric['name']}{words.suffix(metric)}".replace(" %", ""))
        if metric["percent"]:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        told = (
            f"{cell.arm.key} {words.score(cell.result['tuned'] and cell.result['tuned']['test_score'], metric)}"
            for cell in chapter.cells
        )
        return svg.render(figure, name, f"Test {metric['name']} of every seed", "; ".join(told) + ".")


def _rows(chapter: Chapter) -> tuple[Figure, Any]:
    """Return axes with a row an optimiser."""
    height = 0.75 + 0.27 * max(len(chapter.cells), 2)
    figure, axes = _figure(left=max(0.1, _margin(cell.arm for cell in chapter.cells)), height=height)
    axes.set_ylim(-len(chapter.cells) + 0.35, 0.6)
    axes.set_yticks([])
    axes.spines[["left"]].set_visible(False)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure, axes


def _row_dots(axes: Any, arm: ReportArm, values: Sequence[float], at: float, size: float, *, hollow: bool) -> None:
    face = "none" if hollow else arm.look.light
    mark: Any = {"color": arm.look.light, "markerfacecolor": face, "gid": svg.series(arm.look.place), "alpha": 0.8}
    axes.plot(values, [-at] * len(values), "o", markersize=size, clip_on=False, **mark)


def _row_interval(axes: Any, arm: ReportArm, kept: dict[str, float], place: int) -> None:
    mark: Any = {"color": arm.look.light, "gid": svg.series(arm.look.place)}
    axes.plot([kept["low"], kept["high"]], [-place] * 2, linewidth=7, alpha=0.25, **mark)
    axes.plot([kept["middle"]], [-place], "|", markersize=14, markeredgewidth=2.4, **mark)


def targets(chapter: Chapter, name: str) -> str:
    """Draw each seed's epochs to the target as a dot, and each miss as a cross at the right edge."""
    told, seen, longest = list[str](), list[float](), 0.0
    with mpl.rc_context(svg.STYLE):
        figure, axes = _rows(chapter)
        for place, cell in enumerate(chapter.cells):
            runs = cell.runs(chapter.phases[0])
            reached = [met(run, chapter.task) for run in runs]
            known = [at for at in reached if at is not None]
            _row_name(axes, cell.arm, place)
            _row_dots(axes, cell.arm, known, place, 5, hollow=False)
            for miss in range(len(reached) - len(known)):
                mark: Any = {"color": cell.arm.look.light, "gid": svg.series(cell.arm.look.place)}
                edge: Any = {"transform": axes.get_yaxis_transform(), "clip_on": False, "markeredgewidth": 1.6}
                axes.plot([1.0 - min(0.025, 0.2 / len(runs)) * miss], [-place], "x", markersize=6, **edge, **mark)
            told.append(f"{cell.arm.key} in {len(known)} of {len(runs)} runs")
            seen += known
            longest = max([longest, *(run["epochs"] for run in runs)])
        axes.set_xlim(0, 1.06 * max(seen, default=0) or longest or 1)
        axes.set_xlabel(f"epochs to a validation {chapter.task['metric']['name']} of {words.target(chapter.task)}")
        return svg.render(figure, name, "Epochs to the target, run by run", "Reached by " + ", ".join(told) + ".")


def trials(chapter: Chapter, name: str) -> str:
    """Draw the best validation loss after k trials, as the median over every order of the trials."""
    with mpl.rc_context(svg.STYLE):
        tuned = [(cell, after_trials(cell)) for cell in chapter.cells if sensitivity(cell)]
        figure, axes = _figure(right=1 - _margin(cell.arm for cell, _ in tuned) if len(tuned) <= LABELLED else 0.97)
        bands: list[tuple[ReportArm, Band]] = []
        for cell, rows in tuned:
            counts: list[float | None] = [*map(float, range(1, len(rows) + 1))]
            low, middle, high = ([row[part] for row in rows] for part in range(3))
            bands.append((cell.arm, Band(counts, middle, low, high)))
            _band(axes, *bands[-1])
        axes.set_xlabel("learning rates tried")
        axes.set_ylabel("best validation loss")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if any(math.isfinite(y) and y > 0 for line in axes.get_lines() for y in line.get_ydata()):
            _logarithmic(axes, "y")
        axes.margins(x=0)
        if len(tuned) <= LABELLED:
            _label_ends(axes, bands)
        told = "Median and quartiles over every order of the trials: "
        return svg.render(figure, name, "Best validation loss after k trials", told + _ends(bands) + ".")


def profiles(parts: Sequence[Chapter], arms: Sequence[ReportArm], name: str) -> str:
    """Draw, for each optimiser, the share of tasks on which it was at most τ times slower than the fastest."""
    ratios = profile(parts)
    finite = [value for values in ratios.values() for value in values if math.isfinite(value)]
    end = max(2.0, 1.1 * max(finite, default=1.0))
    told: list[str] = []
    with mpl.rc_context(svg.STYLE):
        figure, axes = _figure(right=1 - _margin(arms))
        bands: list[tuple[ReportArm, Band]] = []
        for arm in arms:
            known = [value for value in ratios.get(arm.key, []) if math.isfinite(value)]
            # A step up at every task; lines that coincide are set a hair apart.
            lift = 0.004 * arm.look.place
            x, y = (
                [1.0, *known, end],
                [share / len(parts) + lift for share in (0, *range(1, len(known) + 1), len(known))],
            )
            axes.plot(x, y, drawstyle="steps-post", linewidth=1.8, **_style(arm))
            bands.append((arm, Band([*x], [*y], [], [])))
            told.append(f"{arm.key} reached the target on {len(known)} of {len(parts)} tasks")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(1, end)
        axes.set_ylim(-0.02, 1.07)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axes.set_xlabel("epochs to the target, as a multiple of the fastest's")
        axes.set_ylabel("share of the tasks")
        _label_ends(axes, bands)
        return svg.render(figure, name, "Performance profile over the tasks", "; ".join(told) + ".")
