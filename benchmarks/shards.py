"""What a step of sharded parameters costs: `python benchmarks/shards.py FILE`, about half a minute; writes a record.

Two processes of one thread each, joined by gloo, hold a model of 66 parameters by FSDP2. Each arm has a model and an
optimiser of its own, made from the same numbers; before each step its gradients become new DTensors, as after a
backward pass. The last arm has the same parts as plain tensors: what DTensors cost is the difference to it. A step
sends nothing and has one thread, so what is timed is the processor time of that thread: others on the machine matter
little.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import steprule as sr
from steprule.bench.load import watch
from steprule.bench.machine import machine
from steprule.bench.measure import spread
from steprule.bench.record import now

WORLD, LAYERS, WIDTH, ROUNDS, STEPS = 2, 33, 64, 41, 5
OURS, PLAIN = "steprule", "steprule, plain tensors"
ARMS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    OURS: lambda params: sr.optim.AdamW(params, lr=1e-4),
    "torch fused": lambda params: torch.optim.AdamW(params, lr=1e-4, fused=True),
    "torch foreach": lambda params: torch.optim.AdamW(params, lr=1e-4, foreach=True),
    "torch loop": lambda params: torch.optim.AdamW(params, lr=1e-4, foreach=False),
    PLAIN: lambda params: sr.optim.AdamW(params, lr=1e-4),
}


class Arm:
    """One optimiser with its parameters, which have had a backward pass."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
        mesh = init_device_mesh("cpu", (WORLD,))
        for layer in (*model, model):
            fully_shard(layer, mesh=mesh)
        model(torch.randn(8, WIDTH)).square().sum().backward()
        self.parameters: list[Any] = list(model.parameters())
        self._gradients = [parameter.grad for parameter in self.parameters]
        if name == PLAIN:
            self.parameters = [torch.nn.Parameter(p.detach().to_local().clone()) for p in self.parameters]
            self._gradients = [gradient.to_local() for gradient in self._gradients]
        self._optimizer = ARMS[name](self.parameters)

    @torch.no_grad()
    def parts(self) -> list[torch.Tensor]:
        """Return what this process has of every parameter."""
        return [p.to_local() if hasattr(p, "to_local") else p for p in self.parameters]

    def round(self, steps: int) -> float:
        """Take some steps with new gradients; return the seconds for which each of them had a processor."""
        spent = 0.0
        for _ in range(steps):
            for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
                parameter.grad = gradient.detach()
            start = time.thread_time()
            self._optimizer.step()
            spent += time.thread_time() - start
        return spent / steps


def timed() -> dict[str, Any]:
    """Check that all arms compute the same, and time them by turns in a drawn order, the same in both processes."""
    arms = {name: Arm(name) for name in ARMS}
    for arm in arms.values():
        arm.round(3)
    for name, arm in arms.items():
        for part, reference in zip(arm.parts(), arms["torch loop"].parts(), strict=True):
            torch.testing.assert_close(part, reference, rtol=1e-5, atol=1e-6, msg=f"{name} computes something else")
    times: dict[str, list[float]] = {name: [] for name in arms}
    order, dice = list(arms), random.Random(0)  # noqa: S311
    for _ in range(ROUNDS):
        dice.shuffle(order)
        for name in order:
            dist.barrier()
            arms[name].round(1)
            times[name].append(arms[name].round(STEPS if name in (OURS, PLAIN, "torch fused") else 1))
    told: dict[str, Any] = {}
    for name, seconds in times.items():
        found = spread([1e6 * value for value in seconds])
        ratio = spread([value / own for value, own in zip(seconds, times[OURS], strict=True)])
        told[name] = {
            "microseconds": {"median": found.median, "p25": found.low, "p75": found.high},
            "ratio": {"median": ratio.median, "p25": ratio.low, "p75": ratio.high},
        }
    return told


def process(rank: int, folder: str) -> None:
    """Be one of the processes; the first writes what it found."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORLD, timeout=timedelta(seconds=60))
    found = timed()
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def main(target: Path) -> None:
    """Write a record."""
    began, start, end = now(), time.perf_counter(), watch(WORLD)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a machine's own name need not resolve
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(process, (folder,), nprocs=WORLD)  # pyright: ignore[reportPrivateImportUsage]
        arms = json.loads(Path(folder, "found.json").read_text(encoding="utf-8"))
    record = {
        "command": f"python benchmarks/shards.py {target}",
        "began": began,
        "seconds": round(time.perf_counter() - start, 1),
        "machine": machine(1),
        "load": end().facts(),
        "processes": WORLD,
        "tensors": 2 * LAYERS,
        "parameters": LAYERS * (WIDTH + 1) * WIDTH,
        "rounds": ROUNDS,
        "arms": {name: _rounded(told) for name, told in arms.items()},
    }
    target.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _rounded(told: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {what: {key: float(f"{value:.4g}") for key, value in own.items()} for what, own in told.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
