"""What the host does for a step on a GPU, without a GPU: `python benchmarks/gpu_host.py FILE`, about twenty seconds.

Steps of clipping and AdamW on tensors of 64 numbers. One arm is the GPU backend, its Python as it is, above a
device whose last calls do nothing: the record lists what is `replaced`. A launch costs what an empty function costs.
The other arm is the CPU backend, which computes. Both have gradients that stay where they are, and then others at every
step beside a new learning rate, which are sent. Steps follow one another, so that memory is near. What is timed is the
processor time of the thread: others on the machine matter little, but for the caches that they share, of which `least`
says most. No time here is one of a GPU.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: so that tensors in main memory may have GPU kernels
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402

import steprule as sr  # noqa: E402
from fake_device import SilentGpu  # noqa: E402
from steprule.backends import triton_device  # noqa: E402
from steprule.bench.load import watch  # noqa: E402
from steprule.bench.machine import machine  # noqa: E402
from steprule.bench.measure import spread  # noqa: E402
from steprule.bench.record import now  # noqa: E402

COUNTS, NUMBERS, ROUNDS = (6, 60, 1000), 64, 101
GPU, CPU = "GPU backend, host only", "CPU backend, whole step"


class Arm:
    """An optimiser whose binding is made; its gradients are taken by turns from sets that stay."""

    def __init__(self, count: int, backend: str | None) -> None:
        self.parameters = [torch.nn.Parameter(torch.zeros(NUMBERS)) for _ in range(count)]
        self._sets = [[torch.ones(NUMBERS) for _ in range(count)] for _ in range(3)]
        self._turn = 0
        self.optimizer: Any = sr.optim.AdamW(self.parameters, clip=1.0, backend=backend)
        self.move()
        for _ in range(3):
            self.optimizer.step()

    def move(self) -> None:
        """Give other gradients, and another learning rate."""
        self._turn += 1
        for parameter, gradient in zip(self.parameters, self._sets[self._turn % 3], strict=True):
            parameter.grad = gradient
        self.optimizer.param_groups[0]["lr"] = 1e-3 / (1 + self._turn % 7)

    def timed(self, steps: int, *, moving: bool) -> float:
        """Return the microseconds for which each of some steps had a processor."""
        spent = 0.0
        for _ in range(steps):
            if moving:
                self.move()
            start = time.thread_time()
            self.optimizer.step()
            spent += time.thread_time() - start
        return 1e6 * spent / steps


def measured(count: int, device: SilentGpu) -> dict[str, Any]:
    """Time both arms by turns, and count what the device is asked for."""
    arms, dice = {GPU: Arm(count, "triton_gpu"), CPU: Arm(count, None)}, random.Random(0)  # noqa: S311
    times: dict[str, dict[str, list[float]]] = {name: {"staying": [], "moving": []} for name in arms}
    arms[GPU].timed(5, moving=True)
    before = device.counted.copy()
    steps = max(40, 300 // count)
    for _ in range(ROUNDS):
        for name in dice.sample(list(arms), len(arms)):
            arms[name].timed(1, moving=True)
            for how, found in times[name].items():
                found.append(arms[name].timed(steps, moving=how == "moving"))
    taken = ROUNDS * (1 + 2 * steps)
    return {
        "microseconds": {name: {how: _told(found) for how, found in own.items()} for name, own in times.items()},
        "made": device.counted["made"] - before["made"],
        "launches a step": (device.counted["launched"] - before["launched"]) / taken,
        "copies a step that moves": (device.counted["copied"] - before["copied"]) / (ROUNDS * (1 + steps)),
    }


def _told(times: list[float]) -> dict[str, float]:
    found = spread(times)
    told = {"median": found.median, "p25": found.low, "p75": found.high, "least": min(times)}
    return {name: float(f"{value:.3g}") for name, value in told.items()}


def main(target: Path) -> None:
    """Write a record, and print its table."""
    torch.set_num_threads(1)
    began, start, end, device = now(), time.perf_counter(), watch(1), SilentGpu()
    triton_device.DEVICES["cpu"] = lambda _: device
    cases = {str(count): measured(count, device) for count in COUNTS}
    record = {
        "command": f"python benchmarks/gpu_host.py {target.name}",
        "began": began,
        "seconds": round(time.perf_counter() - start, 1),
        "machine": machine(1),
        "load": end().facts(),
        "rounds": ROUNDS,
        "replaced": list(SilentGpu.REPLACED),
        "tensors": cases,
    }
    target.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for count, case in cases.items():
        for name, own in case["microseconds"].items():
            times = (f"{how} {own[how]['median']:6.1f} µs (least {own[how]['least']:.1f})" for how in own)
            print(f"{count:>5} tensors  {name:<24}", *times)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
