"""The report's figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from steprule.lab import notes, svg
from steprule.lab.notes import plural, rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steprule.lab.methods import Method
    from steprule.lab.protocol import Study
    from steprule.lab.runs import RunResult
    from steprule.lab.statistics import Interval

DASHES: dict[str, Any] = {"gd": (0, (1, 1.2)), "momentum": (0, (5, 1.6)), "nesterov": (0, (6, 1.4, 1.2, 1.4))}
"""A second mark beside the colour, for the lines that run closest together."""


@dataclass(frozen=True)
class View:
    """What a loss chart shows: which quantity, against what."""

    x: str
    y: str
    x_label: str
    y_label: str
    log: bool = True
    percent: bool = False


VIEWS = (
    View("iteration", "training_loss", "iterations", "training loss"),
    View("epoch", "training_loss", "epochs", "training loss"),
    View("iteration", "validation_loss", "iterations", "validation loss"),
)


def views(study: Study) -> list[View]:
    """Return what the loss charts show, the task's score last; a score that is the loss is shown already."""
    task = study.plan.task.build()
    score = f"validation {task.metric.name}"
    last = View("iteration", "score", "iterations", score, log=False, percent=task.metric.percent)
    return [*VIEWS, *([last] if task.measure else [])]


@dataclass(frozen=True)
class Band:
    """The median over seeds at each evaluation, and the least and greatest."""

    x: list[float]
    middle: list[float]
    low: list[float]
    high: list[float]


def band(runs: Sequence[RunResult], view: View) -> Band:
    """Reduce several runs of one method to a band; where half of them are not finite it has a gap."""
    longest = max((run.curve for run in runs), key=len, default=())
    result = Band([float(getattr(point, view.x)) for point in longest], [], [], [])
    for place in range(len(longest)):
        seen = [float(getattr(run.curve[place], view.y)) if place < len(run.curve) else math.inf for run in runs]
        finite = [value for value in seen if math.isfinite(value)]
        middle = median([value if math.isfinite(value) else math.inf for value in seen])
        result.middle.append(middle if math.isfinite(middle) else math.nan)
        result.low.append(min(finite, default=math.nan))
        result.high.append(max(finite, default=math.nan))
    return result


def losses(study: Study, view: View, name: str) -> str:
    """Draw every method's best runs in one chart, each line labelled at its end."""
    bands = {method: band(study.report_runs(method), view) for method in study.plan.methods}
    bands = {method: drawn for method, drawn in bands.items() if len(drawn.x) > 1}
    with mpl.rc_context(svg.STYLE):
        figure, axes = _axes(8.6, 4.0, right=0.86)
        for place, (method, drawn) in enumerate(bands.items()):
            _line(axes, method, drawn, place)
        _scales(axes, view)
        axes.margins(x=0)
        _label_ends(axes, bands)
        seeds = plural(len(study.plan.report_seeds), "seed")
        title = f"{view.y_label.capitalize()} against {view.x_label}"
        return svg.render(figure, name, title, f"Median and range over {seeds}: {_ends(bands, view)}.")


def _axes(width: float, height: float, right: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height))
    axes: Any = figure.subplots()
    figure.subplots_adjust(left=0.1, right=right, top=0.97, bottom=0.14)
    return figure, axes


def _line(axes: Any, method: Method, drawn: Band, place: int, width: float = 2.2) -> None:
    colour, mark = svg.METHOD_COLOURS[method.name], svg.series(method.name, place)
    axes.fill_between(drawn.x, drawn.low, drawn.high, color=colour, alpha=0.13, linewidth=0, gid=mark)
    style = DASHES.get(method.name, "-")
    axes.plot(drawn.x, drawn.middle, color=colour, linewidth=width, linestyle=style, gid=mark)


def _scales(axes: Any, view: View) -> None:
    axes.set_xlabel(view.x_label)
    axes.set_ylabel(view.y_label)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value % 1 == 0 else f"{value:g}"))
    if view.log:
        _logarithmic_losses(axes)
    else:
        if not view.percent:
            return
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        ends = [line.get_ydata()[-1] for line in axes.get_lines() if len(line.get_ydata())]
        worst = min(filter(math.isfinite, ends), default=0.0)
        axes.set_ylim(max(0.0, math.floor(10 * worst) / 10 - 0.2), 1.005)


def _logarithmic_losses(axes: Any) -> None:
    """Set the losses on a logarithmic scale, also where no run gave one."""
    values = [value for line in axes.get_lines() for value in line.get_ydata()]
    if not any(math.isfinite(value) and value > 0 for value in values):
        axes.set_ylim(0.1, 10)
    _logarithmic(axes.yaxis, axes.set_yscale)


def _logarithmic(axis: Any, set_scale: Any) -> None:
    set_scale("log")
    axis.set_major_locator(LogLocator(numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Return the positions, pushed apart in pairs until neighbours are `gap` apart, and none above 1."""
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    placed = [wanted[place] for place in order]
    for _ in range(100):
        for lower in range(len(placed) - 1):
            push = max(0.0, gap - (placed[lower + 1] - placed[lower])) / 2
            placed[lower] -= push
            placed[lower + 1] += push
        placed[-1:] = [min(height, 1.0) for height in placed[-1:]]
    return [placed[order.index(place)] for place in range(len(wanted))]


def _label_ends(axes: Any, bands: dict[Method, Band]) -> None:
    """Write each method's name where its line ends: in the margin, or inside where the line stops short."""
    end = max((drawn.x[-1] for drawn in bands.values()), default=1.0)
    margin: list[tuple[int, Method, float]] = []
    to_axes = axes.transData + axes.transAxes.inverted()
    for place, (method, drawn) in enumerate(bands.items()):
        x, y = _last(drawn)
        if not math.isfinite(y):
            continue
        if x < 0.8 * end:
            _text(axes, method, place, (x, y), axes.transData, away=(26, 22))
        else:
            margin.append((place, method, float(to_axes.transform((x, y))[1])))
    heights = spread([height for _, _, height in margin], 0.062)
    for (place, method, height), label in zip(margin, heights, strict=True):
        colour, mark = svg.METHOD_COLOURS[method.name], svg.series(method.name, place)
        link = axes.plot([1, 1.015], [height, label], transform=axes.transAxes, color=colour, linewidth=0.9, gid=mark)
        link[0].set_clip_on(False)
        _text(axes, method, place, (1.02, label), axes.transAxes)


def _last(drawn: Band) -> tuple[float, float]:
    """Return where a line ends."""
    pairs = [pair for pair in zip(drawn.x, drawn.middle, strict=True) if math.isfinite(pair[1])]
    return pairs[-1] if pairs else (0.0, math.nan)


def _text(
    axes: Any,
    method: Method,
    place: int,
    at: tuple[float, float],
    transform: Any,
    away: tuple[int, int] = (0, 0),
) -> None:
    colour, mark = svg.METHOD_COLOURS[method.name], svg.series(method.name, place)
    axes.annotate(
        method.name,
        at,
        xycoords=transform,
        xytext=away,
        textcoords="offset points",
        color=colour,
        fontweight="bold",
        va="center",
        annotation_clip=False,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.9, "gid": mark} if any(away) else None,
        gid=mark,
    )


def _ends(bands: dict[Method, Band], view: View) -> str:
    """Word where each line ends, for whoever cannot see it."""
    told = (f"{method.name} ends at {_last(drawn)[1]:.3g}" for method, drawn in bands.items())
    return ", ".join(told) + f" {view.y_label}"


def sensitivity(study: Study, name: str) -> str:
    """Draw validation loss against learning rate, and above it, a row a method, where it diverged."""
    methods = study.plan.methods
    with mpl.rc_context(svg.STYLE):
        figure = Figure(figsize=(8.6, 3.5 + 0.26 * len(methods)))
        rows: Any
        axes: Any
        rows, axes = figure.subplots(2, sharex=True, height_ratios=[0.26 * len(methods), 3.1])
        figure.subplots_adjust(left=0.14, right=0.985, top=0.94, bottom=0.11, hspace=0.06)
        for place, method in enumerate(methods):
            _rate_line(axes, study, method, place)
            _rate_row(rows, study, method, place)
        _rate_scales(rows, axes, study)
        told = (_told(study, method) for method in methods)
        return svg.render(figure, name, "Validation loss against learning rate", "; ".join(told) + ".")


def _rate_line(axes: Any, study: Study, method: Method, place: int, colour: str = "", width: float = 2.0) -> None:
    """Draw the runs that finished, with a ring at the kept learning rate."""
    colour = colour or svg.METHOD_COLOURS[method.name]
    mark = svg.series(method.name, place)
    pairs = study.sensitivity(method)
    # A gap where a run diverged: a line drawn across it would promise what was never seen.
    x, y = [lr for lr, _ in pairs], [loss if math.isfinite(loss) else math.nan for _, loss in pairs]
    style = DASHES.get(method.name, "-")
    axes.plot(x, y, color=colour, linewidth=width, linestyle=style, gid=mark)
    axes.plot(x, y, color=colour, linestyle="none", marker="o", markersize=2.2 * width, gid=mark)
    choice = study.choice(method)
    if choice.lr is not None and width > 1.5:
        ring = {"markersize": 13, "markerfacecolor": "none", "markeredgewidth": 1.8, "linestyle": "none"}
        axes.plot([choice.lr], [choice.validation_loss], color=colour, marker="o", gid=mark, **ring)


def _rate_row(rows: Any, study: Study, method: Method, place: int) -> None:
    """Mark on the method's own row each learning rate at which a run diverged or failed."""
    colour, mark = svg.METHOD_COLOURS[method.name], svg.series(method.name, place)
    height = -place
    for status, marker in (("diverged", "x"), ("failed", "s")):
        at = sorted({run.spec.lr for run in study.tuning_runs(method) if run.status == status})
        shape = {"marker": marker, "markersize": 8, "markeredgewidth": 2.2, "fillstyle": "none"}
        rows.plot(at, [height] * len(at), color=colour, linestyle="none", gid=mark, **shape)
    _row_name(rows, method, place)


def _row_name(rows: Any, method: Method, place: int) -> None:
    """Write a method's name before its row."""
    rows.annotate(
        method.name,
        (0, -place),
        xycoords=rows.get_yaxis_transform(),
        xytext=(-8, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        color=svg.METHOD_COLOURS[method.name],
        fontweight="bold",
        gid=svg.series(method.name, place),
    )


def _rate_scales(rows: Any, axes: Any, study: Study) -> None:
    rows.set_ylim(-len(study.plan.methods) + 0.4, 0.6)
    rows.set_yticks([])
    rows.tick_params(axis="x", length=0, labelbottom=False, which="both")
    rows.spines[["left", "bottom"]].set_visible(False)
    failed = any(run.status == "failed" for run in study.runs)
    rows.set_title("✕ diverged" + ("   □ failed" if failed else ""), loc="left", fontsize=11, color=svg.MUTED)
    _logarithmic_losses(axes)
    _logarithmic(axes.xaxis, axes.set_xscale)
    axes.set_xlabel("learning rate η")
    axes.set_ylabel("validation loss")


def _told(study: Study, method: Method) -> str:
    """Word one method's sensitivity, for whoever cannot see it."""
    lost = [rate(lr) for lr, value in study.sensitivity(method) if not math.isfinite(value)]
    told = f"{method.name} is best at {rate(study.choice(method).lr)}"
    return told + (f", diverged or failed at {', '.join(lost)}" if lost else "")


def scores(study: Study, intervals: dict[Method, Interval | None], name: str) -> str:
    """Draw each seed's test score as a dot, over the interval and median of its method."""
    methods, metric = study.plan.methods, study.plan.task.build().metric
    with mpl.rc_context(svg.STYLE):
        figure = Figure(figsize=(8.6, 0.9 + 0.36 * len(methods)))
        axes: Any = figure.subplots()
        figure.subplots_adjust(left=0.14, right=0.975, top=0.99, bottom=0.7 / (0.9 + 0.36 * len(methods)))
        for place, method in enumerate(methods):
            colour, mark = svg.METHOD_COLOURS[method.name], svg.series(method.name, place)
            _row_name(axes, method, place)
            found = [run.test_score for run in study.report_runs(method) if run.test_score is not None]
            axes.plot(found, [-place] * len(found), "o", color=colour, alpha=0.75, markersize=7, gid=mark)
            score = intervals[method]
            if score is not None:
                axes.plot([score.low, score.high], [-place] * 2, color=colour, linewidth=9, alpha=0.25, gid=mark)
                axes.plot([score.median], [-place], "|", color=colour, markersize=20, markeredgewidth=3, gid=mark)
        axes.set_ylim(-len(methods) + 0.4, 0.6)
        axes.set_yticks([])
        axes.spines[["left"]].set_visible(False)
        if metric.percent:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axes.set_xlabel(f"test {metric.name}")
        told = (f"{method.name} {notes.score(score, metric)}" for method, score in intervals.items())
        return svg.render(figure, name, f"Test {metric.name} of every seed", "; ".join(told) + ".")


def own_curve(study: Study, method: Method, name: str) -> str:
    """Draw one method's runs, seed by seed, before the others in grey."""
    # A full-batch method makes so few iterations that against them its curve would be a dot.
    view = VIEWS[1 if method.full_batch else 0]
    with mpl.rc_context(svg.SMALL):
        figure, axes = _small()
        for other in study.plan.methods:
            drawn = band(study.report_runs(other), view)
            if other != method:
                axes.plot(drawn.x, drawn.middle, color=svg.GRID, linewidth=1.4)
        for run in study.report_runs(method):
            single = band([run], view)
            axes.plot(single.x, single.middle, color=svg.METHOD_COLOURS[method.name], linewidth=0.8, alpha=0.55)
        drawn = band(study.report_runs(method), view)
        axes.plot(drawn.x, drawn.middle, color=svg.METHOD_COLOURS[method.name], linewidth=2.4)
        _scales(axes, view)
        axes.margins(x=0)
        title = f"Training loss of {method.name} against {view.x_label}"
        return svg.render(figure, name, title, f"Every seed and the median; {_ends({method: drawn}, view)}.")


def own_sensitivity(study: Study, method: Method, name: str) -> str:
    """Draw one method's learning rates before the others in grey."""
    with mpl.rc_context(svg.SMALL):
        figure, axes = _small()
        for place, other in enumerate(study.plan.methods):
            if other != method:
                _rate_line(axes, study, other, place, colour=svg.GRID, width=1.2)
        _rate_line(axes, study, method, 0)
        lost = [lr for lr, value in study.sensitivity(method) if not math.isfinite(value)]
        top = {"transform": axes.get_xaxis_transform(), "clip_on": False, "linestyle": "none"}
        colour = svg.METHOD_COLOURS[method.name]
        axes.plot(lost, [1.0] * len(lost), color=colour, marker="x", markersize=8, markeredgewidth=2.2, **top)
        _logarithmic_losses(axes)
        _logarithmic(axes.xaxis, axes.set_xscale)
        axes.set_xlabel("learning rate η")
        axes.set_ylabel("validation loss")
        title = f"Validation loss of {method.name} against learning rate"
        return svg.render(figure, name, title, _told(study, method) + ".")


def _small() -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.6, 2.9))
    axes: Any = figure.subplots()
    figure.subplots_adjust(left=0.17, right=0.97, top=0.94, bottom=0.19)
    return figure, axes
