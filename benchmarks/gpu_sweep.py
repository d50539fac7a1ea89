"""Which sizes of a kernel's build are quickest here: `python benchmarks/gpu_sweep.py --out FOLDER`, by gpu_sweep.sh.

AdamW of one large tensor, in float32 and bfloat16, plain and clipped, is timed for several blocks, chunks and numbers
of warps, and with gradients of zero (which some memory compresses), and one element off a multiple of 16 bytes. Beside
it stand a copy of as many bytes and torch's fused step. Writes sweep.json as it goes, and names what there was no time
for.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from gpu_parts import NO_GPU, Results, asked, facts, host_and_device, none_here, row

import steprule as sr
from steprule.backends.triton_build import Build, building

WHERE = "benchmarks/gpu_sweep.py"
DTYPES = (torch.float32, torch.bfloat16)
FIRST = Build()
BUILDS = (
    FIRST,
    *(Build(chunk=size) for size in (8192, 16384, 65536)),
    *(Build(warps=warps) for warps in (2, 8)),
    Build(block=512),
    Build(block=2048, chunk=16384, warps=8),
    Build(block=2048, chunk=8192),
    Build(block=4096, chunk=16384, warps=8),
    Build(block=512, chunk=2048, warps=2),
    Build(block=1024, chunk=32768, warps=8),
)
"""The most promising first."""
PLAIN, CLIPPED = (None, 7), (1.0, 8)
"""The bound on the norm, and how many times a step walks over an array of the parameter's size."""
SECONDS, STEPS, SIZE = 140.0, 20, 125_000_000
LARGEST = 28
"""Bytes an element of what is made for one arm: two arrays that are copied."""
TINY, FEW = 5000, 1


def name(build: Build) -> str:
    """Name a build by its sizes."""
    return f"block {build.block}, chunk {build.chunk}, {build.warps} warps"


def fitting(most: int) -> int:
    """Return how many elements to take, so that what is made of them fits into half of the free memory."""
    free, _ = torch.cuda.mem_get_info()
    return min(most, free // 2 // LARGEST)


class Sweep:
    """One run: the tensors, the clock, and what was found."""

    def __init__(self, results: Results, *, size: int, steps: int, seconds: float) -> None:
        self.results, self.size, self.steps = results, size, steps
        self.ends = time.monotonic() + seconds

    def rate(self, arm: str, dtype: torch.dtype, step: Callable[[], Any], walks: int, more: dict[str, Any]) -> None:
        """Time one arm, and keep and print its row."""
        host, each = host_and_device(step, self.steps)
        told = {
            "arm": arm,
            "dtype": str(dtype).removeprefix("torch."),
            **more,
            **row(host, each, walks * dtype.itemsize * self.size),
        }
        self.results.add("rates", told)
        print(f"{told['dtype']:>8}  {arm:<42} {told['gigabytes_per_second']:>8.0f} GB/s", flush=True)

    def made(self, dtype: torch.dtype, *, zeros: bool = False, offset: int = 0) -> torch.nn.Parameter:
        """Make the large tensor, with its gradient."""
        torch.manual_seed(0)
        whole = torch.randn(self.size + offset, device="cuda", dtype=dtype)
        parameter = torch.nn.Parameter(whole[offset:])
        gradient = torch.zeros_like(whole) if zeros else torch.randn_like(whole)
        parameter.grad = gradient[offset:]
        return parameter

    def ours(self, arm: str, dtype: torch.dtype, build: Build, kind: tuple[float | None, int], **how: Any) -> None:
        """Time our step under a build, unless no time is left."""
        clip, walks = kind
        told = {"clip": clip, "block": build.block, "chunk": build.chunk, "warps": build.warps}
        label = arm + (", clipped" if clip else "")
        if time.monotonic() > self.ends:
            self.results.add("left_out", {"arm": label, "dtype": str(dtype), **told})
            return
        with building(build):
            optimizer = sr.optim.AdamW([self.made(dtype, **how)], clip=clip)
            self.rate(label, dtype, optimizer.step, walks, told)

    def copy(self, dtype: torch.dtype) -> None:
        """Time a copy of the bytes of a plain step."""
        half = torch.ones((2, 7 * dtype.itemsize * self.size // 2), dtype=torch.uint8, device="cuda")
        self.rate("copy", dtype, lambda: half[0].copy_(half[1]), 7, {})

    def fused(self, dtype: torch.dtype) -> None:
        """Time torch's fused step."""
        self.rate("torch fused", dtype, torch.optim.AdamW([self.made(dtype)], fused=True).step, 7, {})

    def run(self) -> None:
        """Do everything; one build that fails stops no other."""
        for dtype in DTYPES:
            for peer in (self.copy, self.fused):
                self.results.part("rates", lambda dtype=dtype, peer=peer: peer(dtype))
        for build in BUILDS:
            for dtype in DTYPES:
                for kind in (PLAIN, CLIPPED):
                    work = (name(build), dtype, build, kind)
                    self.results.part("rates", lambda work=work: self.ours(*work))
            if build is FIRST:
                self.odd()
            torch.cuda.empty_cache()

    def odd(self) -> None:
        """Time gradients of zero, and tensors one element off."""
        for dtype in DTYPES:
            for label, how in (("zeros", {"zeros": True}), ("one element off", {"offset": 1})):
                self.results.part(
                    "rates", lambda dtype=dtype, label=label, how=how: self.ours(label, dtype, FIRST, PLAIN, **how)
                )


def best(document: dict[str, Any]) -> list[tuple[float, str]]:
    """Rank the builds by the geometric mean of their rates over the copy's; those that were timed in every way."""
    rows = document.get("rates", [])
    copies = {told["dtype"]: told["gigabytes_per_second"] for told in rows if told.get("arm") == "copy"}
    found: dict[str, list[float]] = {}
    for told in rows:
        if "block" in told and told["arm"].startswith("block") and told["dtype"] in copies:
            own = name(Build(block=told["block"], chunk=told["chunk"], warps=told["warps"]))
            found.setdefault(own, []).append(told["gigabytes_per_second"] / copies[told["dtype"]])
    ways = max(map(len, found.values()), default=0)
    whole = {own: math.exp(sum(map(math.log, shares)) / ways) for own, shares in found.items() if len(shares) == ways}
    return sorted(((share, own) for own, share in whole.items()), reverse=True)


def main(arguments: list[str] | None = None) -> int:
    """Sweep, and name the best."""
    told, place = asked(__doc__ or "", WHERE, arguments)
    with place:
        if missing := none_here(f"python {WHERE}"):
            print(missing, file=sys.stderr)
            return NO_GPU
        results = Results(told.out / "sweep.json", {"rehearsal": told.rehearse, **facts()})
        size, steps = (TINY, FEW) if told.rehearse else (fitting(SIZE), STEPS)
        results.document["elements"] = size
        print(*(f"{key} {value}" for key, value in results.document["gpu"].items()), sep=", ", flush=True)
        Sweep(results, size=size, steps=steps, seconds=SECONDS).run()
        ranked = best(results.document)
        results.document["best"] = [{"build": own, "of_copy": round(share, 4)} for share, own in ranked]
        results.write()
    for share, own in ranked:
        print(f"{100 * share:6.1f} % of the copy: {own}", flush=True)
    if ranked:
        print(f"The best choice here: {ranked[0][1]}.", flush=True)
    if left := results.document.get("left_out"):
        print(f"{len(left)} were left out: no time was left.", flush=True)
    for wrong in results.failed:
        print(f"Wrong: {wrong}", flush=True)
    return int(bool(results.failed))


if __name__ == "__main__":
    sys.exit(main())
