"""The suite `start`: import time, first steps, memory and recompilations, each in fresh processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from steprule.bench.arms import COMPILED, FOREACH, FUSED, LOOP, OURS, Conditions, missing
from steprule.bench.cases import Scale
from steprule.bench.load import watch
from steprule.bench.measure import spread
from steprule.bench.rules import GLOBAL_NORM, RULES
from steprule.bench.workloads import many

TENSORS = 60
LIMIT = 300
"""The most seconds of a child."""

_IMPORT = """
import time
import torch
begin = time.perf_counter()
import steprule
print(time.perf_counter() - begin)
"""

Part = tuple[str, Callable[[], Any]]
"""The key of a fact, and how it is found."""


def _run(arguments: list[str], **environment: str) -> Any:
    """Return the JSON that a fresh process prints."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments[:3])} ended with {(done.stderr.splitlines() or ['?'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _child(*arguments: str, **environment: str) -> Any:
    return _run(["-m", "steprule.bench.child", *arguments], **environment)


def import_seconds(repeats: int) -> dict[str, float]:
    """Return how long `import steprule` takes once torch is imported."""
    seen = spread([float(_run(["-c", _IMPORT])) for _ in range(repeats)])
    return {"median": seen.median, "p25": seen.low, "p75": seen.high}


def first_steps(repeats: int) -> dict[str, Any]:
    """Return seconds of the first step on 60 tensors: from nothing, and from the cache of an earlier process."""
    cold: list[float] = []
    warm: list[float] = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as place:
            cold.append(_child("first", OURS, STEPRULE_CACHE=place)["first"])
            warm.append(_child("first", OURS, STEPRULE_CACHE=place)["first"])
    return {"from nothing": spread(cold).median, "from the cache": spread(warm).median}


def compiled_first(*, quick: bool) -> dict[str, Any]:
    """Return seconds of the first step under `torch.compile`, without and with the cache of an earlier process."""
    conditions = Conditions(RULES["AdamW"], GLOBAL_NORM, many(TENSORS, 64), 1, 1, quick)
    reason = missing(COMPILED, conditions)
    if reason:
        return {"skipped": reason}
    with tempfile.TemporaryDirectory() as place:
        cold = _child("first", COMPILED, TORCHINDUCTOR_CACHE_DIR=place)["first"]
        warm = _child("first", COMPILED, TORCHINDUCTOR_CACHE_DIR=place)["first"]
    return {"from nothing": cold, "from the cache": warm}


def changes() -> dict[str, int]:
    """Return how many kernels each change compiles."""
    with tempfile.TemporaryDirectory() as place:
        return _child("changes", STEPRULE_CACHE=place)


def parts(scale: Scale, *, quick: bool) -> Iterator[Part]:
    """List the measurements. Each stands alone, so that progress shows and one failure stops no other."""
    yield "import_seconds", lambda: import_seconds(scale.repeats)
    yield "first_step_seconds", lambda: first_steps(1 if quick else 2)
    yield "torch_compile_first_step_seconds", lambda: compiled_first(quick=quick)
    for arm in (OURS, LOOP, FOREACH, FUSED):
        yield f"memory: {arm}", lambda arm=arm: _child("memory", arm, str(scale.child_parameters))
    yield "kernels_compiled_by", changes


def collect(found: dict[str, Any], key: str, part: Callable[[], Any]) -> None:
    """Take one measurement and file it, or the reason of its failure."""
    end = watch(1)
    try:
        value = part()
    except (RuntimeError, ValueError, IndexError, OSError, subprocess.TimeoutExpired) as error:
        value = {"skipped": f"{type(error).__name__}: {error}"[:300]}
    load = end().facts()
    found["load"] = max(found.get("load", load), load, key=lambda seen: seen["others"])
    kind, _, arm = key.partition(": ")
    if arm:
        found.setdefault("extra_bytes_per_parameter", {})[arm] = value
    else:
        found[kind] = value


def has(found: dict[str, Any] | None, key: str) -> bool:
    """Whether a measurement is filed."""
    kind, _, arm = key.partition(": ")
    return bool(found) and (arm in found.get("extra_bytes_per_parameter", {}) if arm else kind in found)


def facts(scale: Scale) -> dict[str, Any]:
    """Return the circumstances of this suite's numbers."""
    return {"tensors": TENSORS, "parameters": scale.child_parameters}


def seconds(scale: Scale, *, quick: bool) -> float:
    """Guess how long all of it takes."""
    return 3.0 * (scale.repeats + (2 if quick else 4) + 5) + (0.0 if quick else 50.0)
