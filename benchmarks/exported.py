"""The exported file of AdamW beside torch's loop and foreach steps and the eager backend, on one thread.

    python benchmarks/exported.py               times, as JSON; about a minute
    python benchmarks/exported.py --record      also writes them down, for BENCHMARKS.md

Arms take turns in one process. Times are seconds of the processor; ratios are those of each turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from operator import truediv
from pathlib import Path
from typing import Any

import torch

import steprule as sr
from steprule.bench.machine import processor

RECORD = Path(__file__).parent / "records" / "exported.json"
CASES = {"1,000 tensors of 64": [(64,)] * 1000, "4 tensors of 1,048,576": [(1024, 1024)] * 4}
FILE, LOOP, FOREACH, EAGER, OURS = "file", "torch, loop", "torch, foreach", "steprule, eager", "steprule"
AGREES = 1e-5
"""The greatest difference of parameters from torch's loop, of parameters of about 1."""


def _parameters(shapes: list[tuple[int, ...]]) -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    made = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    for parameter in made:
        parameter.grad = torch.randn(parameter.shape)
    return made


def _exported() -> Any:
    """Return the class of the file."""
    space: dict[str, Any] = {"__name__": "exported"}
    exec(sr.export(sr.optim.AdamW), space)  # noqa: S102
    return space["AdamW"]


def seconds(shapes: list[tuple[int, ...]], rounds: int) -> dict[str, list[float]]:
    """Time steps in turns, after two that count nothing, and check that all arms do the same."""
    makes: dict[str, Any] = {
        FILE: _exported(),
        LOOP: lambda own: torch.optim.AdamW(own, foreach=False),
        FOREACH: lambda own: torch.optim.AdamW(own, foreach=True),
        EAGER: lambda own: sr.optim.AdamW(own, backend="eager"),
        OURS: sr.optim.AdamW,
    }
    own = {name: _parameters(shapes) for name in makes}
    arms = {name: make(own[name]) for name, make in makes.items()}
    found: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 2):
        for name, optimizer in arms.items():
            begin = time.process_time()
            optimizer.step()
            if turn > 1:
                found[name].append(time.process_time() - begin)
    assert all(torch.equal(a, b) for a, b in zip(own[FILE], own[EAGER], strict=True)), "a file has the bits of eager"
    for name in makes:
        far = max(float((a - b).detach().abs().max()) for a, b in zip(own[LOOP], own[name], strict=True))
        assert far < AGREES, f"parameters of {name} are {far:.1e} from torch's"
    return found


def speed(rounds: int) -> dict[str, Any]:
    """Return medians and the quartiles of ratios of all cases."""
    torch.set_num_threads(1)
    cases = {}
    for case, shapes in CASES.items():
        found = seconds(shapes, rounds)
        cases[case] = {
            "milliseconds": {name: round(statistics.median(own) * 1e3, 3) for name, own in found.items()},
            "times the file": {
                name: [round(x, 3) for x in statistics.quantiles(map(truediv, own, found[FILE]), n=4)]
                for name, own in found.items()
                if name != FILE
            },
        }
    return {
        "machine": processor(),
        "threads": 1,
        "torch": torch.__version__,
        "steprule": sr.__version__,
        "rounds": rounds,
        "load": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
        "cases": cases,
    }


def section(record: dict[str, Any]) -> str:
    """Return the part of BENCHMARKS.md that a record makes."""
    busy = [f"Other work kept the machine busy (load {record['load']} on {record['cores']} cores)."]
    told = [
        "## An exported file",
        "",
        f"`python benchmarks/exported.py --record`, steprule {record['steprule']}, torch {record['torch']}, on",
        f"{record['machine']}, one thread: a step of AdamW by the file of `sr.export(sr.optim.AdamW)`, beside torch's",
        f"and this library's. Milliseconds of the processor, arms in turns, {record['rounds']} rounds; then how many",
        "times as long as the file's step each takes, with quartiles. The file has the bits of the eager backend;",
        "every operation of its formula is a call of torch.",
        *(
            ["", f"Other work kept the machine busy (load {record['load']} on {record['cores']} cores)."]
            if busy
            else []
        ),
        "",
        "| | " + " | ".join(f"{case}, ms | times the file" for case in record["cases"]) + " |",
        "|---|" + "---:|---:|" * len(record["cases"]),
    ]
    for name in (FILE, LOOP, FOREACH, EAGER, OURS):
        cells = [name]
        for case in record["cases"].values():
            cells += [f"{case['milliseconds'][name]:.3g}", _told(case["times the file"].get(name))]
        told.append("| " + " | ".join(cells) + " |")
    return "\n".join([*told, ""])


def _told(quartiles: list[float] | None) -> str:
    return "1" if quartiles is None else f"{quartiles[1]:.2g} ({quartiles[0]:.2g}–{quartiles[2]:.2g})"


def main() -> None:
    """Print times, and write them down if that is asked for."""
    asking = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asking.add_argument("--rounds", type=int, default=15)
    asking.add_argument("--record", action="store_true", help="write records/exported.json")
    given = asking.parse_args()
    found = speed(given.rounds)
    if given.record:
        RECORD.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
