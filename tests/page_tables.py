"""The tables of pages that are made from the code and from records: which page has each, and how it is made.

A table stands between `<!-- name:begin -->` and `<!-- name:end -->`; `python tests/test_docs.py` writes it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import steprule as sr
from steprule.graph.gauges import MEANINGS

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import moves  # noqa: E402
import report  # noqa: E402

RECORDS = ROOT / "benchmarks" / "records"
MACHINE = "epyc-2-cores"
"""The record of which the tables of performance are made."""


def board() -> str:
    """Return the board's methods: name, formula as the printer writes it, defaults, first docstring line."""
    lines = ["| name | formula | defaults | what it is |", "|---|---|---|---|"]
    order = ["gd", "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "clip_norm", "clip_component"]
    assert sorted(order) == sorted(sr.board.__all__)
    variants = {
        "board": "The same, with the board's literal look-ahead.",
        "implicit": "The board's first line: g is taken at θₜ itself, where the step ends; a closure is needed.",
    }
    assert (*sr.board.nesterov.part.signature.choices["look_ahead"].options,) == ("momentum", *variants)
    rows = [(f"board.{name}", getattr(sr.board, name), getattr(sr.board, name).__doc__) for name in order]
    rows[4:4] = [
        (f'board.nesterov(look_ahead="{name}")', sr.board.nesterov(look_ahead=name), about)
        for name, about in variants.items()
    ]
    for name, program, doc in rows:
        equations = [line for line in sr.explain(program).formula.splitlines() if not line.endswith("= g*")]
        formula = "<br>".join(f"`{line}`" for line in equations)
        defaults = ", ".join(f"{hyper.name}={hyper.value:g}" for hyper in program.hypers.values())
        about = doc.splitlines()[0].replace("|", "\\|")
        lines.append(f"| `{name}` | {formula} | {defaults} | {about} |")
    return "\n".join(lines) + "\n"


def moved() -> str:
    """Return what a step of each method of the board moves, without and with a clipped global norm."""
    lines = ["| a step in float32 | passes, bytes a parameter | behind `clip_global_norm` | state, bytes a parameter |",
             "|---|---:|---:|---:|"]  # fmt: skip
    for name in ("sgd", "momentum", "adagrad", "rmsprop", "adam"):
        alone = sr.explain(getattr(sr.board, name))
        clipped = sr.explain(sr.chain(sr.clip_global_norm, getattr(sr.board, name)))
        sizes = [f"{len(one.passes)}, {one.bytes_per_parameter:g}" for one in (alone, clipped)]
        slots = 4 * len(getattr(sr.board, name).graph.slots)
        lines.append(f"| `board.{name}` | {sizes[0]} | {sizes[1]} | {slots} |")
    return "\n".join(lines) + "\n"


def gauges() -> str:
    """Return the gauges of every rule, with what each is."""
    return (
        "\n".join(["| gauge | is |", "|---|---|", *(f"| `{name}` | {told} |" for name, told in MEANINGS.items())])
        + "\n"
    )


def record(name: str) -> dict[str, Any]:
    """Return a committed record."""
    return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))


def timed(suite: str, *parts: str) -> str:
    """Return the rows of a suite whose names have all the parts, after a line that says where they were measured."""
    found = record(MACHINE)
    cases = [case for case in found["cases"] if case["suite"] == suite and all(part in case["name"] for part in parts)]
    assert cases, parts
    rows = report.table(suite, cases)[2:]
    return "\n".join([report.told_machine(found["machine"]).split(", Linux")[0] + ".", "", *rows]).strip() + "\n"


def begun() -> str:
    """Return what imports, first steps and peaks of memory are."""
    return "\n".join(f"- {line}" for line in report.start_lines(record(MACHINE)["start"])) + "\n"


def agreed() -> str:
    """Return each rule of a paper beside pytorch_optimizer's."""
    lines = ["| rule | apart | what differs |", "|---|---:|---|"]
    for row in record("agreement")["rules"]:
        for peer in (one for one in row["peers"] if one["package"] == "pytorch_optimizer"):
            kind = "" if peer["dtype"] == "float64" else f" in {peer['dtype']}"
            lines.append(f"| `{row['rule']}` | {moves.power(peer['apart'])}{kind} | {peer['differs']} |")
    return "\n".join(lines) + "\n"


TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "board": ("docs/understand/board.md", board),
    "gauges": ("docs/learn/gauges.md", gauges),
    "bytes": ("docs/understand/performance.md", moved),
    "large": ("docs/understand/performance.md", partial(timed, "large")),
    "small": ("docs/understand/performance.md", partial(timed, "small", "AdamW", "all threads, fresh gradients")),
    "start": ("docs/understand/performance.md", begun),
    "kozistr": ("docs/move/kozistr.md", agreed),
} | {name: (f"docs/move/{name}.md", partial(moves.table, name)) for name in moves.MOVES}


def parts(text: str, name: str) -> tuple[str, str, str]:
    """Split a page into what stands before, between and after a table's two marks."""
    before, begin, rest = text.partition(f"<!-- {name}:begin -->\n")
    table, end, after = rest.partition(f"<!-- {name}:end -->\n")
    assert end, f"the marks of the table {name!r} are missing"
    return before + begin, table, end + after


def rewrite() -> None:
    """Write all tables into their pages."""
    for name, (place, table) in TABLES.items():
        page = ROOT / place
        before, _, after = parts(page.read_text(encoding="utf-8"), name)
        page.write_text(before + table() + after, encoding="utf-8")
