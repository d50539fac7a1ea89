"""A run that goes on with the record of an earlier one, if that was asked for the same on the same machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steprule.bench.record import FORMAT, Record

SAME = ("cpu", "cores", "threads", "python", "torch", "numba", "steprule")
SAME_GPU = ("name", "capability", "driver", "cuda", "triton")
LARGEST = 2**28
"""Bytes beyond which a file is no record of ours."""


def resume(record: Record, path: Path) -> str | None:
    """Take over what an earlier run has done. Return why that cannot be, if there is a record that does not fit."""
    if not path.exists():
        return None
    try:
        earlier: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= LARGEST else {}
        cases = [told for told in earlier["cases"] if told["name"] and isinstance(told["arms"], dict)]
        seconds, start, reason = float(earlier["seconds"]), earlier["start"], _other(record, earlier)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "it is no record of a benchmark"
    if reason is None:
        record.before = [told for told in cases if not told.get("left_out")]
        record.earlier, record.start, record.cut = seconds, start, earlier.get("begun")
        record.written.add(path)
    return reason


def _other(record: Record, earlier: Mapping[str, Any]) -> str | None:
    """Return the first thing in which an earlier run differs."""
    mine, theirs = record.machine, earlier["machine"]
    if earlier["format"] != FORMAT:
        return f"it is of format {earlier['format']}"
    pairs = [
        *((f"--{name}", record.asked.get(name), (earlier.get("asked") or {}).get(name)) for name in record.asked),
        *((name, mine.get(name), theirs.get(name)) for name in SAME),
        *(
            (f"GPU's {name}", (mine.get("gpu") or {}).get(name), (theirs.get("gpu") or {}).get(name))
            for name in SAME_GPU
        ),
        ("commit", (mine.get("git") or {}).get("commit"), (theirs.get("git") or {}).get("commit")),
    ]
    return next((f"its {name} was {old}, and now is {new}" for name, new, old in pairs if new != old), None)
