"""Steps of Muon beside torch's, and how exact their Newton-Schulz iterations are.

    python benchmarks/matrices.py            two minutes; prints the table
    python benchmarks/matrices.py --record   writes it down, for BENCHMARKS.md

One interleaved run with torch's own number of threads: GPT-2 small's 48 hidden matrices by Muon and the rest by AdamW,
in torch by its fused kernel; and 126 matrices of 64 to 256 rows and columns. Ratios are medians of pairs of neighbours.
Errors are against float64, of matrices whose singular values go from 1 to 1e-4.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import steprule as sr
from steprule.backends import torch_ops
from steprule.bench.machine import machine
from steprule.graph.ops import COEFFICIENTS

RECORD = Path(__file__).parent / "records" / "matrices.json"
HIDDEN = [(2304, 768), (768, 768), (3072, 768), (768, 3072)] * 12
REST = [(50257, 768), (1024, 768), *[(768,)] * 50, *[(2304,), (768,), (3072,), (768,)] * 12]
SIZES = (64, 128, 192, 256)


def made(shapes: list[tuple[int, ...]]) -> list[torch.nn.Parameter]:
    """Make parameters with gradients."""
    parameters = [torch.nn.Parameter(torch.randn(shape) * 0.02) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter) * 1e-3
    return parameters


def arms(hidden: list[Any], rest: list[Any]) -> dict[str, Callable[[], Any]]:
    """Return the steps that are compared; all of them move the same parameters."""

    def together(muon: Any, adamw: Any) -> Callable[[], Any]:
        return lambda: (muon.step(), adamw.step() if adamw else None)

    torchs = torch.optim.AdamW(rest, fused=True) if rest else None
    ours = sr.optim.AdamW(rest) if rest else None
    return {
        "torch": together(torch.optim.Muon(hidden), torchs),
        "steprule": together(sr.optim.Muon(hidden), ours),
        "steprule, Gram form": together(sr.optim.Muon(hidden, gram=True), ours),
    }


def timed(steps: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Time steps in turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            times[name] += [time.perf_counter() - begin] if turn else []  # the first compiles
    pairs = {name: [a / b for a, b in zip(times["torch"], own, strict=True)] for name, own in times.items()}
    return {name: {"seconds": statistics.median(own), "quartiles": statistics.quantiles(own, n=4)[::2],
                   "ratio": statistics.median(pairs[name])} for name, own in times.items()}  # fmt: skip


def errors(shapes: tuple[tuple[int, int], ...] = ((256, 256), (256, 1024), (768, 3072))) -> dict[str, list[float]]:
    """Return relative errors of iterations."""
    from torch.optim._muon import _zeropower_via_newtonschulz as torchs

    args = (*COEFFICIENTS, 1e-7, 5.0)
    found: dict[str, list[float]] = {"torch": [], "steprule": [], "steprule, Gram form": []}
    for rows, columns in shapes:
        left, right = (torch.linalg.qr(torch.randn(n, rows, dtype=torch.float64))[0] for n in (rows, columns))
        x = (left * torch.logspace(0, -4, rows, dtype=torch.float64)) @ right.T
        exact = torch_ops.orthogonalize(x, *args)
        results = [torchs(x.float(), COEFFICIENTS, 5, 1e-7), torch_ops.orthogonalize(x.float(), *args),
                   torch_ops.orthogonalize_gram(x.float(), *args)]  # fmt: skip
        for own, result in zip(found.values(), results, strict=True):
            own.append(float((result.double() - exact).norm() / exact.norm()))
    return found


def measured(rounds: int) -> dict[str, Any]:
    """Measure everything."""
    torch.manual_seed(0)
    draw = random.Random(0)  # noqa: S311
    small = made([(draw.choice(SIZES), draw.choice(SIZES)) for _ in range(126)])
    before = os.getloadavg()[0]
    cases = {"126 matrices of 64 × 64 to 256 × 256": timed(arms(small, []), 4 * rounds)}
    cases["GPT-2 small, 48 matrices, AdamW on the rest"] = timed(arms(made(HIDDEN), made(REST)), rounds)
    told = {"threads": torch.get_num_threads(), "load before": before, "load after": os.getloadavg()[0]}
    return {"page": "matrices", "machine": machine(torch.get_num_threads()), **told, "cases": cases, "errors": errors()}


def section(record: dict[str, Any]) -> str:
    """Return the part of BENCHMARKS.md that a record gives."""
    names = list(record["errors"])
    lines = ["## Matrices: Muon", "",
             (f"`python benchmarks/matrices.py --record`, on {record['machine']['cpu']}, {record['threads']} threads, "
              f"load {record['load before']:.1f} before; seconds a step, and how many times quicker than torch."), "",
             f"| | {' | '.join(names)} |", "|---|" + "---|" * len(names)]  # fmt: skip
    for case, own in record["cases"].items():
        cells = [f"{own[name]['seconds']:.3g} s, {own[name]['ratio']:.2f} ×" for name in names]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    cells = [", ".join(f"{error:.3f}" for error in record["errors"][name]) for name in names]
    lines.append(f"| error on singular values 1 to 1e-4, 256 × 256, 256 × 1024, 768 × 3072 | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, print, and write down if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write the record")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each arm")
    given = parser.parse_args()
    record = measured(given.rounds)
    print(section(record))
    if given.record:
        RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
