"""Time a clipped, Adam-shaped step against torch's own fused one, in one interleaved run.

    python benchmarks/step.py [--quick] [--record FILE]

Both arms clip the global norm to 1 and update two moments: ours runs `chain(clip_global_norm, board.adam)`, torch
runs `clip_grad_norm_` and `AdamW(fused=True)` at weight decay 0. Each moves what its own implementation must;
the board's Adam has no bias correction, which costs torch nothing measurable either. Before timing, both are
checked against the float64 interpreter. Rounds alternate between the arms; figures are medians, and the claim is
the ratio. The roofline arm is a kernel of ours that moves the same streams with trivial arithmetic.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

import steprule as sr

CASES = {"6 x 64": [64] * 6, "1000 x 64": [64] * 1000, "1 x 50,000,000": [50_000_000]}
EXPECTED = {"6 x 64": 5.0, "1000 x 64": 10.0, "1 x 50,000,000": 1.2}


@sr.rule
def streams(theta: Any, g: Any, m: Any, s: Any, *, lr: Any = 0.0) -> Any:
    """Move Adam's streams with as little arithmetic as keeps them apart."""
    return theta + lr * g, m + lr * g, s + lr * g


@sr.transform
def read_once(theta: Any, g: Any) -> Any:  # noqa: ARG001
    """Read every gradient once more, as a norm must."""
    return sr.where(sr.global_sum(g) == 12345.678, 0 * g, g)


def parameters(sizes: list[int]) -> list[torch.nn.Parameter]:
    """Return parameters with gradients, the same for every arm."""
    torch.manual_seed(0)
    made = [torch.nn.Parameter(torch.randn(size)) for size in sizes]
    for parameter in made:
        parameter.grad = torch.randn_like(parameter)
    return made


def ours(sizes: list[int]) -> Callable[[], None]:
    """Return the step of clip + the board's Adam."""
    return sr.Optimizer(parameters(sizes), sr.board.adam(lr=1e-3), clip=1.0).step


def torch_fused(sizes: list[int]) -> Callable[[], None]:
    """Return torch's best: fused AdamW after clip_grad_norm_."""
    own = parameters(sizes)
    optimizer = torch.optim.AdamW(own, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        optimizer.step()

    return step


def roofline(sizes: list[int]) -> Callable[[], None]:
    """Return a step that moves the same bytes."""
    return sr.chain(read_once, streams).optimizer(parameters(sizes)).step


ARMS = {"steprule": ours, "torch fused + clip": torch_fused, "same bytes": roofline}


def check() -> None:
    """Assert that the arm of ours computes what the interpreter defines."""
    from steprule.graph.evaluate import evaluate

    own = parameters([64, 1000])
    before = [parameter.detach().clone() for parameter in own]
    program = sr.chain(sr.clip_global_norm(max_norm=1.0), sr.board.adam(lr=1e-3))
    program.optimizer(own).step()
    zeros = [np.zeros(parameter.shape) for parameter in own]
    arrays = [{"theta": b, "g": p.grad, "m": z, "s": z} for b, p, z in zip(before, own, zeros, strict=True)]
    numbers = [{name: hyper.value for name, hyper in program.hypers.items()}] * len(own)
    for parameter, truth in zip(own, evaluate(program.graph, arrays, numbers), strict=True):
        assert np.allclose(parameter.detach().numpy(), truth["theta"], rtol=1e-5, atol=1e-6)


def median_times(sizes: list[int], rounds: int) -> dict[str, float]:
    """Return microseconds a step for every arm, rounds interleaved."""
    steps = {name: make(sizes) for name, make in ARMS.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    inner = max(1, min(50, 2_000_000 // sum(sizes)))  # steps a round: long enough to time
    for turn in range(rounds + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(inner):
                step()
            if turn >= 2:
                times[name].append((time.perf_counter() - start) / inner * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


_FIRST = """
import time, torch, steprule as sr
from steprule.backends.cache import counts
p = torch.nn.Parameter(torch.randn(64)); p.grad = torch.randn(64)
opt = sr.Optimizer([p], sr.board.adam, clip=1.0)
start = time.perf_counter(); opt.step(); seconds = time.perf_counter() - start
p.data = torch.randn(7); p.grad = torch.randn(7); opt.state.clear(); opt.param_groups[0]["lr"] = 0.5; opt.step()
print(seconds, counts.compiled, counts.loaded)
"""


def first_steps() -> dict[str, float]:
    """Return seconds of the first step from nothing, then from the disk cache, each in a fresh process."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("first step from nothing", "first step from cache"):
            env = {**os.environ, "STEPRULE_CACHE": cache}
            out = subprocess.run([sys.executable, "-c", _FIRST], env=env, capture_output=True, text=True, check=True)
            seconds, compiled, loaded = out.stdout.split()
            assert (compiled, loaded) == (("1", "0") if name.endswith("nothing") else ("0", "1")), out.stdout
            found[name] = float(seconds)
    return found


def machine() -> dict[str, str]:
    """Name the machine and the versions."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    features = torch.backends.cpu.get_cpu_capability()
    versions = {"torch": torch.__version__, "numba": numba.__version__, "steprule": sr.__version__}
    threads, python = str(torch.get_num_threads()), platform.python_version()
    return {"cpu": model, "capability": features, "threads": threads, "python": python, **versions}


def main() -> None:
    """Run, print, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds and of the large case")
    parser.add_argument("--record", type=Path, help="write a JSON record here")
    options = parser.parse_args()
    check()
    record: dict[str, Any] = {"machine": machine(), "cases": {}}
    print(", ".join(f"{key} {value}" for key, value in record["machine"].items()))
    print(
        f"{'tensors':16} " + " ".join(f"{name + ' µs':>22}" for name in ARMS) + f" {'torch / ours':>13} {'expected':>9}"
    )
    for name, sizes in CASES.items():
        own = [size // 10 for size in sizes] if options.quick and sum(sizes) > 1e6 else sizes
        times = median_times(own, 5 if options.quick else (15 if sum(own) > 1e6 else 60))
        ratio = times["torch fused + clip"] / times["steprule"]
        record["cases"][name] = {"microseconds": times, "ratio": ratio, "expected": EXPECTED[name]}
        print(
            f"{name:16} "
            + " ".join(f"{value:22.1f}" for value in times.values())
            + f" {ratio:13.2f} {EXPECTED[name]:9.1f}"
        )
    record["seconds"] = first_steps()
    for name, seconds in record["seconds"].items():
        print(f"{name}: {seconds:.3f} s")
    if options.record:
        options.record.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
