"""One table of all that benchmarks/gpu.sh found: `python benchmarks/gpu_table.py FOLDER`, which reads what lies there.

Whatever a part has left is told, also if it was cut off; what is missing is said to be.
"""

from __future__ import annotations

import json
import re
import sys
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from steprule.bench.gpu_table import LEGEND, gpu_table
from steprule.bench.record import errors

WIDTH = 100
MOST = 12
"""Failed tests that are named."""
Row = tuple[str, ...]


def read(path: Path) -> dict[str, Any]:
    """Return a document, or an empty one if it is not there or is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def table(rows: list[Row]) -> list[str]:
    """Set rows in columns: words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) if place == 0 else cell.rjust(width)
                  for place, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]  # fmt: skip


def smoke(found: dict[str, Any]) -> list[str]:
    """Word the first look: numbers, waits, then times."""
    if not found:
        return ["smoke: nothing was written"]
    numbers = found.get("numbers", [])
    good = sum("wrong" not in row for row in numbers)
    waits = [str(row["waits"]) for row in found.get("waits", []) if "waits" in row]
    lines = [f"smoke: {good} of {len(numbers)} optimisers agree with torch; waits: {', '.join(waits) or 'not counted'}"]
    lines += [f"  wrong: {told}"[:WIDTH] for told in found.get("failed", [])]
    rows: list[Row] = [("  tensors x elements, arm", "host µs", "step µs", "GB/s")]
    rows += [
        (f"  {row['tensors']} x {row['elements']:,}, {row['arm']}", f"{row['host_microseconds']:.0f}",
         f"{row['microseconds']:.0f}", f"{row['gigabytes_per_second']:.0f}")
        for row in found.get("times", []) if "microseconds" in row
    ]  # fmt: skip
    return lines + table(rows)


def rung(path: Path) -> list[str]:
    """Word what pytest said: its last line, and the names of what failed."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ["rung: nothing was written"]
    ends = [line.strip("= ") for line in lines if re.search(r"\d (passed|failed|skipped|error).* in [\d.]+s", line)]
    bad = [line for line in lines if line.startswith(("FAILED", "ERROR "))]
    told = [
        f"rung: {ends[-1] if ends else 'was cut off before its end'}",
        *(f"  {line}"[:WIDTH] for line in bad[:MOST]),
    ]
    return told + ([f"  and {len(bad) - MOST} more: see {path.name}"] if len(bad) > MOST else [])


def bench(found: dict[str, Any]) -> list[str]:
    """Print the bench's own table, below what failed in it."""
    if not found:
        return ["bench: nothing was written"]
    cases = found.get("cases", [])
    timed = sum("skipped" not in case for case in cases)
    told = [f"bench: {timed} cases timed{'' if found.get('complete') else ', cut off before its end'}"]
    told += [f"  {line}"[:WIDTH] for line in errors(found)]
    if not cases:
        return told
    page = StringIO()
    console = Console(file=page, width=WIDTH, color_system=None)
    console.print(LEGEND, gpu_table(cases), sep="\n")
    return told + [line.rstrip() for line in page.getvalue().splitlines()]


def lines(folder: Path) -> list[str]:
    """Return the whole table."""
    first, timed = read(folder / "smoke.json"), read(folder / "bench.json")
    about = first.get("gpu", {})
    head = [", ".join(f"{about[key]}" for key in ("name", "driver_version", "power.limit") if key in about)]
    if first.get("rehearsal"):
        head.append("A rehearsal in main memory: times mean nothing.")
    return [*filter(None, head), *smoke(first), *rung(folder / "rung.log"), *bench(timed)]


if __name__ == "__main__":
    print("\n".join(lines(Path(sys.argv[1]))))
