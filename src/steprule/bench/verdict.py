"""The worth of a ratio in a record: whether it decides who is quicker, and how many digits count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steprule.bench.arms import OURS
from steprule.bench.load import busy

Case = Mapping[str, Any]
Quartiles = Mapping[str, float]

LOSS, NOISE, NOTHING = "▼", "?", "–"
FEWEST = 3
"""Rounds that show a spread."""

EXACT = 1.25
"""How far apart the quartiles may be, one over the other, for a number to be read to its last digit."""


def _span(seen: Quartiles) -> tuple[float, float]:
    """Return the quartiles, widened to hold the median: that of a ratio is the ratio of the medians."""
    numbers = (seen["median"], seen["p25"], seen["p75"])
    return min(numbers), max(numbers)


def _wide(seen: Quartiles) -> float:
    low, high = _span(seen)
    return high / low if low > 0 else float("inf")


def spread(case: Case, name: str) -> float:
    """Return how far apart the quartiles are, one over the other: of the ratio, of the arm's times, or of ours."""
    arm, own = case["arms"][name], case["arms"][OURS]
    return max(_wide(arm["ratio"]), _wide(arm["microseconds"]), _wide(own["microseconds"]))


def noise(case: Case, name: str) -> str | None:
    """Say why an arm's ratio does not decide who is quicker, or return None if it does."""
    arm = case["arms"][name]
    if told := busy(case.get("load")):
        return told
    if arm["rounds"] < FEWEST:
        return f"{arm['rounds']} rounds show no spread; {FEWEST} would"
    (low, high), ratio, wide = _span(arm["ratio"]), arm["ratio"]["median"], spread(case, name)
    if low <= 1 <= high or wide >= max(ratio, 1 / ratio):
        return f"the spread exceeds the effect: quartiles are {wide:.2f} times apart"
    return None


def vague(case: Case, name: str) -> bool:
    """Whether an arm's place in a picture is vague: by noise, or for ours on a busy machine."""
    return busy(case.get("load")) is not None if name == OURS else noise(case, name) is not None


def number(value: float, *, exact: bool = True) -> str:
    """Word a ratio, with two digits at most if it is not exact."""
    if not exact:
        return f"~{float(f'{value:.2g}'):.0f}" if value >= 10 else f"~{value:#.2g}"
    return f"{value:.3f}" if 0.995 <= value < 1 else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def ratio(case: Case, name: str | None) -> str:
    """Word how many times as long as ours an arm's step takes. Noise is a question mark."""
    arm = case["arms"].get(name, {})
    if "ratio" not in arm:
        return NOTHING
    if noise(case, str(name)):
        return NOISE
    value = arm["ratio"]["median"]
    told = number(value, exact=spread(case, str(name)) <= EXACT)
    return f"{told} {LOSS}" if value < 1 else told


def ratio_to(case: Case, peer: str, own: str) -> str:
    """Word how many times as long as another arm of ours a peer's takes, by their medians and quartiles alone."""
    mine, other = (case["arms"].get(name, {}) for name in (own, peer))
    if "microseconds" not in mine or "microseconds" not in other:
        return NOTHING
    (low, high), (least, most) = _span(mine["microseconds"]), _span(other["microseconds"])
    if busy(case.get("load")) or min(mine["rounds"], other["rounds"]) < FEWEST or (least <= high and low <= most):
        return NOISE
    value = other["microseconds"]["median"] / mine["microseconds"]["median"]
    told = number(value, exact=max(_wide(mine["microseconds"]), _wide(other["microseconds"])) <= EXACT)
    return f"{told} {LOSS}" if value < 1 else told


def share(case: Case, name: str) -> str:
    """Word an arm's time as a part of ours."""
    arm = case["arms"].get(name, {})
    if "microseconds" not in arm:
        return NOTHING
    if busy(case.get("load")) or arm["rounds"] < FEWEST:
        return NOISE
    told = f"{100 * arm['microseconds']['median'] / case['arms'][OURS]['microseconds']['median']:.0f} %"
    return told if spread(case, name) <= EXACT else f"~{told}"
