"""Reduce comparisons of formats to a record: what each arm's training loss was at the end, beside its optimiser's.

    python benchmarks/learning.py results/learning

`make learning` does that after the comparison that learning.toml describes. Writes records/learning.json and its
picture, of which report.py makes a part of the page.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
RECORD = HERE / "records" / "learning.json"
PICTURE = RECORD.with_suffix(".svg")
USUAL = "float32"
SEVEN = "parameters=bfloat16 · rounding=compensated8 · state=8bit"
FORMATS = {
    "": USUAL,
    "state=bfloat16": "bfloat16 state",
    "state=8bit": "8bit state",
    SEVEN: "seven bytes",
    "parameters=bfloat16 · rounding=stochastic": "bfloat16, stochastic",
}
"""Formats by the settings that an arm has beside its optimiser's own."""


def reduced(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the record of comparisons, each a results.json."""
    kept = ("command", "started", "seconds", "versions", "hardware", "git", "complete")
    return {
        "studies": [
            {
                **{name: made[name] for name in kept},
                "grids": made["protocol"]["grids"],
                "tuning_seeds": made["protocol"]["tuning_seeds"],
                "seeds": made["protocol"]["report_seeds"],
                "tasks": [_task(made, task) for task in made["tasks"]],
            }
            for made in documents
        ]
    }


def _task(made: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    beside = {one["optimizer"]: one for one in made["variants"] if one["task"] == task["name"]}
    rows = [row for row in made["results"] if row["task"] == task["name"]]
    names = ("name", "network", "parameters", "metric", "budget")
    return {**{name: task[name] for name in names}, "arms": [_arm(row, beside.get(row["optimizer"])) for row in rows]}


def _arm(row: dict[str, Any], beside: dict[str, Any] | None) -> dict[str, Any]:
    """Return one optimiser in one format: its final training loss by seed, and how it differs from float32's."""
    runs = [run for run in row["runs"] if run["phase"] == "report"]
    of = beside["of"] if beside else row["optimizer"]
    bytes_ = [run["state_bytes_per_parameter"] for run in runs if run["state_bytes_per_parameter"] is not None]
    return {
        "optimizer": of,
        "format": FORMATS[row["optimizer"].removeprefix(of).removeprefix(" · ")],
        "lr": row["lr"],
        "losses": [run["final_training_loss"] if run["status"] == "finished" else None for run in runs],
        "test_score": row["tuned"] and row["tuned"]["test_score"],
        "state_bytes": median(bytes_) if bytes_ else None,
        **{name: beside[name] for name in ("loss", "of_loss", "difference", "overlap", "verdict") if beside},
    }


def tasks_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tasks of all studies."""
    return [task for study in record["studies"] for task in study["tasks"]]


def section(record: dict[str, Any]) -> str:
    """Return the part of BENCHMARKS.md that a record makes."""
    arms = [(task["name"], arm) for task in tasks_of(record) for arm in task["arms"] if "overlap" in arm]
    apart = [(name, arm) for name, arm in arms if not arm["overlap"]]
    first = record["studies"][0]
    versions = ", ".join(f"{name} {first['versions'][name]}" for name in ("steprule", "torch", "numba"))
    lines = [
        "## Learning in every format",
        "",
        f"{first['hardware']['processor']}, {versions}. {first['started'][:10]}",
        "",
        *(f"- `{study['command']}`" for study in record["studies"]),
        "",
        f"The loss on the whole training set at the end, over {len(first['seeds'])} seeds: median and 95 % bootstrap",
        "interval, and the difference to float32 seed by seed. The learning rate was tuned for each optimiser on each",
        "task in float32 alone, and every format learns at it. *Seven bytes* are bfloat16 parameters with",
        '`rounding="compensated8"` and `state="8bit"`. Where 8 bits are asked for, tensors of one dimension or fewer',
        "than 4,096 elements keep a float32 state.",
        "",
        f"Of {len(arms)} pairs, the intervals of {len(arms) - len(apart)} overlap float32's. "
        + ("**Apart ▼:** " + "; ".join(_worded(name, arm) for name, arm in apart) + "." if apart else "None is apart."),
        "",
        "![Difference of the final training loss to float32's, seed by seed](benchmarks/records/learning.svg)",
        "",
    ]
    for task in tasks_of(record):
        lines += _table(task)
    return "\n".join(lines)


def _worded(name: str, arm: dict[str, Any]) -> str:
    which = "lower" if arm["difference"]["middle"] < 0 else "higher"
    return f"{arm['optimizer']} in {arm['format']} on {name} ends {which}"


def _table(task: dict[str, Any]) -> list[str]:
    budget = task["budget"]
    unit = "epochs" if budget["iterations"] is None else "iterations"
    length = f"{budget[unit]:,} {unit} in batches of {budget['batch_size']}"
    lines = [f"### {task['name']}", "", f"{task['network']}; {task['parameters']:,} parameters, {length}.", ""]
    lines += [
        "| optimiser, learning rate | format | state bytes a parameter | training loss | less float32's | overlap |"
    ]
    lines += ["|---|---|---:|---:|---:|---|"]
    for arm in task["arms"]:
        usual = next(one for one in task["arms"] if one["optimizer"] == arm["optimizer"] and one["format"] == USUAL)
        known = "overlap" in arm
        loss = _interval(arm["loss"] if known else _of(task, usual))
        more = _interval(arm["difference"], sign="+") if known else ""
        same = "" if not known else "yes" if arm["overlap"] else "**no ▼**"
        name = f"{arm['optimizer']}, {arm['lr']:g}" if arm is usual else ""
        bytes_ = "–" if arm["state_bytes"] is None else f"{arm['state_bytes']:.3g}"
        lines.append(f"| {name} | {arm['format']} | {bytes_} | {loss} | {more} | {same} |")
    return [*lines, ""]


def _of(task: dict[str, Any], usual: dict[str, Any]) -> dict[str, float] | None:
    """Return the interval of the loss in float32, as the variants beside it have it."""
    return next(
        (arm["of_loss"] for arm in task["arms"] if arm["optimizer"] == usual["optimizer"] and "loss" in arm), None
    )


def _interval(value: dict[str, float] | None, sign: str = "") -> str:
    if value is None:
        return "–"
    middle, low, high = (f"{value[part]:{sign}.3g}" for part in ("middle", "low", "high"))
    return f"{middle} [{low}, {high}]"


def picture(record: dict[str, Any]) -> str:
    """Draw each seed's difference to float32, in percent of float32's median loss, as an SVG."""
    import io

    import matplotlib as mpl
    from matplotlib.figure import Figure

    from steprule.bench.picture import INK, MUTED, STYLE

    tasks = tasks_of(record)
    colours = dict(zip(list(FORMATS.values())[1:], ("#123f9c", "#d2470d", "#008f6b", "#b4509e"), strict=True))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        panels = figure.subplots(1, len(tasks), squeeze=False)[0]
        for axes, task in zip(panels, tasks, strict=True):
            rules = list(dict.fromkeys(arm["optimizer"] for arm in task["arms"]))
            for arm in task["arms"]:
                if arm["format"] == USUAL:
                    continue
                usual = next(a for a in task["arms"] if (a["optimizer"], a["format"]) == (arm["optimizer"], USUAL))
                known = [(a, b) for a, b in zip(arm["losses"], usual["losses"], strict=True) if None not in (a, b)]
                whole = median(b for _, b in known) if known else 1.0
                row = rules.index(arm["optimizer"]) + 0.18 * (list(colours).index(arm["format"]) - 1.5)
                shown = {"color": colours[arm["format"]], "linestyle": "none"}
                axes.plot([100 * (a - b) / whole for a, b in known], [-row] * len(known), "o", markersize=4, **shown)
                if known:
                    axes.plot([100 * median(a - b for a, b in known) / whole], [-row], "|", markersize=11, **shown)
            axes.axvline(0, color=INK, linewidth=0.8)
            axes.set_yticks([-place for place in range(len(rules))], rules if axes is panels[0] else [""] * len(rules))
            axes.set_title(task["name"], color=INK, loc="left")
            axes.set_xlabel("training loss less float32's, % of it", color=MUTED)
            axes.margins(x=0.1)
        handles = [mpl.lines.Line2D([], [], color=c, marker="o", linestyle="none", label=n) for n, c in colours.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def main() -> None:
    """Write the record and its picture."""
    asking = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asking.add_argument("folders", nargs="+", type=Path)
    given = asking.parse_args()
    made = reduced([json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in given.folders])
    RECORD.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PICTURE.write_text(picture(made), encoding="utf-8")


if __name__ == "__main__":
    main()
