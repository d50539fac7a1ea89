"""A benchmark's record in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from steprule.bench.arms import OURS
from steprule.bench.bars import missed
from steprule.bench.gpu import DEVICE
from steprule.bench.gpu_table import LEGEND, gpu_table
from steprule.bench.load import busy
from steprule.bench.record import best_peer, columns, losses, microseconds, slower, start_lines, summary
from steprule.bench.verdict import LOSS, NOISE, NOTHING, ratio, share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    Case = Mapping[str, Any]


def time_of(microseconds: float | None) -> str:
    """Word a time with three digits and its unit."""
    if microseconds is None:
        return NOTHING
    if microseconds >= 1000:
        return f"{microseconds / 1000:#.3g}".rstrip(".") + " ms"
    return f"{microseconds:#.3g}".rstrip(".") + " µs"


def _marked(told: str) -> str:
    """Colour a ratio: red for a loss, dim for noise."""
    return f"[bold red]{told}[/]" if LOSS in told else f"[dim]{told}[/]" if told == NOISE else told


def _row(case: Case, peers: Sequence[str], beside: Sequence[str]) -> list[str]:
    """Return a case's cells: our time, its quartiles, the quickest peer, the ratio to each, and what stands beside."""
    disturbed = busy(case.get("load"))
    name = escape(case["name"]) + (" [dim](busy)[/]" if disturbed else "")
    if "skipped" in case:
        return [name, f"[red]{escape(case['skipped'])}[/]"]
    own, best = case["arms"][OURS]["microseconds"], best_peer(case)
    between = f"{time_of(own['p25'])} – {time_of(own['p75'])}"
    quickest = NOISE if disturbed else f"{time_of(microseconds(case, best))} {best}" if best else NOTHING
    shares = [share(case, arm) for arm in beside]
    return [name, time_of(own["median"]), between, quickest, *(_marked(ratio(case, peer)) for peer in peers), *shares]


def table(title: str, cases: Sequence[Case]) -> Table:
    """Return the table of one suite."""
    peers, beside = columns(cases)
    told = Table(title=title, box=None, padding=(0, 1), pad_edge=False, header_style="bold", title_style="italic")
    told.add_column("case", overflow="fold", min_width=24)
    heads = ("\nsteprule", "\nquartiles", "quickest\npeer", *(f"×\n{peer.removeprefix('torch ')}" for peer in peers))
    for header in (*heads, *(f"{arm}\nof ours" for arm in beside)):
        told.add_column(header, justify="right", overflow="fold")
    for case in cases:
        told.add_row(*map(Text.from_markup, _row(case, peers, beside)))
    return told


def show(console: Console, document: Mapping[str, Any]) -> None:
    """Print every suite, what was left out and why, and where we lose; of a GPU, one table of all, which comes last."""
    there, here = (
        [case for case in document["cases"] if (case["device"] == DEVICE) == on_gpu] for on_gpu in (True, False)
    )
    for suite in dict.fromkeys(case["suite"] for case in here):
        console.print(table(suite, [case for case in here if case["suite"] == suite]))
        console.print()
    for line in (*start_lines(document["start"]), *slower(document)):
        console.print(Text(line))
    reasons: dict[str, None] = {}
    for case in document["cases"]:
        reasons |= {f"{name}: {arm['skipped']}": None for name, arm in case["arms"].items() if "skipped" in arm}
        reasons |= {f"{case['name']}: {case['skipped']}": None} if "skipped" in case else {}
    for reason in reasons:
        console.print(Text(f"Left out: {reason}", "dim"))
    if document["cases"]:
        console.print(Text("× is how many times as long a peer's step takes as ours: ~ is rough, below 1 "
                      f"({LOSS}) the peer is quicker. {summary(document)}"))  # fmt: skip
    cases = {case["name"]: case for case in document["cases"]}
    for name, peer, _ in losses(document):
        console.print(Text.from_markup(f"{_marked(ratio(cases[name], peer))} {peer}: {escape(name)}"))
    for told in missed(document):
        console.print(Text(f"Missed: {told}"))
    if there:
        console.print(Text(LEGEND))
        console.print(gpu_table(there))
