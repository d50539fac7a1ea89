"""One picture of a record: bytes a second against the roofline, and microseconds against the number of tensors."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from steprule.bench.arms import (
    COMPILED,
    COPY,
    FOREACH,
    FUSED,
    FUSED_GRAPHED,
    GRAPHED,
    LOOP,
    OPTAX,
    OURS,
    REDUCED,
    ROOFLINE,
    SCALED,
)
from steprule.bench.record import best_peer
from steprule.bench.record import microseconds as _median
from steprule.bench.verdict import vague

Case = Mapping[str, Any]

INK, MUTED, GRID, PAPER = "#1d2430", "#667085", "#dfe3e8", "#ffffff"
COLOURS = {
    OURS: "#d2470d",
    LOOP: "#5c6370",
    FOREACH: "#b87d0a",
    FUSED: "#123f9c",
    SCALED: "#2f8fce",
    FUSED_GRAPHED: "#6a86c9",
    GRAPHED: "#f0986b",
    COMPILED: "#b4509e",
    REDUCED: "#d79bcb",
    OPTAX: "#008f6b",
    ROOFLINE: "#98a2b3",
    COPY: "#98a2b3",
}
"""After Okabe and Ito, darkened until they can be read on white."""
MARKS = {
    OURS: "o",
    LOOP: "s",
    FOREACH: "D",
    FUSED: "^",
    SCALED: "v",
    FUSED_GRAPHED: "<",
    GRAPHED: ">",
    COMPILED: "P",
    REDUCED: "p",
    OPTAX: "X",
    ROOFLINE: "|",
    COPY: "|",
}

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "steprule",
    "font.family": ["DejaVu Sans"],
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


def rates(cases: Sequence[Case]) -> list[Case]:
    """Return the cases in main memory: only their bytes a second mean something."""
    return [
        case
        for case in cases
        if case["memory_bound"] and _rate(case, OURS) and case["suite"] not in {"clipping", "half"}
    ]


def counts(cases: Sequence[Case]) -> list[Case]:
    """Return the cases that differ only in how many tensors of one small size there are: few, then many."""
    found = [case for case in cases if case["suite"] == "small" and case["workload"].endswith(" x 64")]
    found = [case for case in found if case["clip"] != "none" and case["rule"] == "AdamW" and _median(case, OURS)]
    for gradients in ("fresh", "same"):
        alike = [case for case in found if case["gradients"] == gradients]
        if alike:
            most = max(case["threads"] for case in alike)
            return sorted((case for case in alike if case["threads"] == most), key=lambda case: case["tensors"])
    return []


def _rate(case: Case, arm: str) -> float | None:
    return case["arms"].get(arm, {}).get("gigabytes_per_second")


def _host(case: Case, arm: str) -> float | None:
    return case["arms"].get(arm, {}).get("host_microseconds", {}).get("median")


def _label(case: Case) -> str:
    clip = "" if case["clip"] == "none" else f" + clip {case['clip']}"
    threads = "1 thread" if case["threads"] == 1 else f"{case['threads']} threads"
    return f"{case['rule']}{clip} · {case['workload']} · {'GPU' if case.get('device') == 'cuda' else threads}"


def _mark(case: Case, arm: str) -> dict[str, Any]:
    """Return the colours of a mark, which is hollow if the ratio decides nothing."""
    return {"color": COLOURS[arm], "markerfacecolor": PAPER if vague(case, arm) else COLOURS[arm]}


def _draw_rates(axes: Any, cases: Sequence[Case]) -> None:
    """Draw a row a case: ours, the quickest peer, and the roofline or copy as the end of the row's bar."""
    for row, case in enumerate(cases):
        roof, own, peer = _rate(case, ROOFLINE) or _rate(case, COPY), _rate(case, OURS), best_peer(case)
        if roof:
            axes.barh(-row, roof, height=0.62, color=GRID, zorder=1)
            axes.plot([roof], [-row], "|", color=COLOURS[ROOFLINE], markersize=13, markeredgewidth=2.5, zorder=2)
        if peer:
            beside = _rate(case, peer)
            axes.plot([beside], [-row], MARKS[peer], **_mark(case, peer), markersize=7, zorder=3)
        axes.plot([own], [-row], MARKS[OURS], **_mark(case, OURS), markersize=8, zorder=4)
    axes.set_yticks([-row for row in range(len(cases))], [_label(case) for case in cases])
    axes.set_ylim(-len(cases) + 0.4, 0.6)
    axes.set_xlim(left=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("bytes the formula must move, over the time of a step (GB/s): more is better")
    axes.set_title("Against what memory allows, and the quickest peer", loc="left", fontsize=12)


def _draw_counts(axes: Any, cases: Sequence[Case]) -> None:
    """Draw a line an arm; both scales are logarithmic."""
    for arm, colour in COLOURS.items():
        points = [(case["tensors"], _median(case, arm)) for case in cases]
        x, y = [a for a, b in points if b], [b for _, b in points if b]
        if x:
            width = 2.6 if arm == OURS else 1.4
            axes.plot(
                x, y, marker="." if arm in {ROOFLINE, COPY} else MARKS[arm], color=colour, linewidth=width, markersize=7
            )
            for case in cases:
                if _median(case, arm) and arm not in {ROOFLINE, COPY} and vague(case, arm):
                    axes.plot([case["tensors"]], [_median(case, arm)], MARKS[arm], **_mark(case, arm), markersize=7)
    for arm in (OURS, FUSED):  # on a GPU, what the host is busy for
        points = [(case["tensors"], _host(case, arm)) for case in cases if case.get("device") == "cuda"]
        if x := [a for a, b in points if b]:
            y = [b for _, b in points if b]
            axes.plot(x, y, linestyle=":", color=COLOURS[arm], linewidth=1.4)
            axes.annotate(
                "host", (x[-1], y[-1]), color=COLOURS[arm], fontsize=9, xytext=(4, 0), textcoords="offset points"
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = [case["tensors"] for case in cases]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("tensors of 64 numbers")
    axes.set_ylabel("time of a step (µs): less is better")
    first = cases[0]
    axes.set_title(f"{first['rule']} + clip {first['clip']}, small tensors", loc="left", fontsize=12)


def _legend(figure: Figure, cases: Sequence[Case]) -> None:
    seen = [arm for arm in COLOURS if any(_median(case, arm) for case in cases)]
    handles: list[Any] = [
        Line2D([], [], color=COLOURS[arm], marker=MARKS[arm], linestyle="none", markersize=8, label=arm) for arm in seen
    ]
    if any(vague(case, arm) for case in cases for arm in seen if arm not in {ROOFLINE, COPY} and _median(case, arm)):
        handles.append(Line2D([], [], color=MUTED, marker="o", markerfacecolor=PAPER, linestyle="none", label="noise"))
    figure.legend(handles=handles, loc="lower center", ncols=min(len(handles), 8), frameon=False, fontsize=10)


def picture(document: Mapping[str, Any]) -> str | None:
    """Return a record's picture as SVG, or None if it has nothing to draw."""
    wide, small = rates(document["cases"]), counts(document["cases"])
    if not wide and len(small) < 2:
        return None
    with mpl.rc_context(STYLE):
        height = max(3.6, 1.5 + 0.27 * len(wide))
        both = bool(wide) and len(small) > 1
        figure = Figure(figsize=(15 if both else 10, height), facecolor=PAPER)
        axes: Any = figure.subplots(1, 2 if both else 1, width_ratios=[1.25, 1] if both else None, squeeze=False)[0]
        if wide:
            _draw_rates(axes[0], wide)
        if len(small) > 1:
            _draw_counts(axes[-1], small)
        _legend(figure, [*wide, *small])
        figure.suptitle(_machine(document["machine"]), x=0.01, ha="left", fontsize=10, color=MUTED)
        figure.tight_layout(rect=(0, 0.5 / height, 1, 1))
        return _svg(figure)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return buffer.getvalue()


def _machine(machine: Mapping[str, Any]) -> str:
    cache = machine.get("last_level_cache")
    told = f", {cache / 2**20:.0f} MiB last-level cache" if cache else ""
    versions = f"torch {machine['torch']} · steprule {machine['steprule']}"
    if gpu := machine.get("gpu"):
        return f"{gpu['name']}, CUDA {gpu['cuda']}, Triton {gpu['triton']} · {versions}"
    return f"{machine['cpu']}, {machine['cores']} cores{told} · {versions}"
