"""Adafactor beside torch's: times of a step on GPT-2 small's matrices, on one thread.

    python benchmarks/factored.py               times, as JSON; about two minutes
    python benchmarks/factored.py --record      also writes them down, for BENCHMARKS.md

Arms take turns, in several processes one after another: where memory for torch's intermediate values comes to lie is
decided once a process, and its times with it. Times are seconds of the processor; ratios are those of each turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from itertools import chain
from operator import truediv
from pathlib import Path
from typing import Any

import torch

import steprule as sr
from steprule.bench.machine import processor

RECORD = Path(__file__).parent / "records" / "factored.json"
SHAPES = [(768, 2304), (768, 768), (768, 3072), (3072, 768)] * 12
LOOP, FOREACH, OURS = "torch, loop", "torch, foreach", "steprule"
AGREES = 1e-5
"""The greatest difference of parameters from torch's loop, of parameters of about 0.02."""


def _parameters() -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    made = [torch.nn.Parameter(torch.randn(shape) * 0.02) for shape in SHAPES]
    for parameter in made:
        parameter.grad = torch.randn(parameter.shape) * 1e-3
    return made


def turns(rounds: int) -> dict[str, list[float]]:
    """Time steps in turns, after two that count nothing, and check that all arms do the same."""
    torch.set_num_threads(1)
    own = {name: _parameters() for name in (LOOP, FOREACH, OURS)}
    arms: dict[str, torch.optim.Optimizer] = {
        LOOP: torch.optim.Adafactor(own[LOOP], foreach=False),
        FOREACH: torch.optim.Adafactor(own[FOREACH], foreach=True),
        OURS: sr.optim.Adafactor(own[OURS]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 2):
        for name, optimizer in arms.items():
            begin = time.process_time()
            optimizer.step()
            if turn > 1:
                seconds[name].append(time.process_time() - begin)
    far = max(float((a - b).detach().abs().max()) for a, b in zip(own[LOOP], own[OURS], strict=True))
    assert far < AGREES, f"parameters are {far:.1e} from torch's"
    return seconds


def speed(processes: int, rounds: int) -> dict[str, Any]:
    """Let fresh processes take turns, and say what all of them have found, and how far apart they are."""
    command = [sys.executable, __file__, "--rounds", str(rounds), "--turns"]
    told = (subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout for _ in range(processes))
    found: list[dict[str, list[float]]] = list(map(json.loads, told))
    elements = sum(shape[0] * shape[1] for shape in SHAPES)
    ratio = {name: [list(map(truediv, own[name], own[OURS])) for own in found] for name in (LOOP, FOREACH)}
    return {
        "machine": processor(),
        "threads": 1,
        "torch": torch.__version__,
        "steprule": sr.__version__,
        "matrices": len(SHAPES),
        "elements": elements,
        "processes": processes,
        "rounds": rounds,
        "nanoseconds an element": {
            name: round(statistics.median(chain.from_iterable(own[name] for own in found)) / elements * 1e9, 3)
            for name in found[0]
        },
        "times steprule": {
            name: [round(x, 2) for x in statistics.quantiles(chain.from_iterable(own), n=4)]
            for name, own in ratio.items()
        },
        "times steprule, a process": {
            name: sorted(round(statistics.median(one), 2) for one in own) for name, own in ratio.items()
        },
    }


def section(record: dict[str, Any]) -> str:
    """Return the part of BENCHMARKS.md that a record makes."""
    each, ratios, apart = (record[key] for key in (
        "nanoseconds an element", "times steprule", "times steprule, a process"))  # fmt: skip
    rows = [
        f"| {name} | {took:g} | {_told(ratios.get(name))} | {_span(apart.get(name))} |" for name, took in each.items()
    ]
    told = [
        "## Adafactor",
        "",
        f"`python benchmarks/factored.py --record`, steprule {record['steprule']}, torch {record['torch']}, on",
        f"{record['machine']}, one thread: a step on {record['matrices']} matrices of GPT-2 small,",
        f"{record['elements']:,} elements in float32, of which three passes move 24 bytes each. Seconds of the",
        f"processor, arms in turns, {record['rounds']} in each of {record['processes']} processes; in brackets the",
        "quartiles of the ratios of all turns, last the medians of the lowest and the highest process.",
        "",
        "| | ns an element | times steprule | a process |",
        "|---|---:|---:|---:|",
    ]
    return "\n".join([*told, *rows, ""])


def _told(quartiles: list[float] | None) -> str:
    return "1" if quartiles is None else f"{quartiles[1]:g} ({quartiles[0]:g}–{quartiles[2]:g})"


def _span(medians: list[float] | None) -> str:
    return "" if medians is None else f"{medians[0]:g}–{medians[-1]:g}"


def main() -> None:
    """Print times, and write them down if that is asked for."""
    asking = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asking.add_argument("--processes", type=int, default=6)
    asking.add_argument("--rounds", type=int, default=7, help="in each process")
    asking.add_argument("--turns", action="store_true", help="do what one process does, and print its seconds")
    asking.add_argument("--record", action="store_true", help="write records/factored.json")
    given = asking.parse_args()
    if given.turns:
        print(json.dumps(turns(given.rounds)))
        return
    found = speed(given.processes, given.rounds)
    if given.record:
        RECORD.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
