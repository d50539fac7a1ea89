"""Read a results.json from disk, and refuse a file of another layout in words.

The file may come from anyone, so nothing in it is trusted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import steprule as sr
from steprule.lab.report.shape import SCHEMA, Misshapen, check, pictures, whole

LARGEST = 256 * 2**20
"""Bytes beyond which a file is no record of a comparison."""


def read(path: Path) -> dict[str, Any]:
    """Return the document of a results.json, or of the one in a folder."""
    file = path / "results.json" if path.is_dir() else path
    try:
        if not file.is_file():
            _refuse(file, "is not there" if not file.exists() else "is no file", "give the folder of a comparison")
        if file.stat().st_size > LARGEST:
            _refuse(file, f"is larger than {LARGEST // 2**20} MiB", "give the results.json of one comparison")
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        _refuse(file, "is not UTF-8 text", "give a results.json that steprule wrote")
    except OSError as error:
        _refuse(file, f"cannot be read: {error.strerror or error}", "check the path and who may read it")
    return _parsed(file, text)


def _parsed(file: Path, text: str) -> dict[str, Any]:
    try:
        document = json.loads(text, parse_constant=_no_constant)
        json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        _refuse(file, f"is not strict JSON: {error}"[:300], "give a results.json that steprule wrote")
    found = document.get("schema") if isinstance(document, dict) else None
    if found != SCHEMA:
        older = isinstance(found, int) and found < SCHEMA
        told = f"has schema {found!r}, and this version reads {SCHEMA}" if found is not None else "names no schema"
        repeat = "repeat its command with this version" if older else "use the version of steprule that wrote it"
        _refuse(file, told[:200], repeat)
    try:
        check(document)
        _agree(document)
    except Misshapen as error:
        _refuse(file, f"is malformed: {error}", "give the file as steprule wrote it, or repeat the comparison")
    return document


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _refuse(file: Path, what: str, fix: str) -> NoReturn:
    raise sr.errors.StateError(f"{file.name or file} {what}", where=str(file), fix=fix)


def _agree(document: dict[str, Any]) -> None:
    """Check the laws that a shape cannot express: names are unique and known, columns equally long, pictures PNGs."""
    tasks = _unique("tasks", [task["name"] for task in document["tasks"]])
    keys = _unique("optimizers", [arm["key"] for arm in document["optimizers"]])
    _unique("results", [(row["task"], row["optimizer"]) for row in document["results"]])
    for place, row in enumerate(document["results"]):
        _known(row["task"], tasks, f"results[{place}].task")
        _known(row["optimizer"], keys, f"results[{place}].optimizer")
        for number, run in enumerate(row["runs"]):
            where = f"results[{place}].runs[{number}]"
            whole(run, where)
            pictures(run["exhibits"], where)
    for place, task in enumerate(document["tasks"]):
        pictures(task["reference"], f"tasks[{place}]")
        if any(len(line["x"]) != len(line["y"]) for line in task["theory"]):
            raise Misshapen(f"tasks[{place}].theory", "has columns of different lengths")
    for place, pair in enumerate(document["comparisons"]):
        _known(pair["task"], tasks, f"comparisons[{place}].task")
        _known(pair["a"], keys, f"comparisons[{place}].a")
        _known(pair["b"], keys, f"comparisons[{place}].b")


def _unique(where: str, names: list[Any]) -> set[Any]:
    if len(set(names)) != len(names):
        raise Misshapen(where, "name one thing twice")
    return set(names)


def _known(name: str, names: set[Any], where: str) -> None:
    if name not in names:
        raise Misshapen(where, "names nothing that is listed")
