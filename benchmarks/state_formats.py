"""State formats: bytes of classes a parameter, and times of a step of AdamW behind clipping beside torch's.

    python benchmarks/state_formats.py              the table of bytes, as storages have them
    python benchmarks/state_formats.py --speed      times of steps at 124M, with two threads and with one
    python benchmarks/state_formats.py --record     writes down what is printed, for BENCHMARKS.md; also of --speed

Times are of one interleaved run for each number of threads: of one thread in seconds of the processor, of two in
seconds. What gauges cost is in them, too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import torch

import steprule as sr
from steprule.bench.load import watch
from steprule.bench.machine import machine
from steprule.bench.measure import spread
from steprule.bench.record import now
from steprule.bench.verdict import LOSS, number

Step = Callable[[], Any]

RECORD = Path(__file__).parent / "records" / "state-formats.json"
FORMATS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16 state": {"state": "bfloat16"},
    "8bit state": {"state": "8bit"},
    "seven bytes": {"state": "8bit", "rounding": "compensated8"},
}
TORCH = "torch fused, float32"
GAUGES: dict[str, dict[str, Any]] = {
    "one gauge": {"watch": ["parameter_norm"]},
    "standard gauges": {"watch": True},
}
CLASSES: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9}, "Adagrad": {}, "RMSprop": {}, "Adadelta": {}, "Adam": {}, "AdamW": {}, "Adamax": {},
    "NAdam": {}, "RAdam": {}, "Lion": {}, "AdaBelief": {}, "Yogi": {}, "ADOPT": {}, "AdEMAMix": {}, "Adan": {},
    "LAMB": {}, "LARS": {"momentum": 0.9},
}  # fmt: skip


def parameters(name: str, shapes: list[tuple[int, ...]]) -> list[torch.nn.Parameter]:
    """Make parameters with gradients, for a format."""
    dtype = torch.bfloat16 if name == "seven bytes" else torch.float32
    made = [torch.nn.Parameter((torch.randn(shape) * 0.02).to(dtype)) for shape in shapes]
    for parameter in made:
        parameter.grad = torch.randn_like(parameter) * 1e-3
    return made


def held(optimizer: torch.optim.Optimizer) -> float:
    """Return bytes of state a parameter, by the storages that hold it."""
    own = [p for group in optimizer.param_groups for p in group["params"]]
    values = [value for p in own for value in optimizer.state[p].values() if value.ndim]
    return sum(value.untyped_storage().nbytes() for value in values) / sum(p.numel() for p in own)


def table() -> list[dict[str, Any]]:
    """Return bytes a parameter: of the state, and of parameter, gradient and state together; a matrix and its bias."""
    rows: list[dict[str, Any]] = []
    for cls, options in CLASSES.items():
        row: dict[str, Any] = {"class": cls}
        for name, formats in FORMATS.items():
            own = parameters(name, [(512, 512), (512,)])
            optimizer = getattr(sr.optim, cls)(own, backend="eager", **options, **formats)
            optimizer.step()
            state = held(optimizer)
            row[name] = {"state": round(state, 3), "all": round(state + 2 * own[0].element_size(), 3)}
        rows.append(row)
    return rows


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table of bytes, for a page."""
    head = ["| class | " + " | ".join(FORMATS) + " |", "|---" + "|---:" * len(FORMATS) + "|"]
    cells = [[f"{row[name]['state']:g} ({row[name]['all']:g})" for name in FORMATS] for row in rows]
    return head + [f"| {row['class']} | {' | '.join(told)} |" for row, told in zip(rows, cells, strict=True)]


def section(record: dict[str, Any]) -> str:
    """Return the part of BENCHMARKS.md that a record makes."""
    told = [
        "## State in every format",
        "",
        f"`python benchmarks/state_formats.py --record`, steprule {record['steprule']}, torch {record['torch']}.",
        "",
        "Bytes a parameter of the state, as its storages have them, of a 512 by 512 matrix and its bias; in brackets",
        "with parameter and gradient. *Seven bytes* are bfloat16 parameters with",
        '`rounding="compensated8"` and `state="8bit"`. The bias keeps float32 where 8 bits',
        'are asked for, and takes them under `"8bit-all"`.',
        "",
    ]
    more = told_times(record["times"]) if "times" in record else []
    return "\n".join([*told, *lines(record["classes"]), "", *more])


def shapes_of(millions: float) -> list[tuple[int, ...]]:
    """Return shapes as a small GPT has, with about so many elements."""
    width, layers = 768, max(1, round((millions * 1e6 - 39e6) / 7.08e6)) if millions >= 46 else 0
    each: list[tuple[int, ...]] = [(768, 2304), (768, 768), (768, 3072), (3072, 768), (768,), (3072,)]
    return [*each * layers, (50257, width)] if layers else [(max(1, round(millions * 1e6 / width)), width)]


# Times ------------------------------------------------------------------------------------------------


def steps_of(shapes: list[tuple[int, ...]]) -> dict[str, Step]:
    """Return the step of every arm: torch's, ours in every format, and ours in float32 with gauges.

    Those of float32 parameters share these and their gradients.
    """
    single = parameters("float32", shapes)
    fused = torch.optim.AdamW(single, fused=True)

    def clipped() -> None:
        torch.nn.utils.clip_grad_norm_(single, 1.0)
        fused.step()

    arms: dict[str, Step] = {TORCH: clipped}
    for name, options in (FORMATS | GAUGES).items():
        own = parameters(name, shapes) if name == "seven bytes" else single
        arms[name] = sr.optim.AdamW(own, clip=1.0, **options).step
    return arms


def by_turns(arms: dict[str, Step], clock: Callable[[], float], rounds: int, steps: int = 1) -> dict[str, list[float]]:
    """Return the seconds that a step of each arm took, in every round but the first two."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 2):
        for name, step in arms.items():
            begin = clock()
            for _ in range(steps):
                step()
            if turn > 1:
                seconds[name].append((clock() - begin) / steps)
    return seconds


def quartiles(values: list[float]) -> dict[str, float]:
    """Return the median and the quartiles, of four digits."""
    found = spread(values)
    told = {"median": found.median, "p25": found.low, "p75": found.high}
    return {name: float(f"{value:.4g}") for name, value in told.items()}


def times(threads: int, millions: float, rounds: int) -> dict[str, Any]:
    """Time arms in turns, in this process."""
    torch.set_num_threads(threads)
    shapes, clock = shapes_of(millions), time.process_time if threads == 1 else time.perf_counter
    end, began = watch(threads), time.perf_counter()
    large = by_turns(steps_of(shapes), clock, rounds)
    small = steps_of([(64,)] * 6)
    few = by_turns({name: small[name] for name in ("float32", *GAUGES)}, clock, rounds, 500)
    return {
        "threads": threads,
        "clock": "processor" if threads == 1 else "wall",
        "elements": sum(prod(shape) for shape in shapes),
        "rounds": rounds,
        "seconds": round(time.perf_counter() - began, 1),
        "load": end().facts(),
        "arms": {
            name: {
                "milliseconds": quartiles([1e3 * value for value in own]),
                "ratio": quartiles([one / value for one, value in zip(large[TORCH], own, strict=True)]),
            }
            for name, own in large.items()
        },
        "gauges": {
            name: {
                "cost": quartiles([value / one - 1 for one, value in zip(large["float32"], large[name], strict=True)]),
                "microseconds": quartiles([1e6 * (b - a) for a, b in zip(few["float32"], few[name], strict=True)]),
            }
            for name in GAUGES
        },
    }


def timed(millions: float, rounds: int) -> dict[str, Any]:
    """Time arms with two threads and with one, each in a process of its own."""
    asked = [sys.executable, __file__, "--size", str(millions), "--rounds", str(rounds), "--threads"]
    done = (subprocess.run([*asked, str(n)], stdout=subprocess.PIPE, text=True, check=True) for n in (2, 1))
    began = now()
    return {"began": began, "runs": [json.loads(run.stdout) for run in done], "machine": machine(2)}


def told_times(record: dict[str, Any]) -> list[str]:
    """Return the tables of times, for a page."""
    machine = record["machine"]
    lines = [
        "### What they take",
        "",
        f"`python benchmarks/state_formats.py --speed --record` on {machine['cpu']} ({machine['capability']}),",
        f"{machine['cores']} cores, {record['began'][:10]}: a step of AdamW behind a clipped global norm, and how many",
        "times as long torch's fused step on float32 takes, after `clip_grad_norm_`. Medians of one interleaved run,",
        "with quartiles; of one thread it is processor time.",
        "",
    ]
    for run in record["runs"]:
        threads = "one thread" if run["threads"] == 1 else f"{run['threads']} threads"
        lines += [
            f"{run['elements'] / 1e6:.0f}M parameters, {threads}; others used {run['load']['others']:.1f} cores.",
            "",
            "| | milliseconds | torch / ours |",
            "|---|---:|---:|",
            *(f"| {name} | {_spread(own['milliseconds'])} | {_ratio(own['ratio'])} |"
              for name, own in run["arms"].items() if name not in GAUGES),
            "",
            "| gauges, in float32 | more time | at 6 tensors of 64 |",
            "|---|---:|---:|",
            *(f"| {name} | {_percent(own['cost'])} % | {_spread(own['microseconds'])} µs |"
              for name, own in run["gauges"].items()),
            "",
        ]  # fmt: skip
    return lines


def _spread(own: dict[str, float]) -> str:
    return f"{own['median']:.4g} ({own['p25']:.4g} – {own['p75']:.4g})"


def _percent(own: dict[str, float]) -> str:
    return _spread({name: 100 * own[name] for name in ("median", "p25", "p75")})


def _ratio(own: dict[str, float]) -> str:
    told = number(own["median"])
    return f"**{told} {LOSS}**" if own["median"] < 1 else told


def main() -> None:
    """Print what was asked for; write down what a record is for."""
    asking = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asking.add_argument("--record", action="store_true", help="write what is printed into records/state-formats.json")
    asking.add_argument("--speed", action="store_true", help="time steps")
    asking.add_argument("--threads", type=int, help="time steps with so many, and print them as JSON")
    asking.add_argument("--size", type=float, default=124, help="millions of elements")
    asking.add_argument("--rounds", type=int, default=25)
    given = asking.parse_args()
    if given.threads:
        print(json.dumps(times(given.threads, given.size, given.rounds)))
        return
    known = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    if given.speed:
        made = known | {"times": timed(given.size, given.rounds)}
        print("\n".join(told_times(made["times"])))
    else:
        made = known | {"torch": torch.__version__, "steprule": sr.__version__, "classes": table()}
        print("\n".join(lines(made["classes"])))
    if given.record:
        RECORD.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
