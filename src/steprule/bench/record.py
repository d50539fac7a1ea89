"""The record of a run: every number and its circumstances, as JSON.

    format     3; older records are other tables
    command    how to repeat it
    began      date and time; `seconds` it took; `complete` is false while it runs, after an interruption, and when a
               budget of time left cases out; `stopped` says why it ended early, and
               `begun` what was under way when nobody could say so: a run that goes on does that last
    asked      scale, device, threads, rounds, rehearsed: a run that asks for the same on the same machine goes on
    machine    processor, cores, cache, memory, the GPU if one was timed (with driver, clocks, power limit and
               temperature as it began and, in `at_end`, as it ended), versions, commit; `steps`: by what means ours
               are taken here, and the reasons where that is not the best
    method     how it was timed, in words
    cases      a list: suite, rule, clip, workload, tensors, parameters, device, threads, gradients,
               bytes_per_parameter, working_sets, seconds, load (`cores` that may be used, `threads` that were,
               `others`: cores that other programs kept busy meanwhile, `waited`: the share of its time in which a step
               waited for a core; older records lack it), and `arms`: each with microseconds (median, p25, p75),
               host_microseconds (after which a step had returned: on a GPU it goes on; older records lack them),
               rounds, steps_per_round, deviation from the float64 truth, gigabytes_per_second, ratio (its median
               over ours; p25 and p75 are of the ratios round by round) and, where the ratio does not tell who is
               quicker, noise: why; or `skipped` with the reason. `failed` and `wrong` are true of an arm that raised
               an error, or computed something else, and `failed` of a case; `left_out` of one that had no time.
               `dtype` is that of the parameters, and `bars` of 16
               bits are own, peer, the least ratio of their times, and the ratio; older records lack both
    start      what fresh processes showed, and the greatest load meanwhile: see start.py

Numbers have four digits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from steprule.bench.arms import COPY, FUSED_WIDE, OURS, OWN, PEERS, ROOFLINE, STORAGE, passes
from steprule.bench.bars import LeastRatio
from steprule.bench.cases import GRADIENTS
from steprule.bench.conduct import Outcome, Result
from steprule.bench.load import busy
from steprule.bench.measure import Spread
from steprule.bench.precision import BFLOAT16, FLOAT16
from steprule.bench.roofline import traffic
from steprule.bench.rules import RULES
from steprule.bench.training import NOTHING
from steprule.bench.truth import STEPS, TOLERANCE
from steprule.bench.verdict import NOISE, noise

FORMAT = 3

METHOD = (
    f"Before timing, each arm takes {STEPS} steps; what it computes may differ from float64 by {TOLERANCE:g} of the "
    "farthest move within a tensor, or the arm is refused. Arms run in one process, rounds alternate in a drawn order; "
    "a round is as many steps as take 2 ms, each timed alone. Times are medians over rounds, with quartiles. Bytes a "
    "second are those that the formula must move in its fewest passes, whoever runs it, over the time it took."
)

OF_HALF = (
    f"16-bit parameters may be off by {100 * BFLOAT16.tolerance:g} % (bfloat16) or {100 * FLOAT16.tolerance:g} % "
    "(float16) of the farthest move, and by a fifth of that in the root of the mean of squares. Their gradients are "
    "clipped to half the norm that normal ones have, so that float16 holds their squares; the arm `torch fused "
    "float32` has the same numbers in float32."
)

BY_EVENTS = (
    "On the GPU, times are from an event recorded before a step to one behind it, waiting for the host included; the "
    "host's are until the step has returned. Working sets that are to come from memory are four times its last-level "
    "cache. The copy is torch's, of one flat tensor into another, and moves the bytes that the formula must move. "
    "Graphed steps were recorded once and are replayed, on gradients that stay the same tensors."
)


def now() -> str:
    """Return the time of day."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass
class Record:
    """A run as far as it has come."""

    command: str
    machine: Mapping[str, Any]
    began: str = field(default_factory=now)
    seconds: float = 0.0
    complete: bool = False
    results: list[Result] = field(default_factory=list[Result])
    start: dict[str, Any] | None = None
    asked: Mapping[str, Any] = field(default_factory=dict[str, Any])
    stopped: str | None = None
    begun: str | None = None
    before: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Cases of an earlier run that goes on here, as they stand in its record; it took `earlier` seconds."""
    earlier: float = 0.0
    cut: str | None = None
    """What the earlier run was killed at."""
    written: set[Path] = field(default_factory=set[Path])
    """The files in which it stands."""

    def document(self) -> dict[str, Any]:
        """Return the record as JSON data."""
        half = any(result.case.precision.bytes == 2 for result in self.results)
        return {
            "format": FORMAT,
            "command": self.command,
            "began": self.began,
            "seconds": round(self.earlier + self.seconds, 1),
            "complete": self.complete,
            "stopped": self.stopped,
            "begun": self.begun,
            "asked": dict(self.asked),
            "machine": dict(self.machine),
            "method": " ".join(
                [METHOD, *([BY_EVENTS] if self.machine.get("gpu") else []), *([OF_HALF] if half else [])]
            ),
            "gradients": GRADIENTS,
            "cases": [*self.before, *map(case, self.results)],
            "start": self.start,
        }

    def text(self) -> str:
        """Return the record as JSON."""
        return json.dumps(self.document(), indent=1, ensure_ascii=False) + "\n"


def case(result: Result) -> dict[str, Any]:
    """Return one case as JSON data."""
    own = result.case
    told: dict[str, Any] = {
        "name": own.name,
        "suite": own.suite,
        "rule": own.rule,
        "clip": own.clip,
        "dtype": own.precision.name,
        "workload": own.workload.name,
        "tensors": own.workload.tensors,
        "parameters": own.workload.parameters,
        "memory_bound": own.workload.memory_bound,
        "device": own.device,
        "threads": result.threads,
        "gradients": own.gradients,
        "bytes_per_parameter": result.bytes_per_parameter,
        "working_sets": result.copies,
        "seconds": round(result.seconds, 1),
    }
    if result.load:
        told["load"] = result.load.facts()
    if result.skipped:
        told["skipped"] = result.skipped
    told |= {name: True for name in ("failed", "left_out") if getattr(result, name)}
    told["arms"] = {name: _arm(name, outcome, result) for name, outcome in result.arms.items()}
    for name, arm in told["arms"].items():
        if "ratio" in arm and (reason := noise(told, name)):
            arm["noise"] = reason
    if result.bars:
        told["bars"] = [_bar(bar, seen, result) for bar, seen in result.bars.items()]
    return told


def _bar(bar: LeastRatio, seen: Spread, result: Result) -> dict[str, Any]:
    own, peer = result.arms[bar.own].times, result.arms[bar.peer].times
    ratio = _digits(peer.median / own.median) if own and peer else float("nan")
    return {"own": bar.own, "peer": bar.peer, "least": bar.least, "ratio": {**_spread(seen, 1.0), "median": ratio}}


def _arm(name: str, outcome: Outcome, result: Result) -> dict[str, Any]:
    if outcome.times is None:
        off = {} if outcome.deviation is None else {"deviation": _digits(outcome.deviation)}
        ended = {name: True for name in ("failed", "wrong") if getattr(outcome, name)}
        return {"skipped": outcome.skipped or result.skipped, **off, **ended}
    told: dict[str, Any] = {
        "microseconds": _spread(outcome.times, 1e6),
        **({"host_microseconds": _spread(outcome.host, 1e6)} if outcome.host else {}),
        "rounds": outcome.times.count,
        "steps_per_round": outcome.inner,
        "deviation": None if outcome.deviation is None else _digits(outcome.deviation),
    }
    if not result.case.model and name != FUSED_WIDE:  # that moves other bytes
        moved = _bytes(name, result) * result.case.workload.parameters
        told["gigabytes_per_second"] = _digits(moved / outcome.times.median / 1e9)
    own = result.median(OURS)
    if name != OURS and own and outcome.ratio:
        told["ratio"] = {**_spread(outcome.ratio, 1.0), "median": _digits(outcome.times.median / own)}
    return told


def _bytes(name: str, result: Result) -> int:
    """Return the bytes a parameter that the formula must move; how 16-bit parameters are kept changes that."""
    own = result.case
    return (
        traffic(passes(RULES[own.rule], own.clip, own.precision, name))
        if name in STORAGE
        else result.bytes_per_parameter
    )


def _spread(seen: Spread, unit: float) -> dict[str, float]:
    return {"median": _digits(seen.median * unit), "p25": _digits(seen.low * unit), "p75": _digits(seen.high * unit)}


def _digits(value: float) -> float:
    """Keep four digits: no more are known."""
    return float(f"{value:.4g}")


# Reading it -------------------------------------------------------------------------------------------


def ratios(told: Mapping[str, Any]) -> dict[str, float]:
    """Return how many times as long as ours each peer's step takes, in one case of a document."""
    named = told["arms"].items()
    return {name: arm["ratio"]["median"] for name, arm in named if "ratio" in arm and name in PEERS}


def microseconds(told: Mapping[str, Any], name: str) -> float | None:
    """Return an arm's median in one case of a document, if it was timed."""
    return told["arms"].get(name, {}).get("microseconds", {}).get("median")


def columns(cases: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Return the timed arms of these cases: the peers, then the references beside them."""
    seen = [
        name for name in (*PEERS, *OWN[1:], NOTHING, ROOFLINE, COPY) if any(microseconds(case, name) for case in cases)
    ]
    return [name for name in seen if name in PEERS], [name for name in seen if name not in PEERS]


def best_peer(told: Mapping[str, Any]) -> str | None:
    """Return the quickest peer of one case."""
    found = ratios(told)
    return min(found, key=lambda name: found[name]) if found else None


def losses(document: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """List the cases in which a peer is quicker beyond the spread: case, peer, ratio below 1."""
    return [
        (told["name"], name, ratio)
        for told in document["cases"]
        for name, ratio in ratios(told).items()
        if ratio < 1 and noise(told, name) is None
    ]


def undecided(document: Mapping[str, Any]) -> dict[str, int]:
    """Return the reasons why ratios to peers decide nothing, with their counts."""
    found: dict[str, int] = {}
    for told in document["cases"]:
        for name in ratios(told):
            if reason := noise(told, name):
                kind = reason.partition(":")[0]
                found[kind] = found.get(kind, 0) + 1
    return found


def summary(document: Mapping[str, Any]) -> str:
    """Word whether peers are quicker anywhere, or that the record cannot tell."""
    lost, left = losses(document), undecided(document)
    counted = "; ".join(f"{count} because {reason}" for reason, count in left.items())
    told = f"{NOISE} is noise, which tells nothing: {counted}. " if left else ""
    if lost:
        return f"{told}Where a peer is quicker ({len(lost)}):"
    decided = sum(len(ratios(case)) for case in document["cases"]) - sum(left.values())
    rest = "No other peer is quicker." if decided else "Nothing here tells who is quicker."
    return told + rest if left else "Nowhere here is a peer quicker."


def slower(document: Mapping[str, Any]) -> list[str]:
    """List the reasons that made our steps slower on this machine than they could be. Older records have none."""
    reasons = document["machine"].get("steps", {}).get("reasons", {})
    names = {"checks": "checking tensors", "comparisons": "comparing tensors"}
    return [
        f"steprule is slower here than it could be: {names[key]} ({reasons[key]})" for key in names if key in reasons
    ]


def errors(document: Mapping[str, Any]) -> list[str]:
    """List arms that computed something else, and arms and cases that failed."""
    found: list[str] = []
    for told in document["cases"]:
        for name, arm in told["arms"].items():
            if arm.get("wrong") or arm.get("failed"):
                found.append(f"{'Wrong' if arm.get('wrong') else 'Failed'}: {told['name']}: {name}: {arm['skipped']}")
        if told.get("failed"):
            found.append(f"Failed: {told['name']}: {told['skipped']}")
    return found


def start_lines(start: Mapping[str, Any] | None) -> list[str]:
    """Word the measurements of fresh processes, one a line."""
    if start is None:
        return []
    lines = [f"what follows is rough: {told}"] if (told := busy(start.get("load"))) else []
    seconds = start.get("import_seconds", {})
    if "median" in seconds:
        lines.append(f"import steprule, after torch: {seconds['median']:.2f} s")
    for who, key in (("steprule", "first_step_seconds"), ("torch.compile", "torch_compile_first_step_seconds")):
        first = start.get(key, {})
        told = ", ".join(f"{how} {value:.3g} s" for how, value in first.items() if how != "skipped")
        lines.append(f"first step on {start['tensors']} tensors, {who}: {told or first.get('skipped', 'not measured')}")
    for arm, extra in start.get("extra_bytes_per_parameter", {}).items():
        told = f"{extra:.1f} bytes a parameter" if isinstance(extra, float) else str(extra.get("skipped"))
        lines.append(f"memory at the peak of a step besides parameters, gradients and state, {arm}: {told}")
    compiled = start.get("kernels_compiled_by", {})
    if compiled:
        lines.append("kernels compiled by " + ", ".join(f"{what}: {count}" for what, count in compiled.items()))
    return lines
