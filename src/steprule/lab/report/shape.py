"""The layout of results.json. Keys that are not listed here are ignored."""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass
from typing import Any

from steprule.console.text import one_line

SCHEMA = 2
"""The number of the layout; it grows when a key changes its meaning or goes."""


@dataclass(frozen=True)
class Maybe:
    """A shape, or null."""

    of: Any


@dataclass(frozen=True)
class Sometimes:
    """A shape, or no field of that name."""

    of: Any


@dataclass(frozen=True)
class Each:
    """An object with any keys, every value of one shape."""

    of: Any


@dataclass(frozen=True)
class One:
    """One of these words."""

    words: tuple[Any, ...]


class Misshapen(Exception):  # noqa: N818 - the lab words it as a sentence, and it never leaves the lab
    """A value is missing, misplaced or of another kind."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(one_line(f"{where or 'it'} {what}"))


ANY = object()
"""Any JSON value."""

_NUMBER, _COUNT = Maybe(float), Maybe(int)
_INTERVAL = Maybe({"middle": float, "low": float, "high": float})
_SPREAD = Sometimes(Maybe({"low": float, "high": float, "steps": int}))
"""The quartiles of the times of steps, and how many were timed."""
VERDICT = One(("better", "worse", "indistinguishable"))
_EXHIBIT = {"caption": str, "png": Maybe(str), "text": Maybe(str)}

COLUMNS = (
    "iteration",
    "epoch",
    "examples",
    "seconds",
    "lr",
    "training_loss",
    "validation_loss",
    "score",
    "gradient_norm",
    "clip_coefficient",
    "update_ratio",
)
"""The columns of a run's curve."""

RUN = {
    "phase": One(("tuning", "default", "report")),
    "lr": float,
    "seed": int,
    "status": One(("finished", "diverged", "failed", "interrupted")),
    "reason": str,
    "iterations": int,
    "epochs": float,
    "gradient_evaluations": Sometimes(int),
    "initial_training_loss": _NUMBER,
    "final_training_loss": _NUMBER,
    "validation_loss": _NUMBER,
    "test_loss": _NUMBER,
    "test_score": _NUMBER,
    "optimizer_us_per_step": _NUMBER,
    "step_spread": _SPREAD,
    "state_bytes_per_parameter": _NUMBER,
    "seconds": _NUMBER,
    "exhibits": [_EXHIBIT],
    "curve": {column: [_COUNT if column in {"iteration", "examples"} else _NUMBER] for column in COLUMNS},
}

SUMMARY = {
    "test_score": _INTERVAL,
    "validation_loss": _NUMBER,
    "to_target": Maybe({"iterations": _NUMBER, "epochs": _NUMBER, "examples": _NUMBER, "seconds": _NUMBER}),
    "reached_target": int,
    "runs": int,
    "diverged": int,
    "failed": int,
    "optimizer_us_per_step": _NUMBER,
    "step_spread": _SPREAD,
}

TASK = {
    "name": str,
    "title": str,
    "about": str,
    "network": str,
    "parameters": int,
    "examples": {"train": int, "validation": int, "test": int},
    "metric": {"name": str, "higher": bool, "percent": bool, "unit": str},
    "target": _NUMBER,
    "optimum": _NUMBER,
    "theory": [{"label": str, "x": [_NUMBER], "y": [_NUMBER]}],
    "budget": {
        "epochs": _NUMBER,
        "iterations": _COUNT,
        "batch_size": int,
        "final_full_batch": bool,
        "accumulate": int,
        "precision": str,
        "timeout": _NUMBER,
    },
    "reference": [_EXHIBIT],
}

OPTIMIZER = {
    "key": str,
    "name": str,
    "title": str,
    "schedule": str,
    "clips": [{"name": str, "bound": float}],
    "hyperparameters": Each(ANY),
    "settings": str,
    "full_batch": Sometimes(bool),
    "formula": Maybe(str),
    "equations": [str],
    "latex": Maybe(str),
    "source": Maybe(str),
    "passes": [ANY],
    "bytes_per_parameter": _NUMBER,
    "state_bytes_per_parameter": _NUMBER,
    "backend": Maybe(str),
}

DOCUMENT = {
    "schema": One((SCHEMA,)),
    "study": Sometimes(str),
    "command": str,
    "started": str,
    "seconds": float,
    "interrupted": bool,
    "complete": bool,
    "versions": Each(str),
    "hardware": Each(ANY),
    "git": Maybe({"commit": str, "modified": bool}),
    "protocol": {
        "text": [str],
        "grids": Each([float]),
        "own_grids": Sometimes(Each(Each([float]))),
        "tuning_seeds": [int],
        "report_seeds": [int],
        "schedules": [str],
        "clips": [str],
        "budget": Maybe(str),
    },
    "tasks": [TASK],
    "optimizers": [OPTIMIZER],
    "results": [
        {
            "task": str,
            "optimizer": str,
            "lr": _NUMBER,
            "lr_at_edge": Maybe(One(("low", "high"))),
            "default_lr": _NUMBER,
            "tuned": Maybe(SUMMARY),
            "default": Maybe(SUMMARY),
            "runs": [RUN],
        }
    ],
    "comparisons": [
        {
            "task": str,
            "phase": str,
            "a": str,
            "b": str,
            "difference": _INTERVAL,
            "verdict": VERDICT,
        }
    ],
    "variants": Sometimes(
        [
            {
                "task": str,
                "optimizer": str,
                "of": str,
                "loss": _INTERVAL,
                "of_loss": _INTERVAL,
                "difference": _INTERVAL,
                "overlap": bool,
                "verdict": VERDICT,
            }
        ]
    ),
    "verdicts": Each(str),
    "winner": Each(Maybe(str)),
}

PNG = b"\x89PNG\r\n\x1a\n"

_PLAIN = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}

MOST = 1e150
"""No number of a training run is larger: beyond it the charts' arithmetic overflows."""


def check(value: Any, shape: Any = DOCUMENT, where: str = "") -> None:
    """Pass a value that has the shape; raise `Misshapen` at the first place where it has not."""
    if shape is ANY or (isinstance(shape, Maybe) and value is None):
        return
    if isinstance(shape, Maybe):
        check(value, shape.of, where)
    elif isinstance(shape, One):
        told = f"is none of {', '.join(map(str, shape.words))}"
        _demand(any(type(value) is type(word) and value == word for word in shape.words), where, told)
    elif isinstance(shape, Each):
        _demand(isinstance(value, dict), where, "is no object")
        for key, inner in value.items():
            check(inner, shape.of, f"{where}.{key}" if where else key)
    elif isinstance(shape, dict):
        _object(value, shape, where)
    elif isinstance(shape, list):
        _demand(isinstance(value, list), where, "is no list")
        for place, inner in enumerate(value):
            check(inner, shape[0], f"{where}[{place}]")
    else:
        _demand(_is(value, shape), where, f"is not {_PLAIN[shape]}")


def _object(value: Any, shape: dict[str, Any], where: str) -> None:
    _demand(isinstance(value, dict), where, "is no object")
    for key, inner in shape.items():
        if isinstance(inner, Sometimes):
            if key not in value:
                continue
            inner = inner.of  # noqa: PLW2901
        _demand(key in value, where, f"has no {key!r}")
        check(value[key], inner, f"{where}.{key}" if where else key)


def _demand(true: bool, where: str, what: str) -> None:
    if not true:
        raise Misshapen(where, what)


def _is(value: Any, kind: type) -> bool:
    """Whether a value is of a plain kind; true and false are no numbers, and a count is not below zero."""
    if isinstance(value, bool) or kind in {str, bool}:
        return type(value) is kind
    if kind is int:
        return isinstance(value, int) and 0 <= value < 2**53
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) < MOST


def whole(run: dict[str, Any], where: str = "") -> None:
    """Check a law that the shape of a run cannot express: its columns are equally long."""
    there = f"{where}.curve" if where else "curve"
    _demand(len({len(run["curve"][column]) for column in COLUMNS}) == 1, there, "has columns of different lengths")


def pictures(exhibits: list[dict[str, Any]], where: str) -> None:
    """Check that the exhibits' pictures are PNGs."""
    for exhibit in exhibits:
        try:
            picture = base64.b64decode(exhibit["png"], validate=True) if exhibit["png"] else PNG
        except (ValueError, binascii.Error):
            picture = b""
        _demand(picture.startswith(PNG), where, "has a picture that is no PNG in base64")
