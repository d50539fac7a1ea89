"""Compiled kernels on disk: private, content-addressed, immutable, and checked before they are used.

An entry is a directory named by a digest of the source and of everything that shapes its machine code. It is
built beside its place and renamed into it whole, so a reader sees all of it or nothing, and two processes
that build it at once both succeed. Before anything in it is executed or unpickled, its owner and mode, the
digest of each of its files, and its source (which must equal the one just generated) are checked; any doubt
means that the kernel is compiled in memory and the entry replaced.
"""

from __future__ import annotations

import hashlib
import json
import linecache
import os
import shutil
import stat
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import llvmlite
import llvmlite.binding
import numba

from . import memory

VARIABLE = "STEPRULE_CACHE"
"""The one environment variable: where kernels are kept."""

_MANIFEST = "MANIFEST.json"
_SOURCE = "kernel.py"
_lock = threading.RLock()
_loaded: dict[str, Callable[..., Any]] = {}


@dataclass
class Counts:
    """How kernels came about in this process."""

    compiled: int = 0
    loaded: int = 0


counts = Counts()


def directory() -> Path | None:
    """Return the private directory of kernels, made if need be; None if there is none to trust."""
    chosen = os.environ.get(VARIABLE) or os.environ.get("XDG_CACHE_HOME")
    try:
        base = Path(chosen) if chosen else Path.home() / ".cache"
        place = base / "kernels" if os.environ.get(VARIABLE) else base / "steprule" / "kernels"
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _private(place):
            warnings.warn(f"{place} is not private to this user; kernels are compiled in memory", stacklevel=2)
            return None
        return place
    except (OSError, RuntimeError):  # RuntimeError: no home directory
        return None


def _private(path: Path) -> bool:
    """Whether a directory is a real one, ours, and writable by nobody else."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return False
    return not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o077)


def digest(source: str) -> str:
    """Return the name of a kernel's entry: its source, and all that decides its machine code."""
    features = llvmlite.binding.get_host_cpu_features().flatten()
    parts = (
        source,
        Path(memory.__file__).read_text(encoding="utf-8"),
        numba.__version__,
        llvmlite.__version__,
        sys.version,
        llvmlite.binding.get_host_cpu_name(),
        features,
        str(numba.config.CPU_FEATURES),  # pyright: ignore[reportAttributeAccessIssue]
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _files(entry: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(entry.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise OSError(f"{path} is no plain file")
        if path.is_file() and path.name != _MANIFEST:
            found[path.relative_to(entry).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _sound(entry: Path, source: str) -> bool:
    """Whether an entry holds exactly what was put into it, and the source we would write now."""
    try:
        manifest = json.loads((entry / _MANIFEST).read_text(encoding="utf-8"))
        same_source = (entry / _SOURCE).read_text(encoding="utf-8") == source
        return _private(entry) and same_source and manifest == _files(entry)
    except (OSError, ValueError, RecursionError):
        return False


def _execute(source: str, path: Path, name: str) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = str(path)
    # Numba's cache finds a function through its file and its module, so both must exist first.
    sys.modules[name] = module
    linecache.cache[str(path)] = (len(source), None, source.splitlines(keepends=True), str(path))
    # The text was generated in this process a moment ago; nothing read from a file is executed.
    exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102
    return module


@contextmanager
def _own_cache_only() -> Iterator[None]:
    """Keep Numba's cache beside the source, whatever NUMBA_CACHE_DIR says: elsewhere it is unchecked."""
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = ""
    try:
        yield
    finally:
        config.CACHE_DIR = before


def _compile(module: ModuleType, signature: Any) -> Callable[..., Any]:
    kernel = module.__dict__["kernel"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", numba.NumbaWarning)
        kernel.compile(signature)
    if sum(kernel.stats.cache_hits.values()):
        counts.loaded += 1
    else:
        counts.compiled += 1
    return kernel


def _in_memory(source: str, name: str, signature: Any) -> Callable[..., Any]:
    text = source.replace("CACHE = True", "CACHE = False")
    return _compile(_execute(text, Path(f"<{name}>"), name), signature)


def _build(place: Path, name: str, source: str, signature: Any) -> Callable[..., Any]:
    """Compile beside the entry's place, then rename the whole into it."""
    workshop = Path(tempfile.mkdtemp(prefix=".build-", dir=place))
    try:
        path = workshop / _SOURCE
        path.write_text(source, encoding="utf-8")
        kernel = _compile(_execute(source, path, name), signature)
        (workshop / _MANIFEST).write_text(json.dumps(_files(workshop)), encoding="utf-8")
        entry = place / name
        if entry.exists() and not _sound(entry, source):
            shutil.rmtree(entry, ignore_errors=True)
        if not entry.exists():
            workshop.rename(entry)
        return kernel
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def load(source: str, signature: Any) -> Callable[..., Any]:
    """Return the compiled `kernel` of a source, from this process, from disk, or freshly compiled."""
    with _lock, _own_cache_only():
        name = f"steprule_{digest(source)}"
        if name in _loaded:
            return _loaded[name]
        if numba.config.DISABLE_JIT:  # pyright: ignore[reportAttributeAccessIssue]
            _loaded[name] = plain(source)
            return _loaded[name]
        place = directory()
        try:
            if place is not None and _sound(place / name, source):
                path = place / name / _SOURCE
                _loaded[name] = _compile(_execute(source, path, name), signature)
            elif place is not None:
                _loaded[name] = _build(place, name, source, signature)
        except OSError:  # a full disk, or an entry that vanished: memory is always there
            pass
        if name not in _loaded:
            _loaded[name] = _in_memory(source, name, signature)
        return _loaded[name]


def plain(source: str) -> Callable[..., Any]:
    """Return a kernel as ordinary Python, without a compiler: slow, with readable errors."""
    text = source.replace("CACHE = True", "CACHE = False")
    module = _execute(text, Path("<plain kernel>"), "steprule_plain_kernel")
    namespace = dict(module.__dict__)
    for name, value in module.__dict__.items():
        function = getattr(value, "py_func", value)
        if isinstance(function, FunctionType):
            helper = memory.PLAIN.get(function.__name__)
            namespace[name] = helper or FunctionType(function.__code__, namespace, name)
    return namespace["kernel"]
