"""A benchmark's record in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from steprule.bench.arms import OURS
from steprule.bench.record import best_peer, columns, losses, microseconds, ratios, start_lines
from steprule.lab.report.words import NONE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    Case = Mapping[str, Any]

LOSS = "▼"


def time_of(microseconds: float | None) -> str:
    """Word a time with three digits and its unit."""
    if microseconds is None:
        return NONE
    if microseconds >= 1000:
        return f"{microseconds / 1000:#.3g}".rstrip(".") + " ms"
    return f"{microseconds:#.3g}".rstrip(".") + " µs"


def _ratio(value: float | None) -> str:
    if value is None:
        return NONE
    told = f"{value:.3f}" if 0.995 <= value < 1 else f"{value:.2f}" if value < 10 else f"{value:.0f}"
    return f"[bold red]{told} {LOSS}[/]" if value < 1 else told


def _row(case: Case, peers: Sequence[str], beside: Sequence[str]) -> list[str]:
    """Return a case's cells: our time, its quartiles, the quickest peer, the ratio to each, and what stands beside."""
    name = escape(case["name"])
    if "skipped" in case:
        return [name, f"[red]{escape(case['skipped'])}[/]"]
    own, found, best = case["arms"][OURS]["microseconds"], ratios(case), best_peer(case)
    between = f"{time_of(own['p25'])} – {time_of(own['p75'])}"
    quickest = f"{time_of(microseconds(case, best))} {best}" if best else NONE
    others = [microseconds(case, arm) for arm in beside]
    shares = [f"{100 * other / own['median']:.0f} %" if other else NONE for other in others]
    return [name, time_of(own["median"]), between, quickest, *(_ratio(found.get(peer)) for peer in peers), *shares]


def table(title: str, cases: Sequence[Case]) -> Table:
    """Return the table of one suite."""
    peers, beside = columns(cases)
    told = Table(title=title, box=None, padding=(0, 1), pad_edge=False, header_style="bold", title_style="italic")
    told.add_column("case", overflow="fold", min_width=24)
    heads = ("\nsteprule", "\nquartiles", "quickest\npeer", *(f"×\n{peer.removeprefix('torch ')}" for peer in peers))
    for header in (*heads, *(f"{arm}\nof ours" for arm in beside)):
        told.add_column(header, justify="right", overflow="fold")
    for case in cases:
        told.add_row(*_row(case, peers, beside))
    return told


def show(console: Console, document: Mapping[str, Any]) -> None:
    """Print every suite, what was left out and why, and where we lose."""
    suites = dict.fromkeys(case["suite"] for case in document["cases"])
    for suite in suites:
        console.print(table(suite, [case for case in document["cases"] if case["suite"] == suite]))
        console.print()
    for line in start_lines(document["start"]):
        console.print(escape(line), highlight=False)
    reasons: dict[str, None] = {}
    for case in document["cases"]:
        reasons |= {f"{name}: {arm['skipped']}": None for name, arm in case["arms"].items() if "skipped" in arm}
    for reason in reasons:
        console.print(escape(f"Left out: {reason}"), style="dim", highlight=False)
    if suites:
        _tell_losses(console, losses(document))


def _tell_losses(console: Console, lost: Sequence[tuple[str, str, float]]) -> None:
    told = "× is how many times as long a peer's step takes as ours; "
    told += f"below 1 ({LOSS}) it is quicker:" if lost else "nowhere here is one quicker."
    console.print(told, highlight=False)
    for name, peer, ratio in lost:
        console.print(f"{_ratio(ratio)} {peer}: {escape(name)}", highlight=False)
