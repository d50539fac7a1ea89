"""The wording of numbers and notes, the same in the terminal's table and on the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from steprule.lab.report.derive import Cell, Chapter, sensitivity

NONE = "–"
"""Stands where there is no number."""

NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")


def loss(value: float | None) -> str:
    """Word a loss, to three digits."""
    return NONE if value is None else f"{value:.3g}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def rate(value: float | None) -> str:
    """Word a learning rate."""
    return NONE if value is None else f"{value:g}"


def score(value: dict[str, float] | None, metric: dict[str, Any]) -> str:
    """Word a score with its interval, when it has one."""
    if value is None:
        return NONE
    middle, low, high = (single(value[part], metric) for part in ("middle", "low", "high"))
    return middle + suffix(metric) if low == high else f"{middle}{suffix(metric)} [{low}, {high}]"


def losses(value: dict[str, float] | None) -> str:
    """Word a loss with its interval."""
    return NONE if value is None else f"{loss(value['middle'])} [{loss(value['low'])}, {loss(value['high'])}]"


def single(value: float, metric: dict[str, Any]) -> str:
    """Word a score without its unit."""
    return f"{100 * value:.1f}" if metric["percent"] else loss(value)


def suffix(metric: dict[str, Any]) -> str:
    """Return a score's unit, with the space before it."""
    return " %" if metric["percent"] else f" {metric['unit']}" if metric["unit"] else ""


def target(task: dict[str, Any]) -> str:
    """Word the target."""
    return NONE if task["target"] is None else f"{_goal(task)}{suffix(task['metric'])}"


def _goal(task: dict[str, Any]) -> str:
    value = task["target"] * (100 if task["metric"]["percent"] else 1)
    return f"{value:g}"


def microseconds(value: float | None) -> str:
    """Word the time of a step."""
    return NONE if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def step_time(value: dict[str, Any] | None) -> str:
    """Word the time of a step, with its quartiles and their number if they are known."""
    if value is None or "steps" not in value:
        return NONE if value is None else microseconds(value["middle"])
    between = f"{microseconds(value['low'])} to {microseconds(value['high'])}"
    return f"{microseconds(value['middle'])} [{between}], {value['steps']:,} steps"


def to_target(summary: dict[str, Any] | None, unit: str = "iterations") -> str:
    """Word the cost of reaching the target, or say that the median run missed it."""
    if summary is None or not summary["runs"]:
        return NONE
    if summary["to_target"] is None:
        return "never"
    value = summary["to_target"][unit]
    return NONE if value is None else f"{value:,.0f}" if unit in {"iterations", "examples"} else f"{value:.3g}"


def reached(summary: dict[str, Any] | None) -> str:
    """Word how many runs met the target."""
    return NONE if summary is None else f"{summary['reached_target']}/{summary['runs']}"


def count_lost(cell: Cell) -> tuple[int, int, int]:
    """Return how many runs of a cell diverged, how many failed, and how many there are."""
    statuses = [run["status"] for run in cell.result["runs"]]
    return statuses.count("diverged"), statuses.count("failed"), len(statuses)


def lost(cell: Cell) -> str:
    """Word the runs that did not end well as a share of all."""
    diverged, failed, runs = count_lost(cell)
    return f"{diverged + failed}/{runs}"


def exact(value: float | None) -> str:
    """Word a number as short as it is exact."""
    return NONE if value is None else f"{value:g}"


def plural(count: int, noun: str) -> str:
    """Word a count with its noun."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence does."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def heading(document: dict[str, Any]) -> str:
    """Return the title: the methods and tasks."""
    optimizers, tasks = document["optimizers"], document["tasks"]
    many = _many(len(optimizers), "optimiser") if len(optimizers) != 1 else optimizers[0]["title"]
    return f"{many} on {tasks[0]['title'] if len(tasks) == 1 else _many(len(tasks), 'task').lower()}"


def _many(count: int, noun: str) -> str:
    number = NUMBERS[count] if count < len(NUMBERS) else f"{count:,}"
    return f"{number} {noun}{'' if count == 1 else 's'}"


def footnotes(document: dict[str, Any], chapter: Chapter) -> list[str]:
    """Return the notes to a task's table."""
    first = [*_lengths(chapter), *_evaluated(chapter)]
    notes = [
        *first,
        *_choices(chapter),
        *_variants(document, chapter),
        *_failures(chapter),
        *_timing(document, chapter),
    ]
    return (
        [*notes, "The comparison was interrupted: this is what was done by then."] if document["interrupted"] else notes
    )


def _lengths(chapter: Chapter) -> list[str]:
    """Describe a run, and name optimisers that made different numbers of iterations."""
    budget = chapter.task["budget"]
    last = ", the last one on the full batch" if budget["final_full_batch"] else ""
    groups: dict[tuple[int, float], list[str]] = {}
    for cell in chapter.cells:
        longest = max(cell.result["runs"], key=lambda run: run["iterations"], default=None)
        if longest is not None and longest["iterations"]:
            groups.setdefault((longest["iterations"], longest["epochs"]), []).append(cell.arm.key)
    if not groups:
        return []
    usual = max(groups, key=lambda length: len(groups[length]))
    iterations, epochs = usual
    told = (
        f"A run is {plural(iterations, 'iteration')} = {epochs:.3g} epochs in batches of {budget['batch_size']}{last}"
    )
    notes = [f"{told}."]
    for (iterations, epochs), keys in groups.items():
        if (iterations, epochs) != usual:
            took = f"{listed(keys)} made at most {plural(iterations, 'iteration')} = {epochs:.3g} epochs"
            notes.append(f"{took}; compare by epochs.")
    return notes


def evaluations(run: dict[str, Any]) -> int:
    """Return how many gradients a run evaluated; an older record counts iterations alone."""
    return run.get("gradient_evaluations", run["iterations"])


def evaluated_apart(chapter: Chapter) -> bool:
    """Whether some method evaluated other than one gradient an iteration."""
    return bool(_evaluated(chapter))


def _evaluated(chapter: Chapter) -> list[str]:
    """Say which methods evaluate several gradients an iteration: their iterations cost more than others'."""
    notes: list[str] = []
    for cell in chapter.cells:
        runs = [run for run in cell.result["runs"] if run["status"] == "finished"] or cell.result["runs"]
        made, needed = sum(run["iterations"] for run in runs), sum(map(evaluations, runs))
        if made != needed and made:
            told = f"{cell.arm.key} evaluated {needed / made:.3g} gradients an iteration"
            notes.append(f"{told}; iterations are equal, and its gradients are counted apart.")
    return notes


def _choices(chapter: Chapter) -> list[str]:
    """Say where a learning rate is doubtful."""
    edges = [cell.arm.key for cell in chapter.cells if cell.result["lr_at_edge"]]
    none = [cell.arm.key for cell in chapter.cells if cell.result["lr"] is None and sensitivity(cell)]
    notes: list[str] = []
    if edges:
        notes.append(
            f"The best learning rate of {listed(edges)} lies at an end of the grid; a wider one may hold a better."
        )
    if none:
        notes.append(f"No learning rate of the grid let {listed(none)} finish.")
    return notes


def variants_of(document: dict[str, Any], chapter: Chapter) -> list[dict[str, Any]]:
    """Return a task's variants beside their optimisers; a record of an earlier version has none."""
    return [one for one in document.get("variants", []) if one["task"] == chapter.task["name"]]


def _variants(document: dict[str, Any], chapter: Chapter) -> list[str]:
    """Say how many variants learn as their optimisers do, and name the others."""
    found = variants_of(document, chapter)
    if not found:
        return []
    apart = [f"{one['optimizer']} ({losses(one['loss'])}, {one['of']} {losses(one['of_loss'])})"
             for one in found if not one["overlap"]]  # fmt: skip
    told = (
        f"Of {plural(len(found), 'variant')}, {len(found) - len(apart)} end at a training loss whose interval overlaps"
    )
    return [f"{told} that of the optimiser{'; not ' + listed(apart) if apart else ''}."]


def _failures(chapter: Chapter) -> list[str]:
    """Say which runs failed, and why."""
    failed = [run for cell in chapter.cells for run in cell.result["runs"] if run["status"] == "failed"]
    if not failed:
        return []
    told = "; ".join(sorted({first_line(run["reason"]) for run in failed})[:3])
    return [f"{plural(len(failed), 'run')} failed: {told} (runs.csv has every reason)."]


def _timing(document: dict[str, Any], chapter: Chapter) -> list[str]:
    """Describe the timing of a step: how often, how far it spreads, and which times are left out."""
    times = [found for cell in chapter.cells if (found := chapter.time_of(cell))]
    if not times:
        return []
    workers = document["hardware"].get("workers")
    beside = f" while {workers} runs went on at once" if type(workers) is int and workers > 1 else ""
    known = [one for one in times if "steps" in one and one["middle"]]
    told = f"µs a step: the median of the optimiser's step alone, its gradients in place{beside}{_often(known)}."
    if not chapter.untimed:
        return [told]
    keys, why = listed([cell.arm.key for cell in chapter.untimed]), "leaves other things in the cache"
    return [told, f"Not timed beside the others: {keys}, since a gradient of all the data {why}."]


def _often(known: Sequence[dict[str, Any]]) -> str:
    """Say how many steps were timed, and how far their times spread."""
    if not known:
        return ""
    least, most = (pick(one["steps"] for one in known) for pick in (min, max))
    spread = max((one["high"] - one["low"]) / one["middle"] for one in known)
    count = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"; of {count} steps an optimiser, the middle half spans at most {100 * spread:.0f} %"


def first_line(text: str) -> str:
    """Return the beginning of a reason."""
    return next(iter(text.splitlines()), "")[:160]


def single_run(document: dict[str, Any]) -> str | None:
    """Say how a lone run went, or return None if there are more."""
    runs: Iterable[Any] = [(task, run) for row in document["results"] for task in [row["task"]] for run in row["runs"]]
    found = list(runs)
    if len(found) != 1 or not found[0][1]["curve"]["iteration"]:
        return None
    name, run = found[0]
    metric = next(task["metric"] for task in document["tasks"] if task["name"] == name)
    curve, last = run["curve"], run["curve"]["score"][-1]
    ended = NONE if last is None else single(last, metric) + suffix(metric)
    first, final = (loss(curve["training_loss"][place]) for place in (0, -1))
    needed = "" if evaluations(run) == run["iterations"] else f", {plural(evaluations(run), 'gradient evaluation')}"
    return (
        f"Seed {run['seed']}: training loss from {first} to {final}, validation {metric['name']} {ended} "
        f"after {run['iterations']:,} iterations ({run['epochs']:.3g} epochs{needed})."
    )
