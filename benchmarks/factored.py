"""Adafactor beside torch's: times of a step on GPT-2 small's matrices, on one thread.

    python benchmarks/factored.py               times, as JSON; about two minutes
    python benchmarks/factored.py --record      also writes them down, for BENCHMARKS.md

Arms take turns in one process. Times are seconds of the processor; ratios are medians of those of each turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
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


def speed(rounds: int) -> dict[str, Any]:
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
    elements = sum(shape[0] * shape[1] for shape in SHAPES)
    ratio = {
        name: [theirs / ours for theirs, ours in zip(seconds[name], seconds[OURS], strict=True)]
        for name in (LOOP, FOREACH)
    }
    return {
        "machine": processor(),
        "threads": 1,
        "torch": torch.__version__,
        "steprule": sr.__version__,
        "matrices": len(SHAPES),
        "elements": elements,
        "rounds": rounds,
        "nanoseconds an element": {
            name: round(statistics.median(took) / elements * 1e9, 3) for name, took in seconds.items()
        },
        "times steprule": {name: [round(x, 2) for x in statistics.quantiles(own, n=4)] for name, own in ratio.items()},
    }


def section(record: dict[str, Any]) -> str:
    """Return the part of BENCHMARKS.md that a record makes."""
    each, ratios = record["nanoseconds an element"], record["times steprule"]
    rows = [f"| {name} | {took:g} | {_told(ratios.get(name))} |" for name, took in each.items()]
    told = [
        "## Adafactor",
        "",
        f"`python benchmarks/factored.py --record`, steprule {record['steprule']}, torch {record['torch']}, on",
        f"{record['machine']}, one thread: a step on {record['matrices']} matrices of GPT-2 small,",
        f"{record['elements']:,} elements in float32, of which three passes move 24 bytes each. Seconds of the",
        "processor, arms in turns; in brackets the quartiles of the ratios.",
        "",
        "| | ns an element | times steprule |",
        "|---|---:|---:|",
    ]
    return "\n".join([*told, *rows, ""])


def _told(quartiles: list[float] | None) -> str:
    return "1" if quartiles is None else f"{quartiles[1]:g} ({quartiles[0]:g}–{quartiles[2]:g})"


def main() -> None:
    """Print times, and write them down if that is asked for."""
    asking = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asking.add_argument("--rounds", type=int, default=15)
    asking.add_argument("--record", action="store_true", help="write records/factored.json")
    given = asking.parse_args()
    found = speed(given.rounds)
    if given.record:
        RECORD.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
