"""Reduce comparisons of AdamW and Muon on one grid of learning rates to a record: which rate is best for each.

    python benchmarks/muon_rate.py results/muon-rate/digits results/muon-rate/gpt

`make muon-rate` does that after the comparisons that muon_rate.toml describes. Also measures how long steps of both are
along a run. Writes records/muon-rate.json and its picture, of which report.py makes a part of the page.
"""

from __future__ import annotations

import argparse
import json
import math
import textwrap
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

import numpy as np

HERE = Path(__file__).parent
RECORD = HERE / "records" / "muon-rate.json"
PICTURE = RECORD.with_suffix(".svg")
ARMS = ("adamw", "muon")
LOSSES = {"validation_loss": "validation", "final_training_loss": "training"}
WANTED = 1.5
DRAWS = 2000
PARTS = 5


def best_rate(rates: list[float], losses: list[list[float]]) -> float:
    """Return the rate of least loss: a parabola through the mean logarithms at the best rate and its two neighbours.

    `losses` has a list a rate, of a number a seed. At an end of the grid the rate itself is returned.
    """
    heights = [fmean(math.log(loss) for loss in row) for row in losses]
    at = min(range(len(rates)), key=heights.__getitem__)
    if at in (0, len(rates) - 1):
        return rates[at]
    left, middle, right = heights[at - 1 : at + 2]
    x = [math.log(rates[place]) for place in (at - 1, at, at + 1)]
    slope, other = (middle - left) / (x[1] - x[0]), (right - middle) / (x[2] - x[1])
    bend = (other - slope) / (x[2] - x[0])
    return math.exp((x[0] + x[1]) / 2 - slope / (2 * bend)) if bend > 0 else rates[at]


def with_spread(rates: list[float], arms: dict[str, list[list[float]]]) -> dict[str, dict[str, float]]:
    """Return each arm's best rate, and Muon's over AdamW's, with 95 % intervals: seeds drawn again, alike for both."""
    generator, seeds = np.random.default_rng(0), len(arms["muon"][0])
    drawn: dict[str, list[float]] = {name: [] for name in (*arms, "ratio")}
    for turn in range(DRAWS + 1):
        chosen = range(seeds) if turn == 0 else generator.integers(seeds, size=seeds).tolist()
        found = {
            name: best_rate(rates, [[row[seed] for seed in chosen] for row in rows]) for name, rows in arms.items()
        }
        for name, value in (*found.items(), ("ratio", found["muon"] / found["adamw"])):
            drawn[name].append(value)
    told = {}
    for name, (middle, *others) in drawn.items():
        cuts = quantiles(others, n=40)
        told[name] = {"middle": middle, "low": cuts[0], "high": cuts[-1]}
    return told


def reduced(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the record of comparisons, each a results.json."""
    kept = ("command", "started", "seconds", "versions", "hardware", "git", "complete")
    return {
        "studies": [
            {**{name: made[name] for name in kept}, "tasks": [_task(made, task) for task in made["tasks"]]}
            for made in documents
        ]
    }


def _task(made: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Return a task's losses at the rates that both optimisers have tried with every seed."""
    keys = {one["key"]: one for one in made["optimizers"]}
    rows = [row for row in made["results"] if row["task"] == task["name"]]
    settings = {keys[row["optimizer"]]["name"]: keys[row["optimizer"]]["hyperparameters"] for row in rows}
    tried = {keys[row["optimizer"]]["name"]: _runs(row) for row in rows}
    seeds = made["protocol"]["tuning_seeds"]
    shared = set.intersection(*({lr for lr, runs in own.items() if len(runs) == len(seeds)} for own in tried.values()))
    rates = sorted(shared)
    arms = {
        name: {
            "settings": settings[name],
            **{loss: [_losses(tried[name][lr], loss) for lr in rates] for loss in LOSSES},
        }
        for name in ARMS
    }
    told = {name: task[name] for name in ("name", "network", "parameters", "budget")}
    told |= {"seeds": seeds, "rates": rates, "arms": arms}
    return {**told, "best": {loss: best_of(told, loss) for loss in LOSSES}}


def _runs(row: dict[str, Any]) -> dict[float, list[dict[str, Any]]]:
    """Return an optimiser's tuning runs by rate, each in the order of seeds."""
    found: dict[float, list[dict[str, Any]]] = {}
    for run in sorted(row["runs"], key=lambda run: run["seed"]):
        if run["phase"] == "tuning":
            found.setdefault(run["lr"], []).append(run)
    return found


def _losses(runs: list[dict[str, Any]], loss: str) -> list[float | None]:
    """Return the losses at the end; a run that did not finish has none."""
    return [run[loss] if run["status"] == "finished" else None for run in runs]


def best_of(task: dict[str, Any], loss: str) -> dict[str, dict[str, float]]:
    """Return the best rates of a task by one of the losses; rates at which either arm lost a run do not count."""
    arms = task["arms"]
    rows = zip(task["rates"], *(arms[name][loss] for name in ARMS), strict=True)
    whole = [(lr, adamw, muon) for lr, adamw, muon in rows if None not in (*adamw, *muon)]
    return with_spread(
        [lr for lr, *_ in whole], {"adamw": [one[1] for one in whole], "muon": [one[2] for one in whole]}
    )


def step_lengths(task: dict[str, Any], name: str, lr: float) -> list[float]:
    """Train once; return the root mean square of steps of hidden matrices over their rate, in each fifth of the run."""
    import torch

    import steprule as sr
    from steprule.lab.schedules import warmup_cosine
    from steprule.lab.tasks import TaskSpec

    torch.set_num_threads(1)
    torch.manual_seed(0)
    built, count = TaskSpec(task["name"]).build(), task["budget"]["iterations"]
    data, model, size = built.data.train, built.model(0), task["budget"]["batch_size"]
    routes, named = sr.optim.Muon(built.model(0)).routes, dict(model.named_parameters())
    hidden = [named[path] for path, route in routes.items() if route.rule == "muon"]
    settings = {key: tuple(x) if isinstance(x, list) else x for key, x in task["arms"][name]["settings"].items()}
    trained = model if name == "muon" else model.parameters()
    optimizer = {"adamw": sr.optim.AdamW, "muon": sr.optim.Muon}[name](trained, lr=lr, **settings)
    lengths, batches = [], torch.Generator().manual_seed(0)
    for iteration in range(1, count + 1):
        rate = lr * warmup_cosine(iteration, count)
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = torch.randint(len(data), (size,), generator=batches)
        optimizer.zero_grad()
        built.loss(model(data.inputs[chosen]), data.labels[chosen]).backward()
        before = [parameter.detach() * (1 - rate * settings["weight_decay"]) for parameter in hidden]
        optimizer.step()
        moved = sum((p.detach() - b).square().sum().item() for p, b in zip(hidden, before, strict=True))
        lengths.append(math.sqrt(moved / sum(p.numel() for p in hidden)) / rate)
    return [fmean(lengths[count * part // PARTS : count * (part + 1) // PARTS]) for part in range(PARTS)]


def tasks_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tasks of all studies."""
    return [task for study in record["studies"] for task in study["tasks"]]


_ABOUT = (
    "`steprule.optim.Muon(model)` multiplies steps of matrices by 0.2 √max(rows, columns), so that their root mean "
    "square is at most 0.2 of the rate: that of AdamW's steps in language models (Liu et al., 2025). Here both try "
    "the same rates, with the same schedule and weight decay. The best one is where a parabola is least that goes "
    "through the mean logarithms of the loss at the best rate and its two neighbours, over {seeds} seeds; 95 % "
    "intervals come from drawing seeds again."
)

_LONG = (
    "The root mean square of steps of hidden matrices over their rate, in each fifth of a run at the rate of the "
    "grid that is best for AdamW by the validation loss. AdamW's depends on how far the task is learnt: where "
    "gradients vanish, its steps shrink, for its second moment remembers 1,000 steps. Muon's do not."
)


def section(record: dict[str, Any]) -> str:
    """Return the part of BENCHMARKS.md that a record makes."""
    first, tasks = record["studies"][0], tasks_of(record)
    versions = ", ".join(f"{name} {first['versions'][name]}" for name in ("steprule", "torch", "numba"))
    apart = [task["name"] for task in tasks if not within(task["best"]["validation_loss"])]
    verdict = (
        f"**▼ Not within a factor of {WANTED:g} by the validation loss: {', '.join(apart)}.**"
        if apart
        else f"By the validation loss, all are within a factor of {WANTED:g}."
    )
    lines = [
        "## AdamW's learning rate for Muon",
        "",
        f"{first['hardware']['processor']}, {versions}. {first['started'][:10]}",
        "",
        *(f"- `{study['command']}`" + ("" if study["complete"] else ", not to its end") for study in record["studies"]),
        "",
        *textwrap.wrap(_ABOUT.format(seeds=len(tasks[0]["seeds"])), 120),
        "",
        verdict,
        "",
        "| task | loss at the end | AdamW's best rate | Muon's | Muon's / AdamW's |",
        "|---|---|---:|---:|---:|",
        *(line for task in tasks for line in _rows(task)),
        "",
        "![Loss at the end against the learning rate, of both](benchmarks/records/muon-rate.svg)",
        "",
        *_reused(tasks),
        *_lengths(tasks),
    ]
    return "\n".join(lines)


def within(found: dict[str, dict[str, float]]) -> bool:
    """Whether Muon's best rate is near enough to AdamW's."""
    return 1 / WANTED <= found["ratio"]["middle"] <= WANTED


def _rows(task: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for loss, word in LOSSES.items():
        found = task["best"][loss]
        cells = [_interval(found[name]) for name in (*ARMS, "ratio")]
        cells[-1] = cells[-1] if within(found) else f"**{cells[-1]} ▼**"
        length = f"{task['budget']['iterations']} iterations in batches of {task['budget']['batch_size']}"
        lines.append(f"| {task['name'] + ', ' + length if not lines else ''} | {word} | {' | '.join(cells)} |")
    return lines


def _interval(value: dict[str, float]) -> str:
    middle, low, high = (f"{value[part]:.2g}" for part in ("middle", "low", "high"))
    return f"{middle} [{low}, {high}]"


def _median_at(task: dict[str, Any], name: str, loss: str, lr: float) -> float:
    losses = task["arms"][name][loss][task["rates"].index(lr)]
    return median(math.inf if one is None else one for one in losses)


def _kept(task: dict[str, Any], name: str, loss: str) -> float:
    """Return the rate of the grid that has the least median loss."""
    return min(task["rates"], key=lambda lr: _median_at(task, name, loss, lr))


def _reused(tasks: list[dict[str, Any]]) -> list[str]:
    """Say what it costs to give Muon the rate that is best for AdamW."""
    lines = [
        "What it costs to give Muon the rate of the grid that is best for AdamW (medians):",
        "",
        "| task | loss | AdamW at its best | Muon at the same rate | Muon at its own best |",
        "|---|---|---:|---:|---:|",
    ]
    for task in tasks:
        for loss, word in LOSSES.items():
            usual, own = _kept(task, "adamw", loss), _kept(task, "muon", loss)
            shown = (("adamw", usual), ("muon", usual), ("muon", own))
            cells = [f"{_median_at(task, name, loss, lr):.3g} (lr {lr:g})" for name, lr in shown]
            lines.append(f"| {task['name']} | {word} | {' | '.join(cells)} |")
    return [*lines, ""]


def _lengths(tasks: list[dict[str, Any]]) -> list[str]:
    """Say how long steps are."""
    lines = [
        *textwrap.wrap(_LONG, 120),
        "",
        "| task | optimiser |" + "".join(f" {place}. |" for place in range(1, PARTS + 1)),
        "|---|---|" + "---:|" * PARTS,
    ]
    for task in tasks:
        for name in ARMS:
            cells = " | ".join(f"{length:.2g}" for length in task["arms"][name]["step_lengths"])
            lines.append(f"| {task['name']} | {name} | {cells} |")
    return [*lines, ""]


def picture(record: dict[str, Any]) -> str:
    """Draw the losses at the end against the rates, median and quartiles over seeds, as an SVG."""
    import io

    import matplotlib as mpl
    from matplotlib.figure import Figure

    from steprule.bench.picture import INK, MUTED, STYLE

    tasks, colours = tasks_of(record), {"adamw": "#123f9c", "muon": "#d2470d"}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 6.4), layout="constrained")
        panels = figure.subplots(len(LOSSES), len(tasks), squeeze=False, sharex="col")
        for row, (loss, word) in zip(panels, LOSSES.items(), strict=True):
            for axes, task in zip(row, tasks, strict=True):
                for name in ARMS:
                    _curve(axes, task, name, loss, colours[name])
                axes.set_xscale("log")
                axes.set_yscale("log")
                if loss == "validation_loss":
                    axes.set_title(task["name"], color=INK, loc="left")
            row[0].set_ylabel(f"{word} loss", color=MUTED)
        for axes in panels[-1]:
            axes.set_xlabel("learning rate", color=MUTED)
        handles = [mpl.lines.Line2D([], [], color=c, marker="o", label=n) for n, c in colours.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _curve(axes: Any, task: dict[str, Any], name: str, loss: str, colour: str) -> None:
    """Draw one arm: where a run was lost, there is no point. A vertical line is at its best rate."""
    arm = task["arms"][name]
    whole = [
        (lr, *quantiles(row, method="inclusive"))
        for lr, row in zip(task["rates"], arm[loss], strict=True)
        if None not in row
    ]
    rates, low, middle, high = zip(*whole, strict=True)
    axes.fill_between(rates, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(rates, middle, "o-", color=colour, markersize=3.5)
    axes.axvline(task["best"][loss][name]["middle"], color=colour, linewidth=0.8, linestyle=":")


def main() -> None:
    """Write the record and its picture."""
    asking = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asking.add_argument("folders", nargs="+", type=Path)
    given = asking.parse_args()
    made = reduced([json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in given.folders])
    for task in tasks_of(made):
        lr = _kept(task, "adamw", "validation_loss")
        for name in ARMS:
            task["arms"][name]["step_lengths"] = step_lengths(task, name, lr)
    RECORD.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PICTURE.write_text(picture(made), encoding="utf-8")


if __name__ == "__main__":
    main()
