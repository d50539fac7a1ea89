"""From which size of gradient `during="backward"` pays: `python benchmarks/hooks.py`, about a minute.

A training step of twenty tensors on one thread, with every gradient measured by a hook and with none, by turns.
Above 1 the hooks cost more than the pass over memory that they save; `steprule.optim.watch.WATCHED_FROM` is from here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

import steprule as sr
from steprule.optim import watch

SIZES = [2**power for power in range(10, 21, 2)]


def training_step(size: int, during: str) -> Callable[[], None]:
    """Return a step that makes twenty gradients of a size, clips them and applies them."""
    parameters = [torch.nn.Parameter(torch.randn(size)) for _ in range(20)]
    inputs = [torch.randn(size) for _ in parameters]
    clip = sr.clip_global_norm(max_norm=1.0, during=during)
    optimizer = sr.board.sgd.optimizer(parameters, lr=1e-9, clip=clip)

    def step() -> None:
        optimizer.zero_grad()
        torch.stack([(p * x).sum() for p, x in zip(parameters, inputs, strict=True)]).sum().backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None]) -> float:
    """Time one step."""
    before = time.perf_counter()
    step()
    return time.perf_counter() - before


def main() -> None:
    """Print the ratio of the medians for each size."""
    torch.set_num_threads(1)
    watch.WATCHED_FROM = 1
    for size in SIZES:
        arms = [training_step(size, during) for during in ("backward", "step")]
        for step in arms * 5:
            step()
        times = [[seconds(step) for step in arms] for _ in range(max(20, min(300, 2**24 // size)))]
        hooks, none = (median(column) for column in zip(*times, strict=True))
        print(f"{size:>9,} elements: {hooks / none:.2f}", flush=True)


if __name__ == "__main__":
    main()
