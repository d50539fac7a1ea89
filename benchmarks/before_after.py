"""Time a commit beside this tree: `python benchmarks/before_after.py --before COMMIT`, some minutes.

Two child processes of one interpreter live side by side, one with the package of COMMIT and one with that of this
tree, and take turns: in each round each of them, in changing order, times a few steps of AdamW with `clip=1.0`, whose
gradients are new tensors at every step, as after a backward pass. A line gives the median of after / before over the
rounds with its quartiles, and the medians in microseconds: below 1 this tree is quicker. Then fresh processes take
turns too: the first step from nothing (an empty cache folder), the first step from the cache, and the time that Adam's
kernel takes to compile. `--large` adds the shapes of GPT-2 small, `--flat` one tensor of 100 million numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from same_bits import ROOT, worktree

Shapes = list[list[int]]
SECONDS = 0.05
"""The steps of one round take about this long, or one step if it takes longer."""
SETS = 4
"""Sets of gradients, which take turns; a large model has one."""


def resnet() -> Shapes:
    """Return the shapes of ResNet-18."""
    shapes: Shapes = [[64, 3, 7, 7], [64], [64]]
    before = 64
    for width in (64, 128, 256, 512):
        for block in range(2):
            shapes += [[width, before, 3, 3], [width], [width], [width, width, 3, 3], [width], [width]]
            if before != width and block == 0:
                shapes += [[width, before, 1, 1], [width], [width]]
            before = width
    return [*shapes, [1000, 512], [1000]]


def gpt2() -> Shapes:
    """Return the shapes of GPT-2 small."""
    wide = 768
    layer: Shapes = [[wide], [wide], [wide, 3 * wide], [3 * wide], [wide, wide], [wide], [wide], [wide],
                     [wide, 4 * wide], [4 * wide], [4 * wide, wide], [wide]]  # fmt: skip
    return [[50257, wide], [1024, wide], *(12 * layer), [wide], [wide]]


CASES: dict[str, Shapes] = {
    "6 x 64": [[64]] * 6,
    "60 x 64": [[64]] * 60,
    "1000 x 64": [[64]] * 1000,
    "60 x 4096": [[4096]] * 60,
    "MLP 784-512-256-10": [[512, 784], [512], [256, 512], [256], [10, 256], [10]],
    "ResNet-18": resnet(),
    "GPT-2 small": gpt2(),
    "flat 100M": [[100_000_000]],
}
LARGE, FLAT = "GPT-2 small", "flat 100M"

# A child: the package of one commit --------------------------------------------------------------------------


class Case:
    """The optimiser of one case, with its sets of gradients."""

    def __init__(self, name: str, threads: int) -> None:
        import torch

        import steprule as sr

        torch.set_num_threads(threads)
        dice = torch.Generator().manual_seed(0)
        shapes = CASES[name]
        sets = 1 if name in {LARGE, FLAT} else SETS
        self.parameters = [torch.nn.Parameter(torch.empty(shape).normal_(generator=dice)) for shape in shapes]
        self.sets = [[torch.empty(shape).normal_(generator=dice) for shape in shapes] for _ in range(sets)]
        self.optimizer = sr.optim.AdamW(self.parameters, lr=1e-4, clip=1.0)
        self.turn = 0

    def step(self) -> float:
        """Give new gradients, step, and return the seconds of the step alone."""
        gradients = self.sets[self.turn % len(self.sets)]
        self.turn += 1
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient.view(gradient.shape)  # a new tensor
        began = time.perf_counter()
        self.optimizer.step()
        return time.perf_counter() - began


def serve() -> None:
    """Answer one question a line: build a case, or time some of its steps."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    case: Case | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        if "case" in asked:
            case = None  # its memory first
            case = Case(asked["case"], asked["threads"])
            answer: Any = min(case.step() for _ in range(4))
        else:
            assert case is not None
            answer = sum(case.step() for _ in range(asked["steps"])) / asked["steps"]
        print(json.dumps(answer), file=out, flush=True)


FIRST = """
import json, time, torch, steprule as sr
p = [torch.nn.Parameter(torch.ones(64)) for _ in range(6)]
for q in p: q.grad = torch.ones(64)
torch.optim.SGD(p, lr=0.0).step()
began = time.perf_counter()
optimizer = sr.optim.{name}(p, lr=1e-3{clip})
optimizer.step()
first = time.perf_counter() - began
print(json.dumps(first))
"""
"""The first step of a process, after torch has had one of its own."""

# The parent: both, in turns ------------------------------------------------------------------------------------


class Child:
    """A process with the package of one tree."""

    def __init__(self, source: Path, cache: Path) -> None:
        self.environment = {**os.environ, "PYTHONPATH": str(source), "STEPRULE_CACHE": str(cache)}
        self.cache = cache
        command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--child"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environment
        )

    def ask(self, **question: Any) -> float:
        """Ask, and wait for the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(question), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def first(self, name: str, clip: str, *, cached: bool) -> float:
        """Return the seconds of the first step of a fresh process."""
        if not cached:
            shutil.rmtree(self.cache, ignore_errors=True)
        command = [sys.executable, "-W", "ignore", "-c", FIRST.format(name=name, clip=clip)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def turns(rounds: int) -> Iterator[tuple[int, int]]:
    """Yield who goes first and who second, by chance and equally often."""
    order = [(0, 1), (1, 0)] * ((rounds + 1) // 2)
    random.Random(0).shuffle(order)  # noqa: S311 - an order, not a secret
    yield from order


def line(name: str, before: list[float], after: list[float]) -> str:
    """Return a case's ratio with its quartiles, and the medians in microseconds."""
    low, middle, high = statistics.quantiles([b / a for a, b in zip(before, after, strict=True)], n=4)
    times = f"{statistics.median(before) * 1e6:12,.1f} us -> {statistics.median(after) * 1e6:12,.1f} us"
    return f"{name:34} {middle:6.3f}  [{low:.3f}, {high:.3f}]  {times}"


def steps(pair: tuple[Child, Child], name: str, threads: int, rounds: int) -> str:
    """Time one case in both."""
    paces = [child.ask(case=name, threads=threads) for child in pair]
    count = max(1, round(SECONDS / max(*paces, 1e-6)))
    times: tuple[list[float], list[float]] = [], []
    for order in turns(rounds):
        for side in order:
            times[side].append(pair[side].ask(steps=count))
    return line(f"{name}, {threads} thread{'s' if threads > 1 else ''}", *times)


def starts(pair: tuple[Child, Child], rounds: int) -> Iterator[str]:
    """Time first steps in both, with and without a cache; of Adam's, what the kernel adds is its compilation."""
    found: dict[str, tuple[list[float], list[float]]] = {
        key: ([], []) for key in ("first step from nothing", "first step from cache", "compiling Adam")
    }
    for order in turns(rounds):
        for side in order:
            nothing, cache, compiling = found.values()
            nothing[side].append(pair[side].first("AdamW", ", clip=1.0", cached=False))
            cache[side].append(pair[side].first("AdamW", ", clip=1.0", cached=True))
            cold = pair[side].first("Adam", "", cached=False)
            compiling[side].append(cold - pair[side].first("Adam", "", cached=True))
    for name, times in found.items():
        yield line(name, *times)


def main() -> None:
    """Print a line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", metavar="COMMIT", help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=40, help="rounds of each case (default: 40)")
    parser.add_argument("--only", metavar="WORD", default="", help="cases whose name holds this word")
    parser.add_argument("--large", action="store_true", help="GPT-2 small too: 2 GB a process")
    parser.add_argument("--flat", action="store_true", help="a tensor of 100 million too: 1.6 GB a process")
    parser.add_argument("--starts", type=int, default=6, help="rounds of first steps (default: 6; 0: none)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        return serve()
    if not asked.before:
        parser.error("--before COMMIT is missing: the commit to compare with")
    with tempfile.TemporaryDirectory() as place, worktree(asked.before, Path(place) / "tree") as tree:
        pair = Child(tree / "src", Path(place) / "before"), Child(ROOT / "src", Path(place) / "after")
        print(f"{'':34} after / before, its quartiles, medians")
        left_out = ({LARGE} if not asked.large else set()) | ({FLAT} if not asked.flat else set())
        try:
            for name in [name for name in CASES if asked.only in name and name not in left_out]:
                for threads in (1, 2):
                    print(steps(pair, name, threads, asked.rounds), flush=True)
        finally:
            for child in pair:
                child.close()
        if asked.starts:
            print(*starts(pair, asked.starts), sep="\n")
    return None


if __name__ == "__main__":
    main()
