"""Measurements of a fresh process: `python -m steprule.bench.child WHAT ...` prints JSON."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import steprule as sr
from steprule.bench import arms
from steprule.bench.rules import GLOBAL_NORM, RULES
from steprule.bench.units import Tensors, Unit
from steprule.bench.workloads import Workload, many

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _unit(arm: str, workload: Workload) -> tuple[Unit, Tensors]:
    tensors = Tensors(workload, 1.0, sets=1)
    unit = arms.build(arm, RULES["AdamW"], GLOBAL_NORM, tensors)
    unit.place(tensors.gradients[0])
    return unit, tensors


def first(arm: str, count: int = 60) -> dict[str, float]:
    """Time the first two steps on `count` tensors of 64."""
    unit, _ = _unit(arm, many(count, 64))
    seconds: list[float] = []
    for _ in range(2):
        begin = time.perf_counter()
        unit.step()
        seconds.append(time.perf_counter() - begin)
    return {"first": seconds[0], "second": seconds[1]}


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def memory(arm: str, size: int) -> float:
    """Return the bytes a parameter that steps take at their peak besides parameters, gradients and both moments."""
    unit, _ = _unit(arm, Workload("", ((size // 8,),) * 8))
    with contextlib.suppress(OSError):
        CLEAR.write_text("5", encoding="utf-8")  # the high-water mark starts from here
    before = _status("VmRSS")
    for _ in range(3):
        unit.step()
    return (_status("VmHWM") - before) / size - RULES["AdamW"].state_bytes


def _kernels() -> int:
    """Count the kernels that were compiled: each leaves an entry in the place given by STEPRULE_CACHE."""
    place = Path(os.environ["STEPRULE_CACHE"]) / "kernels"
    return sum(1 for _ in place.iterdir()) if place.is_dir() else 0


def changes() -> dict[str, int]:
    """Count the kernels that each change of a running optimiser compiles."""
    tensors = Tensors(many(4, 64), 1.0, sets=0).parameters
    optimizer = sr.optim.AdamW(tensors[:3], lr=1e-3, clip=1.0)
    group: dict[str, Any] = optimizer.param_groups[0]

    def step() -> None:
        for each in optimizer.param_groups:
            for parameter in each["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()

    def shapes() -> None:
        tensors[0].data = torch.zeros(7, 11)
        optimizer.state.pop(tensors[0])

    todo: dict[str, Callable[[], object]] = {
        "the first step": lambda: None,
        "another lr": lambda: group.update(lr=0.5),
        "a tensor as lr": lambda: group.update(lr=torch.tensor(0.25)),
        "other betas": lambda: group.update(betas=(0.5, 0.75)),
        "another eps and weight decay": lambda: group.update(eps=1e-3, weight_decay=0.5),
        "another bound": lambda: group.update(max_norm=0.1),
        "other shapes": shapes,
        "one more tensor, in its own group": lambda: optimizer.add_param_group({"params": tensors[3:], "lr": 0.1}),
        "another number of threads": lambda: torch.set_num_threads(1),
    }
    found: dict[str, int] = {}
    for name, change in todo.items():
        before = _kernels()
        change()
        step()
        found[name] = _kernels() - before
    return found


def main(what: str, *rest: str) -> None:
    """Take the measurement that the command line names."""
    run: dict[str, Callable[[], Any]] = {
        "first": lambda: first(rest[0]),
        "memory": lambda: memory(rest[0], int(rest[1])),
        "changes": changes,
    }
    print(json.dumps(run[what]()))


if __name__ == "__main__":
    main(*sys.argv[1:])
