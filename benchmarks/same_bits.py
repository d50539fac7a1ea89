"""Show that two commits compute the same bits: `python benchmarks/same_bits.py --before COMMIT`, about forty minutes.

Two child processes of one interpreter, one with the package of COMMIT and one with that of this tree, take the same
steps: every rule and transform of the zoo and the board, every class of `steprule.optim` with every flag, weight decay,
maximize, clipping and guard, and random rules. Each runs in float32 and float64, in the CPU kernel and in torch
operations, on tensors of no, one, some and many elements in two groups, one gradient absent on the way, with two
threads. After each step both hash the bytes of every parameter and of every array and number of the state; NaN is one
number, whatever its bits. The last lines count what differs, by how many units in the last place; the exit code is 1
if anything does.

A job that differs is done again in fresh processes, which link their kernels from the cache and whose memory is laid
out alike. A commit whose compiled kernel adds in another order than the one it links differs in the first process
alone, and so do torch's own sums, which depend on where memory begins.

The random rules are those of tests/strategies.py in this tree, drawn by seed and written in the public language, so
both children read the same text. They use nothing but the public face of the package. A child that dies is started
anew, and its job counts as different.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import inspect
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from bit_jobs import ROOT, named_jobs, random_jobs

DTYPES, BACKENDS, THREADS = ("float32", "float64"), ("numba_cpu", "eager"), 2
SMALL: list[list[int]] = [[5], [], [3, 4], [0], [33], [40_000]]
"""The shapes of random rules; several chunks in the last."""
NAMED = [*SMALL, [600, 500]]
"""The shapes of all others; the last is large enough for two threads."""
LAST, ABSENT = 3, 2
"""Steps, and the one at which a gradient is absent."""

# A child: the package of one commit --------------------------------------------------------------------------


def offered() -> dict[str, Any]:
    """Return the package's rules with their choices, its transforms, and its classes with their defaults."""
    import steprule as sr
    from steprule import zoo

    rule_type, transform_type = type(sr.board.sgd), type(sr.clip_value)
    seen: set[int] = set()
    rules: dict[str, dict[str, list[Any]]] = {}
    transforms: list[str] = []
    for info in pkgutil.iter_modules(zoo.__path__):
        for name, value in vars(importlib.import_module(f"steprule.zoo.{info.name}")).items():
            if id(value) in seen or name.startswith("_") or not isinstance(value, rule_type | transform_type):
                continue
            seen.add(id(value))
            if isinstance(value, transform_type):
                transforms.append(f"{info.name}.{name}")
                continue
            defaults = {key: part.default for key, part in inspect.signature(value).parameters.items()}
            rules[f"{info.name}.{name}"] = {
                key: list(default.options) for key, default in defaults.items() if type(default).__name__ == "Choice"
            }
    left_out = {"capturable", "differentiable", "compensated", "foreach", "fused"}
    classes: dict[str, dict[str, Any]] = {}
    for name in sr.optim.__all__:
        made = getattr(sr.optim, name)
        if inspect.isclass(made) and issubclass(made, sr.Optimizer) and made is not sr.Optimizer:
            parts = inspect.signature(made).parameters
            plain = {key: part.default for key, part in parts.items() if isinstance(part.default, bool | int | float)}
            classes[name] = {key: value for key, value in plain.items() if key not in left_out}
    return {"rules": rules, "transforms": sorted(transforms), "classes": classes, "file": sr.__file__}


@lru_cache(maxsize=1)
def drawn_rule(folder: str, number: int, text: str) -> Any:
    """Import a random rule; the jobs on one rule follow one another."""
    path = Path(folder) / f"drawn_{number}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.drawn


def optimizer_of(job: dict[str, Any], groups: list[dict[str, Any]]) -> Any:
    """Build the optimiser of a job."""
    import steprule as sr

    options: dict[str, Any] = job.get("options", {})
    if "class" in job:
        return getattr(sr.optim, job["class"])(groups, backend=job["backend"], **options)
    if "text" in job:
        return drawn_rule(job["folder"], job["number"], job["text"]).optimizer(groups, backend=job["backend"])
    module, _, name = job.get("rule", job.get("transform", "")).rpartition(".")
    found = getattr(importlib.import_module(f"steprule.zoo.{module}"), name)
    if "transform" in job:
        found = sr.chain(found, sr.board.momentum)
    return (found(**options) if options else found).optimizer(groups, backend=job["backend"])


def steps(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Take a job's steps, and yield every array and number after each."""
    import torch

    torch.set_num_threads(THREADS)
    shapes, dtype = NAMED if "text" not in job else SMALL, getattr(torch, job["dtype"])

    def drawn(*key: int) -> Any:
        return torch.tensor(np.random.default_rng(key).standard_normal(shapes[key[-1]]), dtype=dtype)

    parameters = [torch.nn.Parameter(drawn(0, index)) for index in range(len(shapes))]
    half = len(parameters) // 2
    optimizer = optimizer_of(job, [{"params": parameters[:half]}, {"params": parameters[half:], "lr": 0.05}])

    def evaluate() -> Any:
        for parameter in parameters:
            parameter.grad = parameter.detach().clone()
        return torch.zeros(())

    for step in range(1, LAST + 1):
        for index, parameter in enumerate(parameters):
            parameter.grad = None if (step, index) == (ABSENT, 2) else drawn(step, index)
        optimizer.step(evaluate) if job.get("closure") else optimizer.step()
        found = {f"parameter {index}": parameter.detach() for index, parameter in enumerate(parameters)}
        for index, slots in optimizer.state_dict()["state"].items():
            found |= {
                f"{key} {index}": value for key, value in slots.items() if isinstance(value, torch.Tensor | float | int)
            }
        yield {name: np.array(torch.as_tensor(value).cpu().numpy()) for name, value in found.items()}


def canonical(array: Any) -> Any:
    """Return an array in which NaN has one pattern of bits."""
    return np.where(np.isnan(array), np.array(np.nan, array.dtype), array) if array.dtype.kind == "f" else array


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job; return digests, or why it was refused. With `save` the arrays of every step are kept there."""
    if job.get("ask") == "offered":
        return offered()
    digests: dict[str, str] = {}
    kept: dict[str, Any] = {}
    try:
        for step, arrays in enumerate(steps(job), 1):
            for name, array in arrays.items():
                digests[f"{step}|{name}|{array.dtype}|{array.shape}"] = hashlib.sha256(
                    canonical(array).tobytes()
                ).hexdigest()
                kept |= {f"{step}|{name}": array} if "save" in job else {}
    except Exception as error:  # noqa: BLE001 - a package of another time may raise anything
        return {"refused": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
    if "save" in job:
        np.savez(job["save"], **kept)
    return {"digests": digests}


def serve() -> None:
    """Answer one job a line, until there are no more."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=out, flush=True)


# The parent: both, side by side --------------------------------------------------------------------------------


class Child:
    """A process with the package of one tree, started anew if it dies."""

    def __init__(self, source: Path, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._environment = {**os.environ, "PYTHONPATH": str(source), "STEPRULE_CACHE": str(folder / "cache")}
        self._start()

    def renew(self) -> None:
        """Go on in a fresh process, which has the same cache."""
        self.close()
        self._start()

    def _start(self) -> None:
        command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--child"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._environment, cwd=self.folder
        )

    def ask(self, job: dict[str, Any]) -> None:
        """Send a job."""
        with contextlib.suppress(OSError):
            print(json.dumps({**job, "folder": str(self.folder)}), file=self._process.stdin, flush=True)

    def answer(self) -> dict[str, Any]:
        """Wait for the answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        self._start()
        return {"died": f"the process ended with exit code {code}"}

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def worktree(commit: str, folder: Path) -> Iterator[Path]:
    """Lay out a commit in a folder for a while."""
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "-q", "--detach", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def units(before: Any, after: Any) -> float:
    """Return the largest difference of two arrays in units in the last place; of other kinds it is infinite."""
    if before.shape != after.shape or before.dtype != after.dtype or before.dtype.kind != "f":
        return 0.0 if np.array_equal(before, after) else float("inf")
    kind = {4: np.int32, 8: np.int64}[before.dtype.itemsize]

    def places(array: Any) -> Any:
        bits = np.ascontiguousarray(canonical(array)).view(kind).astype(object)
        return np.where(bits < 0, np.iinfo(kind).min - bits, bits)

    differing = canonical(before) != canonical(after)
    differing &= ~(np.isnan(before) & np.isnan(after))
    far = np.abs(places(before.ravel()[differing.ravel()]) - places(after.ravel()[differing.ravel()]))
    return float(max(far, default=0))


def differences(job: dict[str, Any], pair: tuple[Child, Child]) -> tuple[float, float, str]:
    """Do a job again. Return the largest difference after one step and after all, and its place."""
    paths = [child.folder / "arrays.npz" for child in pair]
    for child, path in zip(pair, paths, strict=True):
        child.ask({**job, "save": str(path)})
    for child in pair:
        child.answer()
    first, worst, where = 0.0, 0.0, "a name, a type or a sign of zero"
    with np.load(paths[0]) as before, np.load(paths[1]) as after:
        for name in before.files:
            far = units(before[name], after[name]) if name in after.files else float("inf")
            first = max(first, far) if name.startswith("1|") else first
            worst, where = (far, name) if far > worst else (worst, where)
    return first, worst, where


def title(job: dict[str, Any]) -> str:
    """Name a job in one line."""
    name = job.get("class") or job.get("rule") or job.get("transform") or f"random rule {job['number']}"
    options = ", ".join(f"{key}={value}" for key, value in job.get("options", {}).items())
    closure = ", closure" if job.get("closure") else ""
    return f"{name}({options}){closure}, {job['dtype']}, {job['backend']}"


def compare(jobs: list[dict[str, Any]], pair: tuple[Child, Child], told: Callable[[str], None]) -> tuple[int, int]:
    """Do all jobs in both, and report differences. Return how many differ and how many both refuse."""
    differing, refused, began = 0, 0, time.monotonic()

    def both(job: dict[str, Any]) -> list[dict[str, Any]]:
        for child in pair:
            child.ask(job)
        return [child.answer() for child in pair]

    for number, job in enumerate(jobs, 1):
        before, after = both(job)
        if before != after and "digests" in before and "digests" in after:
            for child in pair:
                child.renew()
            before, after = both(job)
            if before == after:
                told(f"the same in fresh processes: {title(job)}")
        if "refused" in before and "refused" in after:
            refused += 1
            told(f"refused by both: {title(job)}: {before['refused']}") if "text" not in job else None
        elif before != after:
            differing += 1
            if "digests" in before and "digests" in after:
                first, worst, where = differences(job, pair)
                told(f"DIFFERS: {title(job)}: {first:g} ulp after a step, {worst:g} after {LAST}, in {where}")
            else:
                said = [f"{side}: {next(iter(found))} {found.get('refused', found.get('died', ''))}"
                        for side, found in (("before", before), ("after", after))]  # fmt: skip
                told(f"DIFFERS: {title(job)}: {'; '.join(said)}")
            if "text" in job:
                told(job["text"])
        if number % 200 == 0:
            told(f"{number} of {len(jobs)}, {differing} differ, {time.monotonic() - began:.0f} s")
    return differing, refused


def main() -> int:
    """Compare a commit with this tree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", metavar="COMMIT", help="the commit to compare with")
    parser.add_argument("--count", type=int, default=1000, help="how many random rules (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="from where they are drawn")
    parser.add_argument("--only", metavar="WORD", default="", help="named jobs with this word; `none` leaves all out")
    parser.add_argument("--backends", default=",".join(BACKENDS), help="by which backends (default: both)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        serve()
        return 0
    if not asked.before:
        parser.error("--before COMMIT is missing: the commit to compare with")
    with tempfile.TemporaryDirectory() as place, worktree(asked.before, Path(place) / "tree") as tree:
        pair = Child(tree / "src", Path(place) / "before"), Child(ROOT / "src", Path(place) / "after")
        try:
            return _compare_all(asked, pair, tree)
        finally:
            for child in pair:
                child.close()


def _compare_all(asked: argparse.Namespace, pair: tuple[Child, Child], tree: Path) -> int:
    def told(text: str) -> None:
        print(text, flush=True)

    for child in pair:
        child.ask({"ask": "offered"})
    before, after = (child.answer() for child in pair)
    for found, source in ((before, tree), (after, ROOT)):
        assert Path(found["file"]).is_relative_to(source), f"{found['file']} is not of {source}"
    for kind in ("rules", "transforms", "classes"):
        for name in set(before[kind]) ^ set(after[kind]):
            told(f"only {'before' if name in before[kind] else 'after'}: {name}")
    known = {
        **before,
        **{kind: {n: v for n, v in before[kind].items() if n in after[kind]} for kind in ("rules", "classes")},
    }
    known["transforms"] = [name for name in before["transforms"] if name in after["transforms"]]
    kinds = [{"dtype": dtype, "backend": backend} for dtype, backend in product(DTYPES, asked.backends.split(","))]
    named = [{**job, **kind} for job in named_jobs(known) for kind in kinds]
    named = [job for job in named if asked.only in title(job)] if asked.only != "none" else []
    drawn = [{**job, **kind} for job in random_jobs(asked.count, asked.seed) for kind in kinds] if asked.count else []
    total = 0
    for what, jobs in (("named", named), ("random", drawn)):
        differing, refused = compare(jobs, pair, told)
        total += differing
        told(f"{what}: {len(jobs)} jobs, {differing} differ, {refused} refused by both")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
