"""State formats: bytes of every class a parameter, and times of a step of AdamW behind clipping beside torch's.

    python benchmarks/state_formats.py                     the table of bytes, as storages have them
    python benchmarks/state_formats.py --record            writes it down, for BENCHMARKS.md
    python benchmarks/state_formats.py --speed --threads 1 --size 124

Times are of one interleaved run: medians of ratios to torch's fused float32 step with `clip_grad_norm_`; of one thread
in seconds of the processor, of several in seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import steprule as sr

RECORD = Path(__file__).parent / "records" / "state-formats.json"
FORMATS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16 state": {"state": "bfloat16"},
    "8bit state": {"state": "8bit"},
    "seven bytes": {"state": "8bit", "rounding": "compensated8"},
}
CLASSES: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9}, "Adagrad": {}, "RMSprop": {}, "Adadelta": {}, "Adam": {}, "AdamW": {}, "Adamax": {},
    "NAdam": {}, "RAdam": {}, "Lion": {}, "AdaBelief": {}, "Yogi": {}, "ADOPT": {}, "AdEMAMix": {}, "Adan": {},
    "LAMB": {}, "LARS": {"momentum": 0.9},
}  # fmt: skip


def parameters(name: str, shapes: list[tuple[int, ...]]) -> list[torch.nn.Parameter]:
    """Make parameters with gradients, for a format."""
    dtype = torch.bfloat16 if name == "seven bytes" else torch.float32
    made = [torch.nn.Parameter((torch.randn(shape) * 0.02).to(dtype)) for shape in shapes]
    for parameter in made:
        parameter.grad = torch.randn_like(parameter) * 1e-3
    return made


def held(optimizer: torch.optim.Optimizer) -> float:
    """Return bytes of state a parameter, by the storages that hold it."""
    own = [p for group in optimizer.param_groups for p in group["params"]]
    values = [value for p in own for value in optimizer.state[p].values() if value.ndim]
    return sum(value.untyped_storage().nbytes() for value in values) / sum(p.numel() for p in own)


def table() -> list[dict[str, Any]]:
    """Return bytes a parameter: of the state, and of parameter, gradient and state together; a matrix and its bias."""
    rows: list[dict[str, Any]] = []
    for cls, options in CLASSES.items():
        row: dict[str, Any] = {"class": cls}
        for name, formats in FORMATS.items():
            own = parameters(name, [(512, 512), (512,)])
            optimizer = getattr(sr.optim, cls)(own, backend="eager", **options, **formats)
            optimizer.step()
            state = held(optimizer)
            row[name] = {"state": round(state, 3), "all": round(state + 2 * own[0].element_size(), 3)}
        rows.append(row)
    return rows


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table of bytes, for a page."""
    head = ["| class | " + " | ".join(FORMATS) + " |", "|---" + "|---:" * len(FORMATS) + "|"]
    cells = [[f"{row[name]['state']:g} ({row[name]['all']:g})" for name in FORMATS] for row in rows]
    return head + [f"| {row['class']} | {' | '.join(told)} |" for row, told in zip(rows, cells, strict=True)]


def section(record: dict[str, Any]) -> str:
    """Return the part of BENCHMARKS.md that a record makes."""
    told = [
        "## State in every format",
        "",
        f"`python benchmarks/state_formats.py --record`, steprule {record['steprule']}, torch {record['torch']}.",
        "",
        "Bytes a parameter of the state, as its storages have them, of a 512 by 512 matrix and its bias; in brackets",
        "with parameter and gradient. *Seven bytes* are bfloat16 parameters with",
        '`rounding="compensated8"` and `state="8bit"`. The bias keeps float32 where 8 bits',
        'are asked for, and takes them under `"8bit-all"`.',
        "",
    ]
    return "\n".join([*told, *lines(record["classes"]), ""])


def shapes_of(millions: float) -> list[tuple[int, ...]]:
    """Return shapes as a small GPT has, with about so many elements."""
    width, layers = 768, max(1, round((millions * 1e6 - 39e6) / 7.08e6)) if millions >= 46 else 0
    each: list[tuple[int, ...]] = [(768, 2304), (768, 768), (768, 3072), (3072, 768), (768,), (3072,)]
    return [*each * layers, (50257, width)] if layers else [(max(1, round(millions * 1e6 / width)), width)]


def speed(threads: int, millions: float, rounds: int) -> dict[str, Any]:
    """Time steps in turns."""
    torch.set_num_threads(threads)
    shapes, clock = shapes_of(millions), time.process_time if threads == 1 else time.perf_counter
    arms: dict[str, Callable[[], Any]] = {}
    theirs = parameters("float32", shapes)
    fused = torch.optim.AdamW(theirs, fused=True)

    def clipped() -> None:
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        fused.step()

    arms["torch fused, float32"] = clipped
    for name, formats in FORMATS.items():
        arms[name] = sr.optim.AdamW(parameters(name, shapes), clip=1.0, **formats).step
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 2):
        for name, step in arms.items():
            begin = clock()
            step()
            if turn > 1:
                seconds[name].append(clock() - begin)
    first = seconds["torch fused, float32"]
    ratios = {name: statistics.median(a / b for a, b in zip(first, own, strict=True)) for name, own in seconds.items()}
    told = {name: {"seconds": statistics.median(own), "ratio": round(ratios[name], 3)} for name, own in seconds.items()}
    return {
        "threads": threads,
        "elements": sum(map(_count, shapes)),
        "rounds": rounds,
        "torch": torch.__version__,
        **told,
    }


def _count(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def main() -> None:
    """Print what was asked for, as JSON or as a table."""
    asking = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asking.add_argument("--speed", action="store_true")
    asking.add_argument("--threads", type=int, default=1)
    asking.add_argument("--size", type=float, default=124, help="millions of elements")
    asking.add_argument("--rounds", type=int, default=15)
    asking.add_argument("--record", action="store_true", help="write the table of bytes to records/state-formats.json")
    given = asking.parse_args()
    if given.speed:
        print(json.dumps(speed(given.threads, given.size, given.rounds), indent=2))
        return
    made = {"torch": torch.__version__, "steprule": sr.__version__, "classes": table()}
    if given.record:
        RECORD.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print("\n".join(lines(made["classes"])))


if __name__ == "__main__":
    main()
