"""What a borrowed GPU is used by: the `gpu` rung, which is collected with little installed, and benchmarks/gpu*.sh."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.null

ROOT = Path(__file__).parent.parent


def loaded(place: str) -> ModuleType:
    """Return a file of the repository as a module of its own."""
    spec = importlib.util.spec_from_file_location(Path(place).stem + "_here", ROOT / place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The rung -----------------------------------------------------------------------------------------------


def test_the_gpu_rung_imports_only_the_files_that_have_its_tests(request: pytest.FixtureRequest) -> None:
    leaves_out: Any = loaded("tests/conftest.py").pytest_ignore_collect
    asked = {rung: SimpleNamespace(getoption=lambda _, rung=rung: rung) for rung in ("gpu", "interp", "")}
    files = sorted((ROOT / "tests").rglob("*.py"))
    kept = {path for path in files if not leaves_out(path, asked["gpu"])}
    assert {path.name for path in kept} >= {"conftest.py", "test_on_a_gpu.py", "test_gpu_zoo.py", "test_bench_gpu.py"}
    assert not {path.name for path in kept} & {"test_lightning.py", "test_store.py", "test_docs.py"}
    assert not any(leaves_out(path, asked[rung]) for path in files for rung in ("interp", ""))
    for item in request.session.items:
        if item.get_closest_marker("gpu") or (torch.cuda.is_available() and "test_gpu" in item.path.name):
            assert item.path in kept, item.nodeid


def test_the_labs_tests_are_skipped_before_their_import_where_optuna_is_not(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    lab = loaded("tests/lab/conftest.py")
    place = ROOT / "tests/lab/test_store.py"
    assert lab.pytest_pycollect_makemodule(place, request.session) is None
    monkeypatch.setattr(lab, "find_spec", lambda _: None)
    absent = lab.pytest_pycollect_makemodule(place, request.session)
    with pytest.raises(pytest.skip.Exception, match="needs optuna"):
        absent.collect()
