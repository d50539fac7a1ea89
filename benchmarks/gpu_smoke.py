"""The first look at a GPU: `python benchmarks/gpu_smoke.py --out FOLDER` (benchmarks/gpu.sh calls it), about a minute.

Steps of ours beside torch's: whether the numbers agree, whether a step waits for the GPU, and at four sizes how long a
step keeps the host and how many bytes a second it moves, beside a copy. Writes smoke.json as it goes. The exit code is
1 if anything is wrong, and 2 if there is no GPU.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from gpu_parts import NO_GPU, Results, asked, facts, host_and_device, none_here, row

import steprule as sr

WHERE = "benchmarks/gpu_smoke.py"
OURS, CLIPPED, FUSED, COPY = "steprule", "steprule, clip", "torch fused", "copy"
TENSORS = 9
SIZES, STEPS = ((6, 64), (60, 64), (1000, 64), (1, 10**8)), 50
TINY, FEW = ((2, 64), (3, 64), (5, 64), (1, 10**4)), 2
BYTES = {OURS: 28, CLIPPED: 32, FUSED: 28}
"""What a step must move for each float32 parameter: it, its gradient and two slots are read, and three are written."""
CASES: dict[str, tuple[str, dict[str, Any], torch.dtype, float]] = {
    "AdamW": ("AdamW", {"weight_decay": 0.1}, torch.float32, 2e-6),
    "AdamW float64": ("AdamW", {}, torch.float64, 1e-11),
    "SGD": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}, torch.float32, 2e-6),
    "AdamW bfloat16": ("AdamW", {"lr": 0.01}, torch.bfloat16, 2**-5),
}
"""The class, its options, the parameters' type, and how far a number may be from torch's, relative to it or to 1."""


def parameters(count: int, size: int, dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    """Make the same random parameters whenever they are asked for."""
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(size, device="cuda", dtype=dtype)) for _ in range(count)]


def fill(*sets: list[torch.nn.Parameter]) -> None:
    """Give all sets the same new gradients, in new memory."""
    for same in zip(*sets, strict=True):
        new = torch.randn_like(same[0])
        for parameter in same:
            parameter.grad = new.clone()


# Numbers ------------------------------------------------------------------------------------------------


def agreement(results: Results, name: str, size: int) -> None:
    """Take four clipped steps of ours and of torch's, and keep how far they are apart."""
    kind, options, dtype, close = CASES[name]
    ours, theirs = (parameters(TENSORS, size, dtype) for _ in range(2))
    mine = getattr(sr.optim, kind)(ours, clip=1.0, **options)
    other = getattr(torch.optim, kind)(theirs, fused=True, **options)
    for _ in range(4):
        fill(ours, theirs)
        mine.step()
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        other.step()
    apart = [(a.detach().double() - b.detach().double()).abs() / b.detach().double().abs().clamp(min=1)
             for a, b in zip(ours, theirs, strict=True)]  # fmt: skip
    worst = float(torch.stack([each.max() for each in apart]).max())
    backend = sr.explain(mine).backend
    wrong = None if worst <= close else f"{name} is {worst:.1e} from torch's, and {close:.1e} is allowed"
    if backend != "triton_gpu":
        wrong = f"{name} was run by {backend}: {sr.explain(mine).reason}"
    results.add("numbers", {"case": name, "apart": worst, "allowed": close}, wrong=wrong)
    print(f"{name}: {worst:.1e} from torch's ({close:.1e} is allowed)", flush=True)


# Waits --------------------------------------------------------------------------------------------------


def waits_of(step: Callable[[], Any], steps: int) -> int:
    """Return how often torch says that a step waited for the GPU."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(steps):
                step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(one.message) for one in said)


def waits(results: Results, steps: int) -> None:
    """Count the waits of steps that have new gradients and rates, a clipping, a guard and a scaler's `found_inf`."""
    own = parameters(TENSORS, 70_001 if steps == STEPS else 70)
    optimizer: Any = sr.optim.AdamW(own, clip=1.0, nonfinite="skip", fused=True)
    optimizer.grad_scale, optimizer.found_inf = (torch.full((), x, device="cuda") for x in (8.0, 0.0))
    fill(own)
    optimizer.step()
    taken = [0]

    def step() -> None:
        taken[0] += 1
        fill(own)
        optimizer.param_groups[0]["lr"] = 1e-4 * taken[0]
        optimizer.step()

    found = waits_of(step, steps)
    results.add("waits", {"steps": steps, "waits": found}, wrong=f"{found} waits in {steps} steps" if found else None)
    print(f"waits for the GPU in {steps} steps: {found}", flush=True)


# Times --------------------------------------------------------------------------------------------------


def arms(count: int, size: int) -> dict[str, Callable[[], Any]]:
    """Return what makes each arm's step: an arm has the GPU's memory for itself."""

    def made(make: Callable[[Any], torch.optim.Optimizer]) -> Callable[[], Any]:
        own = parameters(count, size)
        fill(own)
        return make(own).step

    return {
        OURS: lambda: made(sr.optim.AdamW),
        CLIPPED: lambda: made(lambda own: sr.optim.AdamW(own, clip=1.0)),
        FUSED: lambda: made(lambda own: torch.optim.AdamW(own, fused=True)),
    }


def times(results: Results, count: int, size: int, steps: int) -> None:
    """Time each arm at one size."""
    for name, make in arms(count, size).items():
        rate(results, (count, size, name), make(), BYTES[name] * count * size, steps)
    torch.cuda.empty_cache()


def copied(results: Results, size: int, steps: int) -> None:
    """Time a copy of as many bytes as an unclipped step of the largest size moves."""
    one = torch.ones(14 * size, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(one)
    rate(results, (1, size, COPY), lambda: other.copy_(one), 28 * size, steps)


def rate(results: Results, told: tuple[int, int, str], step: Callable[[], Any], moved: int, steps: int) -> None:
    """Time one arm, and keep and print its row."""
    host, each = host_and_device(step, steps)
    results.add("times", dict(zip(("tensors", "elements", "arm"), told, strict=True)) | row(host, each, moved))
    print(f"{told[0]} x {told[1]:,}, {told[2]}: host {host * 1e6:.0f} µs, a step {each * 1e6:.0f} µs, "
          f"{moved / each / 1e9:.0f} GB/s", flush=True)  # fmt: skip


def look(results: Results, sizes: tuple[tuple[int, int], ...], steps: int) -> None:
    """Do everything."""
    for name in CASES:
        results.part("numbers", lambda name=name: agreement(results, name, 70_001 if steps == STEPS else 70))
    results.part("waits", lambda: waits(results, steps))
    for count, size in sizes:
        results.part("times", lambda count=count, size=size: times(results, count, size, steps))
    results.part("times", lambda: copied(results, sizes[-1][1], steps))


def main(arguments: list[str] | None = None) -> int:
    """Look, and say whether all is well."""
    told, place = asked(__doc__ or "", WHERE, arguments)
    with place:
        if missing := none_here(f"python {WHERE}"):
            print(missing, file=sys.stderr)
            return NO_GPU
        results = Results(told.out / "smoke.json", {"rehearsal": told.rehearse, **facts()})
        print(*(f"{key} {value}" for key, value in results.document["gpu"].items()), sep=", ", flush=True)
        look(results, *((TINY, FEW) if told.rehearse else (SIZES, STEPS)))
    for wrong in results.failed:
        print(f"Wrong: {wrong}", flush=True)
    return int(bool(results.failed))


if __name__ == "__main__":
    sys.exit(main())
