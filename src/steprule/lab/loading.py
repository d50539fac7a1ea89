"""Load objects that a user names as `module:name` or `file.py:name`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import steprule as sr
from steprule.console.text import near


def is_reference(text: str) -> bool:
    """Whether a text is written as `module:name` or `file.py:name`."""
    return ":" in text


def load(text: str) -> Any:
    """Return the object that `module:name` or `file.py:name` names. A module may also lie in the working folder.

    A file is executed once a process, however often it is named.
    """
    home, _, name = text.rpartition(":")
    if not home or not name.replace(".", "a").isidentifier():
        raise sr.errors.StepruleError(
            f"{text!r} names nothing that could be loaded", fix="write module:name or file.py:name"
        )
    try:
        found = _file(Path(home)) if home.endswith(".py") else _module(home)
    except sr.errors.StepruleError:
        raise
    except Exception as error:  # the user's file may do anything
        told = f"{home} cannot be loaded: {type(error).__name__}: {error}"
        fix = f"mend it, or try `python {home}`" if home.endswith(".py") else f"mend it, or try `import {home}`"
        raise sr.errors.StepruleError(told, where=place(error), fix=fix) from error
    for part in name.split("."):
        if not hasattr(found, part):
            names = [public for public in vars(found) if not public.startswith("_")]
            fix = f"{near(part, names)} it has {', '.join(names)[:200] or 'nothing'}".strip()
            raise sr.errors.StepruleError(f"{home} has no {part!r}", where=text, fix=fix)
        found = getattr(found, part)
    return found


def digest(text: str) -> str:
    """Return the beginning of the SHA-256 of the file that defines a referenced object, or "" without one.

    A study goes on only with the code that it began with.
    """
    found, home = load(text), text.rpartition(":")[0]
    if isinstance(found, type | FunctionType):
        home = found.__module__  # it may have been imported to where it is named
    path = Path(home if home.endswith(".py") else getattr(sys.modules.get(home), "__file__", None) or "")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else ""


def place(error: Exception) -> sr.errors.Origin | str:
    """Return the line that raised an error: the last one outside of libraries, if there is one."""
    if isinstance(error, SyntaxError) and error.filename:
        return sr.errors.Origin(error.filename, error.lineno or 0, error.text or "")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    theirs = [frame for frame in frames if not _installed(frame.filename)]
    last = (theirs or frames)[-1:]
    return sr.errors.Origin(last[0].filename, last[0].lineno or 0, last[0].line or "") if last else ""


def _installed(filename: str) -> bool:
    """Whether a file belongs to a library or to this one."""
    return "site-packages" in filename or Path(filename).is_relative_to(Path(sr.__file__).parent)


def _module(name: str) -> ModuleType:
    """Import a module. The working folder comes last, so that its files hide no installed module."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise sr.errors.StepruleError(
            f"there is no module {error.name!r}", where=name, fix="install it, or run in the folder where it lies"
        ) from error


def _file(path: Path) -> ModuleType:
    """Execute a file as a module of its own, which can be imported again under its name."""
    try:
        whole = path.resolve(strict=True)
        whereabouts = hashlib.sha256(str(whole).encode()).hexdigest()[:12]
    except OSError as error:
        raise sr.errors.StepruleError(
            f"cannot read {path}: {error.strerror or error}",
            where=f"in the folder {Path.cwd()}",
            fix="give the path of a Python file",
        ) from error
    name = f"steprule_user_{path.stem}_{whereabouts}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, whole)
    if spec is None or spec.loader is None:
        raise sr.errors.StepruleError(f"{path} is no Python file", fix="give the path of a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it is executed: rules and dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
