"""The page's tables: the comparisons a reader looks up, and the numbers behind every chart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from steprule.lab.report import words
from steprule.lab.report.charts import X_LABELS
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

ROWS = 12
"""Points of a curve that its table shows."""


@dataclass(frozen=True)
class Table:
    """A table with a name; the first cell of a row names it. `bars` are lengths from 0 to 1 beside some cells."""

    caption: str
    head: list[str]
    rows: list[list[str]]
    places: list[int | None] = field(default_factory=list[int | None])
    """The optimiser a row belongs to."""
    leads: int | None = None
    bars: dict[tuple[int, int], float] = field(default_factory=dict[tuple[int, int], float])


def numbers(document: dict[str, Any], chapter: Chapter) -> Table:
    """Return the table of results of one task."""
    task = chapter.task
    score = f"test {task['metric']['name']}" + (", median [95 %]" if chapter.several else "")
    head = ["optimiser", "learning rate", "validation loss", score]
    head += [f"iterations to {words.target(task)}", "seconds to it", "reached it"] if task["target"] is not None else []
    apart = ["gradient evaluations"] if words.evaluated_apart(chapter) else []
    head += ["iterations", *apart, "epochs", "diverged", "failed", "runs"]
    best = document["winner"].get(task["name"])
    leads = next((place for place, cell in enumerate(chapter.cells) if cell.arm.key == best), None)
    return _per_arm(chapter, task["title"], head, lambda cell: _numbers(chapter, cell), leads)


def _per_arm(
    chapter: Chapter, caption: str, head: list[str], row: Callable[[Cell], list[str]], leads: int | None = None
) -> Table:
    rows = [[cell.arm.key, *row(cell)] for cell in chapter.cells]
    return Table(caption, head, rows, [cell.arm.look.place for cell in chapter.cells], leads)


def _numbers(chapter: Chapter, cell: Cell) -> list[str]:
    tuned, task = cell.result["tuned"], chapter.task
    longest = max(cell.result["runs"], key=lambda run: run["iterations"], default=None)
    evaluated = words.NONE if longest is None else f"{words.evaluations(longest):,}"
    diverged, failed, runs = words.count_lost(cell)
    goal = [words.to_target(tuned), words.to_target(tuned, "seconds"), words.reached(tuned)]
    return [
        words.rate(cell.result["lr"]) + (" (edge)" if cell.result["lr_at_edge"] else ""),
        words.loss(tuned and tuned["validation_loss"]),
        words.score(tuned and tuned["test_score"], task["metric"]),
        *(goal if task["target"] is not None else []),
        words.NONE if longest is None else f"{longest['iterations']:,}",
        *([evaluated] if words.evaluated_apart(chapter) else []),
        words.NONE if longest is None else f"{longest['epochs']:.3g}",
        f"{diverged:,}",
        f"{failed:,}",
        f"{runs:,}",
    ]


def defaults(chapter: Chapter) -> Table | None:
    """Return the gain of tuning: each optimiser at its default learning rate, and at the kept one."""
    if not any(cell.result["default"] for cell in chapter.cells):
        return None
    metric = chapter.task["metric"]

    def row(cell: Cell) -> list[str]:
        default, tuned = cell.result["default"], cell.result["tuned"]
        return [
            words.rate(cell.result["default_lr"]),
            words.score(default and default["test_score"], metric),
            words.reached(default),
            words.rate(cell.result["lr"]),
            words.score(tuned and tuned["test_score"], metric),
            words.reached(tuned),
        ]

    test = f"test {metric['name']}"
    head = [
        "optimiser",
        "default rate",
        f"{test} there",
        "reached target",
        "tuned rate",
        f"{test} there",
        "reached target",
    ]
    return _per_arm(chapter, "Defaults against tuned", head, row)


def costs(chapter: Chapter) -> Table:
    """Return the costs of the optimiser itself, apart from how well it learns. The longest bar is the most."""

    def row(cell: Cell) -> list[str]:
        arm = cell.arm.row
        passes = f"{len(arm['passes'])}" if arm["passes"] else words.NONE
        return [
            words.step_time(chapter.time_of(cell)),
            words.exact(arm["state_bytes_per_parameter"]),
            words.exact(arm["bytes_per_parameter"]),
            passes,
            arm["backend"] or words.NONE,
        ]

    head = [
        "optimiser",
        "µs a step, median [quartiles]",
        "state bytes a parameter",
        "bytes moved a parameter",
        "passes over memory",
        "backend",
    ]
    table = _per_arm(chapter, "Time and memory of the optimiser alone", head, row)
    measures: tuple[Callable[[Cell], float | None], ...] = (
        lambda cell: (chapter.time_of(cell) or {}).get("middle"),
        lambda cell: cell.arm.row["state_bytes_per_parameter"],
    )
    for column, value in enumerate(measures, start=1):
        values = [value(cell) or 0.0 for cell in chapter.cells]
        most = max(values, default=0.0)
        table.bars.update({(place, column): one / most for place, one in enumerate(values) if most > 0})
    return table


def matrix(document: dict[str, Any], chapter: Chapter) -> Table | None:
    """Return comparisons of row against column, paired by seed, or None if there was nothing to compare."""
    name, metric = chapter.task["name"], chapter.task["metric"]
    pairs = [pair for pair in document["comparisons"] if pair["task"] == name and pair["phase"] in {"tuned", "report"}]
    if not pairs:
        return None
    known: dict[tuple[str, str], str] = {}
    for pair in pairs:
        known[pair["a"], pair["b"]] = _difference(pair, metric, 1)
        known[pair["b"], pair["a"]] = _difference(pair, metric, -1)
    keys = [cell.arm.key for cell in chapter.cells]

    def row(cell: Cell) -> list[str]:
        return ["" if key == cell.arm.key else known.get((cell.arm.key, key), words.NONE) for key in keys]

    caption = f"Row minus column: test {metric['name']}, paired by seed"
    return _per_arm(chapter, caption, ["optimiser", *keys], row)


def variants(document: dict[str, Any], chapter: Chapter) -> Table | None:
    """Return the training loss of every variant beside that of its optimiser, or None without variants."""
    found = words.variants_of(document, chapter)
    if not found:
        return None
    places = {cell.arm.key: cell.arm.look.place for cell in chapter.cells}
    rows = [
        [
            one["optimizer"],
            *(words.losses(one[part]) for part in ("loss", "of_loss", "difference")),
            "yes" if one["overlap"] else "no",
        ]
        for one in found
    ]
    head = ["optimiser", "training loss, median [95 %]", "without it", "difference by seed", "overlap"]
    return Table("Variants beside their optimisers", head, rows, [places.get(one["optimizer"]) for one in found])


_OPPOSITE = {"better": "worse", "worse": "better", "indistinguishable": "indistinguishable"}
_SIGNS = {"better": "▲", "worse": "▼", "indistinguishable": "≈"}


def _difference(pair: dict[str, Any], metric: dict[str, Any], sign: int) -> str:
    verdict = pair["verdict"] if sign == 1 else _OPPOSITE[pair["verdict"]]
    if pair["difference"] is None:
        return f"{_SIGNS[verdict]} {verdict}"
    value = sign * pair["difference"]["middle"] * (100 if metric["percent"] else 1)
    return f"{_SIGNS[verdict]} {value:+.2g}" if value else f"{_SIGNS[verdict]} 0"


def curve(chapter: Chapter, quantity: Quantity, x: str, phase: str) -> Table:
    """Return a dozen points of every optimiser's median curve."""
    bands = [(cell.arm, band(cell.drawn(phase), quantity, x, chapter.task)) for cell in chapter.cells]
    bands = [(arm, drawn) for arm, drawn in bands if drawn.last]
    ends = [drawn.last[0] for _, drawn in bands if drawn.last]
    end = max(ends, default=0.0)
    steps = [end * row / (ROWS - 1) for row in range(ROWS)]
    rows = [[_plain_x(step), *(_at(drawn, step, end, quantity) for _, drawn in bands)] for step in steps]
    caption = quantity.label.capitalize() + (", median over the seeds" if chapter.several else "")
    return Table(caption, [X_LABELS[x], *(arm.key for arm, _ in bands)], rows)


def _plain_x(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _at(drawn: Band, step: float, end: float, quantity: Quantity) -> str:
    """Word the last value up to there, or a dash past the end of a line."""
    seen = [(x, y) for x, y in zip(drawn.x, drawn.middle, strict=True) if x is not None and x <= step + 1e-9 * end]
    if not seen or step > (drawn.x[-1] or 0.0) + end / (ROWS - 1):
        return words.NONE
    value = seen[-1][1]
    return words.NONE if value is None else f"{100 * value:.1f} %" if quantity.percent else words.loss(value)


def rates(chapter: Chapter) -> Table:
    """Return the validation loss at every learning rate tried."""
    seen = [(cell.arm, {rate.lr: rate for rate in sensitivity(cell)}) for cell in chapter.cells]
    tried = sorted({lr for _, rates in seen for lr in rates})

    def said(rate: Any) -> str:
        return words.NONE if rate is None else ", ".join(sorted(rate.lost)) or words.loss(rate.loss)

    rows = [[words.rate(lr), *(said(rates.get(lr)) for _, rates in seen)] for lr in tried]
    return Table("Validation loss by learning rate", ["learning rate", *(arm.key for arm, _ in seen)], rows)


def trials(chapter: Chapter) -> Table:
    """Return the best validation loss after k trials."""
    seen = [(cell.arm, after_trials(cell)) for cell in chapter.cells]
    most = max((len(rows) for _, rows in seen), default=0)
    rows = [
        [f"{place + 1}", *(words.loss(rows[place][1]) if place < len(rows) else words.NONE for _, rows in seen)]
        for place in range(most)
    ]
    return Table("Best validation loss, median over every order", ["trials", *(arm.key for arm, _ in seen)], rows)


def scores(chapter: Chapter) -> Table:
    """Return the test score of every fresh seed."""
    metric = chapter.task["metric"]
    return _seeds(
        chapter, f"Test {metric['name']}{words.suffix(metric)} by seed", lambda run: run["test_score"], metric
    )


def targets(chapter: Chapter) -> Table:
    """Return the epochs that every fresh seed took to the target."""
    unitless = {"percent": False, "unit": ""}
    return _seeds(chapter, "Epochs to the target by seed", lambda run: met(run, chapter.task), unitless, "missed")


def _seeds(
    chapter: Chapter, caption: str, value: Callable[[Any], float | None], metric: dict[str, Any], none: str = words.NONE
) -> Table:
    runs = {cell.arm.key: {run["seed"]: value(run) for run in cell.runs("report")} for cell in chapter.cells}
    seeds = sorted({seed for found in runs.values() for seed in found})

    def said(found: dict[int, float | None], seed: int) -> str:
        if seed not in found:
            return words.NONE
        one = found[seed]
        return none if one is None else words.single(one, metric)

    return _per_arm(
        chapter, caption, ["seed", *map(str, seeds)], lambda cell: [said(runs[cell.arm.key], s) for s in seeds]
    )


def profiles(parts: Sequence[Chapter], arms: Sequence[ReportArm]) -> Table:
    """Return each optimiser's ratios to the fastest, least first."""
    ratios = profile(parts)
    width = max(map(len, ratios.values()), default=0)

    def row(arm: ReportArm) -> list[str]:
        found = [f"{value:.3g}×" if value != float("inf") else "missed" for value in ratios.get(arm.key, [])]
        return [arm.key, *found, *[words.NONE] * (width - len(found))]

    head = ["optimiser", *(f"task {place + 1}" for place in range(width))]
    return Table(
        "Multiples of the fastest's epochs, in order", head, [row(arm) for arm in arms], [a.look.place for a in arms]
    )


def overview(document: dict[str, Any], parts: Sequence[Chapter], arms: Sequence[ReportArm]) -> Table:
    """Return every optimiser's median test score on every task, and the leader there."""
    rows: list[list[str]] = []
    for chapter in parts:
        metric = chapter.task["metric"]
        cells = {cell.arm.key: cell.result["tuned"] for cell in chapter.cells}
        middles = {key: tuned and tuned["test_score"] and tuned["test_score"]["middle"] for key, tuned in cells.items()}
        shown = [middles.get(arm.key) for arm in arms]
        said = [words.NONE if value is None else words.single(value, metric) for value in shown]
        name = f"{metric['name']}{words.suffix(metric)} {'↑' if metric['higher'] else '↓'}"
        rows.append([chapter.task["name"], document["winner"].get(chapter.task["name"]) or "none named", name, *said])
    return Table("Median test score, task by task", ["task", "winner", "score", *(arm.key for arm in arms)], rows)


def lost(document: dict[str, Any], statuses: Sequence[str], most: int = 300) -> Table | None:
    """Return the runs that ended in one of these ways, with their reasons."""
    found = [(row, run) for row in document["results"] for run in row["runs"] if run["status"] in statuses]
    if not found:
        return None
    rows = [
        [
            row["optimizer"],
            row["task"],
            run["phase"],
            words.rate(run["lr"]),
            f"{run['seed']}",
            words.first_line(run["reason"]),
        ]
        for row, run in found[:most]
    ]
    more = f"; the first {most} are shown, runs.csv has all" if len(found) > most else ""
    caption = f"{words.plural(len(found), 'run')} {' or '.join(statuses)}{more}"
    return Table(caption, ["optimiser", "task", "phase", "learning rate", "seed", "reason"], rows)
