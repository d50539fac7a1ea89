"""The table of a GPU: a row a case and a row each of our other ways, with the host's time and each peer's ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from steprule.bench.arms import COMPILED, COPY, FOREACH, FUSED_GRAPHED, FUSED_WIDE, OURS, OWN, REDUCED, SCALED
from steprule.bench.load import busy
from steprule.bench.record import columns, microseconds
from steprule.bench.verdict import NOISE, NOTHING, number, ratio, ratio_to

Case = Mapping[str, Any]

_HEADS = {
    FOREACH: "for-\neach",
    FUSED_GRAPHED: "fused\ngraph",
    SCALED: "grad_\nscale",
    FUSED_WIDE: "fused\nf32",
    COMPILED: "com-\npile",
    REDUCED: "com-\npile\ngraph",
}
LEGEND = (
    "µs: on the GPU; host: until a step has returned; GB/s: bytes that the formula must move, over the time; of copy: "
    "beside torch's copy of as many. The rest is how many times as long a peer's step takes as that of the row."
)


def short(case: Case) -> str:
    """Name a case without what is the same of all of them."""
    dtype = "" if case["dtype"] == "float32" else f"{case['dtype']} "
    clip = (
        "" if case["clip"] == "none" else " clipped" if case["clip"] == "global norm" else f" clipped by {case['clip']}"
    )
    return escape(f"{dtype}{case['rule']}{clip}, {case['workload']}")


def _time(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def _row(case: Case, name: str, label: str, peers: Sequence[str]) -> list[str]:
    arm, copy = case["arms"][name], case["arms"].get(COPY, {}).get("gigabytes_per_second")
    rate, host = arm.get("gigabytes_per_second"), arm.get("host_microseconds", {}).get("median")
    of_copy = f"{100 * rate / copy:.0f} %" if rate and copy else NOTHING
    worded = (ratio(case, peer) if name == OURS else ratio_to(case, peer, name) for peer in peers)
    moved = NOTHING if rate is None else f"{rate:,.0f}" if rate >= 10 else number(rate)
    return [
        label,
        _time(microseconds(case, name)),
        _time(host),
        moved,
        NOISE if busy(case.get("load")) else of_copy,
        *worded,
    ]


def rows(case: Case, peers: Sequence[str]) -> list[list[str]]:
    """Return the rows of a case: ours, and below it our other ways."""
    if "skipped" in case:
        return [[f"{short(case)} [dim]({'failed' if case.get('failed') else 'left out'})[/]"]]
    timed = [name for name in OWN if microseconds(case, name)]
    labels = {OURS: short(case)} | {name: f"  {name.removeprefix('steprule').strip(', ')}" for name in timed[1:]}
    return [_row(case, name, labels[name], peers) for name in timed]


def gpu_table(cases: Sequence[Case]) -> Table:
    """Return one table of all cases."""
    peers, _ = columns(cases)
    told = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
    told.add_column("\n\ncase", overflow="fold", min_width=20)
    for head in (
        "µs",
        "host\nµs",
        "GB/s",
        "of\ncopy",
        *(_HEADS.get(peer, peer.removeprefix("torch ")) for peer in peers),
    ):
        told.add_column("\n" * (2 - head.count("\n")) + head, justify="right", no_wrap=True)
    for case in cases:
        for row in rows(case, peers):
            told.add_row(*map(Text.from_markup, row))
    return told
