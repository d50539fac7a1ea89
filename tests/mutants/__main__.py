"""`make mutants`: plant one small defect at a time, and see whether the tests of its room notice.

Each defect is planted in a copy of the package, and the room's tests run against it until the first one fails. Which
defects are tried is drawn by `--seed`, as many from each part. Survivors are listed with what was changed: each is a
test that is missing, code that is not needed, or a change that makes no difference.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from sites import Site, sites

ROOT = Path(__file__).parents[2]
PACKAGE = Path("src/steprule")
LONGEST = 900
"""Seconds after which a test run is taken to hang; the tests of a room take a tenth of it where nothing else runs."""

CPU = ("tests/test_golden.py", "tests/backends/test_chunks.py", "tests/backends/test_bits.py",
       "tests/backends/test_threads.py", "tests/optim/test_loop.py", "tests/optim/test_absent_gradients.py",
       "tests/optim/test_guards.py", "tests/optim/test_interrupts.py", "tests/backends/test_cache.py",
       "tests/backends/test_forks.py", "tests/backends/test_hostile_processes.py")  # fmt: skip
TRITON = ("tests/test_golden.py", "tests/backends/test_triton_memory.py", "tests/backends/test_operations.py",
          "tests/backends/test_alignment.py", "tests/backends/test_upload.py", "tests/backends/test_triton_device.py",
          "tests/optim/test_gpu_host.py",
          "tests/optim/test_gpu_captures.py", "tests/optim/test_gpu_device.py", "tests/backends/test_builds.py",
          "tests/backends/test_chunks.py", "tests/optim/test_gpu_steps.py", "tests/optim/test_guards.py",
          "tests/optim/test_absent_gradients.py", "tests/optim/test_rounding.py", "tests/optim/test_interrupts.py",
          "tests/optim/test_gauges.py", "tests/backends/test_reducers.py",
          "tests/test_random_rules.py::test_gpu_kernels_agree_with_the_interpreter_on_random_rules",
          "tests/backends/test_triton_compiled.py")  # fmt: skip
OPTIM = ("tests/optim/test_facade.py", "tests/optim/test_options.py", "tests/optim/test_settings.py",
         "tests/optim/test_groups.py", "tests/optim/test_explain.py", "tests/optim/test_checkpoints.py",
         "tests/optim/test_fast_check.py", "tests/optim/test_cells.py", "tests/optim/test_aliasing.py",
         "tests/optim/test_points.py", "tests/optim/test_look_ahead.py", "tests/optim/test_implicit.py",
         "tests/optim/test_shards.py", "tests/optim/test_odd_tensors.py", "tests/optim/test_tensor_slots.py",
         "tests/optim/test_guards.py", "tests/optim/test_loop.py", "tests/optim/test_absent_gradients.py",
         "tests/optim/test_hostile_state.py", "tests/optim/test_hostile_kinds.py", "tests/optim/test_faces.py",
         "tests/optim/test_layouts.py", "tests/parity/test_arguments.py", "tests/parity/test_parity.py",
         "tests/parity/test_state_protocol.py")  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Files that stand or fall together, and the tests that know them, quickest first."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    marks: str = ""
    """Which of these tests are run, as pytest's `-m` says it; of a file's own all are."""


PARTS = {
    "graph": Part(
        ("graph/*.py",),
        ("tests/graph", "tests/rule", "tests/plan", "tests/test_golden.py"),
    ),
    "plan": Part(("plan/*.py",), ("tests/plan", "tests/test_golden.py", "tests/backends/test_chunks.py")),
    "cpu": Part(("backends/[!t]*.py", "backends/threads.py"), CPU),
    "triton": Part(("backends/triton*.py", "optim/bucket.py"), TRITON, "null or interp"),
    "optim": Part(("optim/[!d]*.py",), OPTIM),
}
"""What is tried, part by part. Rooms that write kernels are broken in the text of kernels too."""

FIRST = {
    "backends/cache.py": ("tests/backends/test_cache.py",),
    "backends/compiler.py": ("tests/backends/test_hostile_processes.py",),
    "backends/threads.py": ("tests/backends/test_threads.py", "tests/backends/test_forks.py"),
    "backends/triton_batch.py": ("tests/optim/test_gpu_host.py", "tests/optim/test_gpu_captures.py"),
    "backends/triton_device.py": ("tests/backends/test_upload.py", "tests/backends/test_triton_device.py"),
    "backends/triton_gpu.py": ("tests/backends/test_triton_device.py", "tests/optim/test_gpu_device.py"),
    "graph/simplify.py": ("tests/graph/test_rewrites.py",),
    "graph/bounds.py": ("tests/graph/test_rewrites.py",),
    "optim/aliasing.py": ("tests/optim/test_aliasing.py",),
    "optim/bucket.py": (
        "tests/optim/test_cells.py",
        "tests/optim/test_settings.py",
        "tests/optim/test_hostile_memory.py",
    ),
    "optim/checks.py": ("tests/optim/test_fast_check.py", "tests/optim/test_aliasing.py"),
    "optim/classes.py": ("tests/parity/test_arguments.py", "tests/parity/test_parity.py"),
    "optim/compiled.py": ("tests/optim/test_explain.py",),
    "optim/explain.py": ("tests/optim/test_explain.py",),
    "optim/fast_check.py": ("tests/optim/test_fast_check.py",),
    "optim/fast_check_source.py": ("tests/optim/test_fast_check.py",),
    "optim/groups.py": ("tests/optim/test_groups.py",),
    "optim/implicit.py": ("tests/optim/test_implicit.py",),
    "optim/means.py": ("tests/optim/test_means.py",),
    "optim/options.py": ("tests/optim/test_options.py",),
    "optim/papers.py": ("tests/zoo/test_papers.py",),
    "optim/points.py": ("tests/optim/test_points.py", "tests/optim/test_look_ahead.py"),
    "optim/settings.py": ("tests/optim/test_settings.py",),
    "optim/shards.py": ("tests/optim/test_shards.py",),
    "optim/state.py": ("tests/optim/test_hostile_state.py", "tests/parity/test_state_protocol.py"),
    "optim/tensors.py": ("tests/optim/test_odd_tensors.py", "tests/optim/test_layouts.py"),
}
"""Tests of a file alone, which are asked before those of its room."""


@dataclass(frozen=True)
class Mutant:
    """A defect in a file."""

    part: str
    file: str
    site: Site

    def told(self) -> str:
        """Word what is broken, as a line of a difference."""
        source = (ROOT / PACKAGE / self.file).read_text(encoding="utf-8")
        first = source.rfind("\n", 0, self.site.start) + 1
        last = source.find("\n", self.site.end)
        line = source[first:last].strip()
        changed = (source[first : self.site.start] + self.site.text + source[self.site.end : last]).strip()
        return f"{PACKAGE / self.file}:{self.site.line} ({self.site.kind})\n    - {line}\n    + {changed}"


def _files(part: Part) -> Iterator[str]:
    for pattern in part.files:
        for path in sorted((ROOT / PACKAGE).glob(pattern)):
            yield str(path.relative_to(ROOT / PACKAGE))


def draw(parts: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """Draw as many defects from each part, every site being as likely as any other."""
    chance = random.Random(seed)
    drawn: list[Mutant] = []
    for place, name in enumerate(parts):
        found = [
            Mutant(name, file, site)
            for file in dict.fromkeys(_files(PARTS[name]))
            for site in sites(
                (ROOT / PACKAGE / file).read_text(encoding="utf-8"), writes_code=file.startswith("backends/")
            )
        ]
        share = count // len(parts) + (place < count % len(parts))
        drawn += chance.sample(found, min(share, len(found)))
    chance.shuffle(drawn)  # a run that is cut short has tried some of each
    return drawn


def _run(source: Path, tests: Iterable[str], marks: str, cache: Path) -> tuple[str, str]:
    """Run tests against a copy of the package; return caught, survived or hung, and what noticed."""
    there = [test for test in tests if (ROOT / test.partition("::")[0]).exists()]
    if not there:
        return "survived", ""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", "--tb=no", *there]
    command += ["-m", marks] if marks else []
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "STEPRULE_TEST_CACHE": str(cache),
                                "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return "caught", f"no answer after {LONGEST} s"
    if done.returncode == 0:
        return "survived", ""
    noticed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return "caught", noticed[0] if noticed else done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "crash"


def try_one(mutant: Mutant, cache: Path) -> dict[str, object]:
    """Plant one defect, run the tests of its room, and return what came of it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        path = source / "steprule" / mutant.file
        path.write_text(mutant.site.apply(path.read_text(encoding="utf-8")), encoding="utf-8")
        own, room = FIRST.get(mutant.file, ()), PARTS[mutant.part]
        verdict, noticed = _run(source, own, "", cache)
        if verdict == "survived":
            verdict, noticed = _run(source, [test for test in room.tests if test not in own], room.marks, cache)
    return {"part": mutant.part, "file": mutant.file, **asdict(mutant.site), "verdict": verdict, "noticed": noticed,
            "seconds": round(time.monotonic() - began, 1)}  # fmt: skip


def check_unbroken(parts: Sequence[str], cache: Path, jobs: int) -> None:
    """Make sure that the tests pass where nothing is broken: else everything would count as caught."""
    with ThreadPoolExecutor(jobs) as pool:
        runs = {name: pool.submit(_run, ROOT / "src", PARTS[name].tests, PARTS[name].marks, cache) for name in parts}
    for name, run in runs.items():
        verdict, noticed = run.result()
        if verdict != "survived":
            raise click.ClickException(f"the tests of {name} fail without any defect: {noticed}")


@click.command()
@click.option("--count", default=80, show_default=True, help="Defects to try.")
@click.option("--seed", default=0, show_default=True, help="Decides which.")
@click.option("--minutes", default=60.0, show_default=True, help="Begin no defect after this long.")
@click.option("--parts", default=",".join(PARTS), show_default=True, help="Parts to break, with commas between.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="Defects tried at once.")
@click.option("--need", default=90.0, show_default=True, help="Percent that must be caught, or the exit code is 1.")
@click.option("--unchecked", is_flag=True, help="Do not run the tests without any defect first.")
@click.option("--out", type=click.Path(path_type=Path), help="Write what came of each as JSON.")
def main(
    count: int, seed: int, minutes: float, parts: str, jobs: int, need: float, unchecked: bool, out: Path | None
) -> None:
    """Plant defects in the package, one at a time, and count those that the tests notice."""
    names = parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise click.BadParameter(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    mutants, until = draw(names, count, seed), time.monotonic() + 60 * minutes
    results: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "kernels"
        click.echo(f"{len(mutants)} defects drawn with seed {seed}")
        if not unchecked:
            click.echo("first the tests without any ...")
            check_unbroken(names, cache, jobs)

        def one(mutant: Mutant) -> dict[str, object] | None:
            return try_one(mutant, cache) if time.monotonic() < until else None

        with ThreadPoolExecutor(jobs) as pool:
            running = {pool.submit(one, mutant): mutant for mutant in mutants}
            for run in as_completed(running):
                result = run.result()
                if result is not None:
                    results.append(result)
                    mutant = running[run]
                    rest = mutant.told() if result["verdict"] == "survived" else f"{mutant.file}:{mutant.site.line}"
                    click.echo(f"[{len(results)}/{len(mutants)}] {result['verdict']} ({result['seconds']} s)  {rest}")
    if out is not None:
        out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    _tell(names, results, need)


def _tell(names: Sequence[str], results: Sequence[dict[str, object]], need: float) -> None:
    caught = [result for result in results if result["verdict"] == "caught"]
    for name in names:
        own = [result for result in results if result["part"] == name]
        click.echo(f"{name:8} {sum(result in caught for result in own):3} of {len(own)} caught")
    percent = 100 * len(caught) / len(results) if results else 0.0
    click.echo(f"{len(caught)} of {len(results)} defects caught: {percent:.0f} %")
    if percent < need:
        sys.exit(1)


if __name__ == "__main__":
    main()
