"""Every lower bound of pyproject.toml is one that `make test-floor` installs, and that the pinned versions keep."""

from __future__ import annotations

import tomllib
import warnings
from pathlib import Path

import pytest

from floor import PROJECT, RUN, floors

pytestmark = pytest.mark.null


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def test_every_requirement_has_a_lower_bound_that_is_installed_exactly() -> None:
    found = floors(PROJECT.read_text(encoding="utf-8"))
    assert {"torch", "numba", "numpy", "optuna", "click", "triton", "pytest"} <= set(found)
    lines = (Path(PROJECT).parent / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.lower().split("==") for line in lines if "==" in line)
    assert all(numbers(pinned[name]) >= numbers(version) for name, version in found.items())


def test_a_requirement_without_a_lower_bound_is_refused() -> None:
    text = PROJECT.read_text(encoding="utf-8").replace('"click>=8.3.0"', '"click"')
    with pytest.raises(AttributeError):
        floors(text)


def test_every_extra_is_run_at_its_bounds_or_at_the_pinned_versions() -> None:
    extras = set(tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"])
    assert extras - set(RUN) == {"bench", "peers", "docs", "page", "hosts", "dev", "dist"}


def test_what_torch_says_of_python_3_13_0_is_no_error() -> None:
    warnings.warn("Guards may run slower on Python 3.13.0. Consider upgrading.", RuntimeWarning, stacklevel=1)
    with pytest.raises(RuntimeWarning):
        warnings.warn("Another", RuntimeWarning, stacklevel=1)
