"""Compiled kernels on disk: private, content-addressed, immutable, and checked before they are used.

An entry is a directory named by a digest of the source and of everything that shapes its machine code. It holds
the source, for people, and the object code. It is built beside its place and renamed into it whole, so a reader
sees all of it or nothing, and two processes that build it at once both succeed. Nothing in it is Python that
is run or data that is unpickled: object code is linked only if the directory is private to this user, its
digest is the one written beside it, and the source equals the one just generated. Any doubt means that
the kernel is compiled again. Writing an entry removes those that no process has linked for long.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import json
import linecache
import os
import re
import shutil
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np

from ..graph import chance, words
from ..locks import lock
from ..plan import float16, minifloats, rounding
from . import compiler, half, lanes, memory

VARIABLE = "STEPRULE_CACHE"
"""The one environment variable: where kernels are kept."""

Kernel = Callable[[int, int, int], None]
"""A kernel's entry point: first part, last part, address of its tables."""

_PROTOTYPE = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
_SOURCE, _OBJECT, _MANIFEST = "kernel.py", "kernel.o", "MANIFEST.json"
_WORKSHOP = ".build-"
ABANDONED = 3600.0
"""Seconds after which an unfinished entry is abandoned: writing one takes milliseconds."""
KEPT_SECONDS, KEPT_BYTES = 90 * 86_400.0, 256 << 20
"""How long an entry is kept after it was last linked, and how much all entries may take together."""
_ENTRY = re.compile("[0-9a-f]{32}")
_lock = lock()
_loaded: dict[str, Kernel] = {}
_told: set[str] = set()
_untold: list[str] = []
_kept: list[object] = []  # machine code lives as long as the process: a kernel may be running at its end


@dataclass
class Counts:
    """How kernels came about in this process."""

    compiled: int = 0
    loaded: int = 0


counts = Counts()


# Where ------------------------------------------------------------------------------------------------


def directory() -> Path | None:
    """Return the private directory of kernels, made if need be, or None if none can be trusted."""
    chosen = os.environ.get(VARIABLE)
    shared = os.environ.get("XDG_CACHE_HOME")
    place: Path | None = None
    try:
        base = Path(chosen) if chosen else (Path(shared) if shared else Path.home() / ".cache") / "steprule"
        place = base.expanduser() / "kernels"
        for path in reversed((place, *place.parents)):  # each made for its owner alone, under any umask
            if path == place or not path.exists():
                path.mkdir(mode=0o700, exist_ok=True)
        private = _private(place)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        _report(f"{place or chosen or 'the cache of kernels'} cannot be used ({_reason(error)})")
        return None
    if not private:
        _report(f"{place} is not private to this user")
    return place if private else None


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _report(trouble: str) -> None:
    """Keep a warning that the cache cannot be used, for the first kernel that is ready."""
    if trouble not in _told:
        _told.add(trouble)
        help_ = f"make it yours alone (chmod 700), with room to write, or set {VARIABLE} to a directory that is"
        _untold.append(f"{trouble}, so kernels stay in memory and every process compiles them anew\nhelp: {help_}")


def _tell() -> None:
    while _untold:
        warnings.warn(_untold.pop(), stacklevel=3)


def _private(path: Path) -> bool:
    """Whether a directory is a real one, ours, and open to nobody else."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return False
    return not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o077)


_CALLED = (memory, half, lanes, rounding, float16, minifloats, chance, words)
"""The modules of which kernels are made, besides their own text."""


def digest(source: str) -> str:
    """Return the name of a kernel's entry: its source, and all that decides its machine code."""
    parts = (
        source,
        *(Path(str(module.__file__)).read_text(encoding="utf-8") for module in _CALLED),
        numba.__version__,
        llvmlite.__version__,
        sys.version,
        *compiler.settings(),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


# In and out -------------------------------------------------------------------------------------------


def _seal(symbol: str, code: bytes) -> str:
    """Return the digest of an entry: of its object code, and of the function to call."""
    return hashlib.sha256(symbol.encode() + b"\0" + code).hexdigest()


def _read(entry: Path, source: str) -> tuple[str, bytes] | None:
    """Return the symbol and object code of a sound entry, None for any other."""
    try:
        if not _private(entry) or any(path.is_symlink() for path in entry.iterdir()):
            return None
        manifest = json.loads((entry / _MANIFEST).read_text(encoding="utf-8"))
        code = (entry / _OBJECT).read_bytes()
        symbol = str(manifest["symbol"])
        same_source = (entry / _SOURCE).read_text(encoding="utf-8") == source
        return (symbol, code) if same_source and manifest["sha256"] == _seal(symbol, code) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _sweep(place: Path) -> None:
    """Remove the remains of killed processes, and entries that are old or too many."""
    now = time.time()
    entries: list[tuple[float, int, Path]] = []
    for path in place.iterdir():
        with contextlib.suppress(OSError):  # another process may be removing it too
            used = path.lstat().st_mtime
            if path.name.startswith(_WORKSHOP) and now - used > ABANDONED:
                shutil.rmtree(path, ignore_errors=True)
            elif _ENTRY.fullmatch(path.name) and not path.is_symlink():
                entries.append((used, sum(file.lstat().st_size for file in path.iterdir()), path))
    room = KEPT_BYTES
    for used, size, path in sorted(entries, reverse=True):
        room -= size
        if room < 0 or now - used > KEPT_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _fill(path: Path, data: bytes | str) -> None:
    """Write a new file that only its owner may read, under any umask."""
    path.touch(mode=0o600, exist_ok=False)
    if isinstance(data, str):
        path.write_text(data, encoding="utf-8")
    else:
        path.write_bytes(data)


def _set_aside(entry: Path) -> None:
    """Remove an entry whole. Its place never holds a part of one, even if another process fills it meanwhile."""
    aside = Path(tempfile.mkdtemp(prefix=_WORKSHOP, dir=entry.parent))
    with contextlib.suppress(OSError):  # another process was quicker
        entry.rename(aside / entry.name)
    shutil.rmtree(aside, ignore_errors=True)


def _write(place: Path, name: str, source: str, symbol: str, code: bytes) -> None:
    """Put an entry beside its place, then rename it there whole. A second process keeps the first one's."""
    _sweep(place)
    workshop = Path(tempfile.mkdtemp(prefix=_WORKSHOP, dir=place))
    try:
        _fill(workshop / _SOURCE, source)
        _fill(workshop / _OBJECT, code)
        _fill(workshop / _MANIFEST, json.dumps({"symbol": symbol, "sha256": _seal(symbol, code)}))
        entry = place / name
        if entry.is_symlink() or entry.is_file():
            entry.unlink()  # the target of a link is not ours
        elif entry.exists() and _read(entry, source) is None:
            _set_aside(entry)
        try:
            workshop.rename(entry)
        except OSError:
            if not entry.is_dir():  # else another process was first, be it by a moment
                raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


# Making -----------------------------------------------------------------------------------------------


def execute(source: str, name: str) -> dict[str, Any]:
    """Run text that this process has just generated, never text from a file."""
    path = f"<steprule kernel {name}>"
    linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
    namespace: dict[str, Any] = {"__name__": f"steprule_kernel_{name}"}
    exec(compile(source, path, "exec"), namespace)  # noqa: S102
    return namespace


def _compile(source: str, name: str) -> tuple[Kernel, str, bytes | None]:
    namespace = execute(source, name)
    signature = numba.void(*[numba.int64] * 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", numba.NumbaWarning)
        compiled: Any = numba.cfunc(signature, **memory.EXACT)(namespace["kernel"])
    _kept.append(compiled)
    counts.compiled += 1
    try:
        _, _, (code, _) = compiled._library.serialize_using_object_code()  # noqa: SLF001
    except (AttributeError, RuntimeError, TypeError, ValueError):  # a Numba that keeps its object code to itself
        code = None
    return _PROTOTYPE(compiled.address), compiled.native_name, code


def _helpers() -> dict[str, int]:
    """Return the addresses of Numba's own run-time functions, which error paths refer to."""
    found: dict[str, int] = {}
    for module, prefix in (("numba._helperlib", "numba_"), ("numba.core.runtime._nrt_python", "NRT_")):
        for name, address in importlib.import_module(module).c_helpers.items():
            found[name if name.startswith(prefix) else prefix + name] = address
    return found


def _link(name: str, symbol: str, code: bytes) -> Kernel | None:
    """Link object code into this process, or return None if it needs a symbol that this process lacks."""
    try:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        compiler = llvm.create_lljit_compiler()
        builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process().export_symbol(symbol)
        for helper, address in _helpers().items():
            builder.import_symbol(helper, address)
        library = builder.link(compiler, name)
        address = library[symbol]
    except (AttributeError, ImportError, RuntimeError, KeyError):
        return None
    _kept.extend((compiler, library))
    return _PROTOTYPE(address)


def address(kernel: Kernel) -> int | None:
    """Return the address of a kernel's machine code, or None for a kernel in Python."""
    code: Any = kernel
    return ctypes.cast(code, ctypes.c_void_p).value if isinstance(code, _PROTOTYPE) else None


def load(source: str) -> Kernel:
    """Return the `kernel` of a source: from this process, linked from disk, or freshly compiled."""
    with _lock:
        name = digest(source)
        if name not in _loaded:
            _loaded[name] = _find(source, name)
        kernel = _loaded[name]
    _tell()
    return kernel


def _find(source: str, name: str) -> Kernel:
    if compiler.switched_off():
        return plain(source)
    compiler.ask()
    place = directory()
    stored = _read(place / name, source) if place is not None else None
    linked = _link(name, *stored) if stored is not None else None
    if linked is not None and place is not None:
        with contextlib.suppress(OSError):  # a disk that can only be read
            os.utime(place / name)
        counts.loaded += 1
        return linked
    kernel, symbol, code = _compile(source, name)
    if place is not None and code is not None:
        try:
            _write(place, name, source, symbol, code)
        except OSError as error:  # a full or read-only disk: memory is always there
            _report(f"{place} cannot be written ({_reason(error)})")
    # Later processes run this object code; what Numba made for this one may add up in another order.
    return (_link(name, symbol, code) if code is not None else None) or kernel


def plain(source: str) -> Kernel:
    """Return a kernel as ordinary Python, without a compiler: slow, with readable errors."""
    namespace = execute(source, "plain")
    for name, value in namespace.items():
        function = getattr(value, "py_func", value)
        if isinstance(function, FunctionType):
            namespace[name] = FunctionType(function.__code__, namespace, name)
    namespace |= {
        name: meaning for name, meaning in (memory.PLAIN | half.PLAIN | lanes.PLAIN).items() if name in namespace
    }
    return np.errstate(all="ignore")(namespace["kernel"])  # machine code does not warn either
