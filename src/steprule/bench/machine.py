"""The machine, the versions and the state of the source, without which a number means nothing."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import steprule as sr
from steprule.bench.gpu import Gpu

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNIT = {"K": 2**10, "M": 2**20, "G": 2**30}
ASSUMED_CACHE = 64 * 2**20
"""The assumed last-level cache of a machine that does not report it."""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _sysctl(name: str) -> str:
    try:
        told = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=True)  # noqa: S603, S607
    except (OSError, subprocess.CalledProcessError):
        return ""
    return told.stdout.strip()


def processor() -> str:
    """Return the processor's name."""
    found = re.search(r"^model name\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")), flags=re.MULTILINE)
    return found[1].strip() if found else _sysctl("machdep.cpu.brand_string") or platform.processor() or "unknown"


def last_level_cache() -> int | None:
    """Return the bytes of the largest cache, as the system reports it."""
    sizes = [_text(place / "size").strip() for place in _CACHES.glob("index*")]
    found = [int(size[:-1]) * _UNIT[size[-1]] for size in sizes if size[:-1].isdecimal() and size[-1] in _UNIT]
    told = _sysctl("hw.l3cachesize") or _sysctl("hw.l2cachesize") if not found else ""
    return max(found) if found else int(told) if told.isdecimal() else None


def _meminfo(name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB$", _text(Path("/proc/meminfo")), flags=re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def memory() -> int | None:
    """Return the bytes of main memory."""
    told = _meminfo("MemTotal")
    size = _sysctl("hw.memsize") if told is None else ""
    return int(size) if size.isdecimal() else told


def available() -> int | None:
    """Return the free bytes of main memory, or None if the system does not report them."""
    return _meminfo("MemAvailable")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    here = Path(__file__).parent
    try:
        told = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True)  # noqa: S603, S607
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()


def source() -> dict[str, Any]:
    """Return the checked-out commit, and whether the package's files are those of the commit."""
    top = _git("rev-parse", "--show-toplevel")
    ours = top is not None and (Path(top) / "src" / "steprule").resolve() == Path(sr.__file__).parent.resolve()
    if not ours:
        return {"commit": None, "changed": None}
    return {"commit": _git("rev-parse", "HEAD"), "changed": bool(_git("status", "--porcelain", "--", "."))}


def steps() -> dict[str, Any]:
    """Return the means by which steps are taken here, and the reasons against better ones."""
    told = sr.explain(sr.board.sgd.optimizer([torch.nn.Parameter(torch.zeros(1))])).as_json()
    return {key: told[key] for key in ("checks", "threads", "comparisons", "reasons")}


def machine(threads: int, gpu: Gpu | None = None) -> dict[str, Any]:
    """Name the machine, the GPU if it is timed, the versions and the source; sizes are in bytes."""
    return {
        "cpu": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": cores(),
        "threads": threads,
        "last_level_cache": last_level_cache(),
        "memory": memory(),
        "gpu": gpu.facts() if gpu else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numba": _version("numba"),
        "numpy": _version("numpy"),
        "jax": _version("jax"),
        "optax": _version("optax"),
        "steprule": sr.__version__,
        "steps": steps(),
        "git": source(),
    }
