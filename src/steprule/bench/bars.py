"""What 16-bit parameters must be worth: how many times as long as an arm of ours a peer's step takes, at least."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steprule.bench.arms import FOREACH, FUSED, FUSED_WIDE, LOOP, OURS, STOCHASTIC, STOCHASTIC_WIDE, STORAGE, WIDE
from steprule.bench.cases import ALL, LIST, LORA, ONE, Case
from steprule.bench.load import busy
from steprule.bench.measure import Spread, paired
from steprule.bench.rules import GLOBAL_NORM
from steprule.bench.verdict import FEWEST, NOISE, number

MET, MISSED = "met", "**missed**"


@dataclass(frozen=True)
class LeastRatio:
    """One of ours, one of theirs, and the least ratio of their times."""

    own: str
    peer: str
    least: float


_CLIPPED = {
    ("bfloat16", LIST.name, ALL): (
        LeastRatio(STOCHASTIC_WIDE, FUSED_WIDE, 1.7),
        LeastRatio(STOCHASTIC, FUSED_WIDE, 2.1),
        LeastRatio(STOCHASTIC, FUSED, 2.1),
    ),
    ("bfloat16", LIST.name, ONE): (
        LeastRatio(STOCHASTIC_WIDE, FUSED_WIDE, 1.3),
        LeastRatio(STOCHASTIC, FUSED_WIDE, 1.55),
    ),
    ("float16", LIST.name, ALL): (LeastRatio(WIDE, FUSED_WIDE, 1.85),),
    ("float16", LIST.name, ONE): (LeastRatio(WIDE, FUSED_WIDE, 1.5),),
    **{
        ("bfloat16", workload, threads): (LeastRatio(OURS, FUSED, least), LeastRatio(STOCHASTIC_WIDE, FUSED, least))
        for workload, least, counts in (
            ("6 x 64", 5.0, (ONE, ALL)),
            ("60 x 4,096", 3.0, (ONE, ALL)),
            (LORA.name, 4.0, (ALL,)),
        )
        for threads in counts
    },
}
"""Behind a clipping by the global norm; with all threads, which are two where these were set."""


def bars(case: Case) -> tuple[LeastRatio, ...]:
    """Return the bars of a case: those of the table, and that none of ours is slower than torch's loop or foreach."""
    if case.suite != "half":
        return ()
    found = _CLIPPED.get((case.precision.name, case.workload.name, case.threads), ())
    never = tuple(LeastRatio(own, peer, 1.0) for own in (OURS, *STORAGE) for peer in (LOOP, FOREACH))
    return (*(found if case.clip == GLOBAL_NORM else ()), *never)


def measured(case: Case, times: Mapping[str, Sequence[float]]) -> dict[LeastRatio, Spread]:
    """Return how the ratios of a case's bars spread over its rounds; arms that were left out have none."""
    return {
        bar: paired(times[bar.peer], times[bar.own]) for bar in bars(case) if bar.own in times and bar.peer in times
    }


# Reading a record -------------------------------------------------------------------------------------


def verdict(told: Mapping[str, Any], bar: Mapping[str, Any]) -> str:
    """Say whether a bar of a case was met; a busy machine, or too few rounds, tell nothing."""
    if busy(told.get("load")) or told["arms"][bar["own"]]["rounds"] < FEWEST:
        return NOISE
    return MET if bar["ratio"]["median"] >= bar["least"] else MISSED


def bar_lines(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of the bars that were set, of those against torch's loop and foreach the missed, and a count."""
    told = [(case, bar, verdict(case, bar)) for case in cases for bar in case.get("bars", ())]
    if not told:
        return []
    rows = [_row(*each) for each in told if each[1]["least"] > 1 or each[2] == MISSED]
    never = [(bar["ratio"]["median"], said) for _, bar, said in told if bar["least"] == 1]
    met, least = sum(said == MET for _, said in never), number(min(ratio for ratio, _ in never))
    heads = ["| 16 bits | ours | peer | bar | ratio (quartiles) | |", "|---|---|---|---:|---:|---|"]
    count = f"No slower than torch's loop or foreach: {met} of {len(never)} comparisons; the least ratio is {least}."
    return [*(heads if rows else []), *rows, *([""] if rows else []), count]


def _row(case: Mapping[str, Any], bar: Mapping[str, Any], said: str) -> str:
    seen = bar["ratio"]
    ratio = f"{number(seen['median'])} ({number(seen['p25'])} – {number(seen['p75'])})"
    return f"| {case['name']} | {bar['own']} | {bar['peer']} | {bar['least']:g} | {ratio} | {said} |"


def missed(document: Mapping[str, Any]) -> Iterator[str]:
    """Word the bars that were missed, a line each."""
    for case in document["cases"]:
        for bar in case.get("bars", ()):
            if verdict(case, bar) == MISSED:
                times = f"{bar['ratio']['median']:.2f} of {bar['least']:g}"
                yield f"{bar['own']} against {bar['peer']}, {case['name']}: {times}"
