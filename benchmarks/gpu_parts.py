"""What the scripts for a GPU share: whether there is one, its facts, timing, and results that are kept as they come."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

NO_GPU = 2
"""The exit code where there is none."""
ASKED = ("driver_version", "clocks.sm", "clocks.mem", "power.limit", "temperature.gpu")


def none_here(where: str) -> str:
    """Say what is wrong, where, and what to do, if there is no GPU; else return ""."""
    if torch.cuda.is_available():
        return ""
    why = "finds none on this machine" if torch.version.cuda else f"{torch.__version__} was built without CUDA"
    help_ = f"run it where torch.cuda.is_available() is True, or see what it would do: {where} --rehearse"
    return f"steprule: error: there is no GPU: torch {why}\n{where}\nhelp: {help_}"


def facts() -> dict[str, Any]:
    """Name the GPU, its driver, clocks and limits, and the versions."""
    found: Any = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=10)
        told = done.stdout.splitlines()[:1] if done.returncode == 0 else []
    except (OSError, subprocess.TimeoutExpired):
        told = []
    asked = dict(zip(ASKED, (word.strip() for word in (told or ["unknown"])[0].split(",")), strict=False))
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("torch", "triton", "numba", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    own = {"name": found.name, "capability": f"{found.major}.{found.minor}", "memory": found.total_memory,
           "cache": getattr(found, "L2_cache_size", None)}  # fmt: skip
    return {"gpu": own | asked, "versions": versions}


def main(arguments: list[str] | None = None) -> int:
    """Print the name of the GPU, or that there is none."""
    where = "benchmarks/gpu.sh"
    _, place = asked("Name the GPU.", where, arguments)
    with place:
        if missing := none_here(where):
            print(missing, file=sys.stderr)
            return NO_GPU
        print(torch.cuda.get_device_name())
    return 0


# What is measured ---------------------------------------------------------------------------------------


def host_and_device(step: Callable[[], Any], steps: int) -> tuple[float, float]:
    """Return the seconds a step keeps the host, as a median, and those from a step to the next when many follow."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    host: list[float] = []
    begin.record()
    for _ in range(steps):
        start = time.perf_counter()
        step()
        host.append(time.perf_counter() - start)
    end.record()
    torch.cuda.synchronize()
    return median(host), begin.elapsed_time(end) / 1e3 / steps


def row(host: float, each: float, moved: int) -> dict[str, float]:
    """Return what is kept of a time, with four digits: no more are known."""
    found = {"host_microseconds": host * 1e6, "microseconds": each * 1e6, "gigabytes_per_second": moved / each / 1e9}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


@dataclass
class Results:
    """A document that is written whenever something is added: what was found stays when the rest is cut off."""

    path: Path
    document: dict[str, Any]
    failed: list[str] = field(default_factory=list[str])

    def write(self) -> None:
        """Replace the file by a whole new one."""
        self.document["failed"] = self.failed
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".part")
        new.write_text(json.dumps(self.document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        new.replace(self.path)

    def add(self, part: str, told: dict[str, Any], *, wrong: str | None = None) -> None:
        """Keep a row of a part, and what is wrong with it."""
        self.document.setdefault(part, []).append(told | ({"wrong": wrong} if wrong else {}))
        if wrong:
            self.failed.append(f"{part}: {wrong}")
        self.write()

    def part(self, name: str, work: Callable[[], None]) -> None:
        """Do a part; if it fails, keep the reason and go on."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 (whatever it is, other parts may work, and the GPU is there for minutes)
            print(traceback.format_exc(limit=-4), file=sys.stderr, flush=True)
            self.add(name, {}, wrong=f"{type(error).__name__}: {error}"[:300])


def asked(doc: str, name: str, arguments: list[str] | None) -> tuple[argparse.Namespace, AbstractContextManager[None]]:
    """Read a script's arguments; return them with a context in which a GPU is played, if that was asked for."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0], prog=name)
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), help="folder of what is written")
    parser.add_argument("--rehearse", action="store_true", help="do it in main memory; times mean nothing")
    told = parser.parse_args(arguments)
    if not told.rehearse:
        return told, nullcontext()
    from gpu_rehearsal import SAID, rehearsing

    print(f"This is {SAID}.", file=sys.stderr, flush=True)
    return told, rehearsing()


if __name__ == "__main__":
    sys.exit(main())
