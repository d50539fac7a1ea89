"""Shared set-up: a private kernel cache for the run, one compute thread, and fixed seeds."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: GPU kernels run as Python, in main memory

hypothesis.settings.register_profile(
    "steprule", derandomize=True, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("steprule")


def pytest_configure() -> None:
    """Answer ctrl-C as Python does, in children too: a shell that runs tests in the background has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import for `-m gpu` only the files that have such tests: a GPU is there for minutes, and all files take one."""
    if config.getoption("markexpr") != "gpu" or not collection_path.match("test_*.py"):
        return None
    return "mark.gpu" not in collection_path.read_text(encoding="utf-8") or None


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(tmp_path_factory: pytest.TempPathFactory):
    """Keep kernels of a test run in a directory of its own, shared by its worker processes."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    # `make mutants` runs the tests hundreds of times, and keeps the kernels that a defect does not change.
    os.environ["STEPRULE_CACHE"] = os.environ.get("STEPRULE_TEST_CACHE", str(shared / "steprule-cache"))
    yield
    del os.environ["STEPRULE_CACHE"]


@pytest.fixture(autouse=True)
def fixed_seeds():
    """Start every test from the same random state and thread count, and leave both as they were."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Let chunks, blocks and rows be so short that a few elements and tensors fill several; yield a chunk's length."""
    from steprule.backends import numba_cpu
    from steprule.backends.triton_build import Build, building

    monkeypatch.setattr(numba_cpu, "CHUNK", 8)
    with building(Build(chunk=8, block=4, rows=2)):
        yield 8


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print how far our classes and torch's were apart, if that was asked for: `pytest -m parity`."""
    if "parity" not in (config.getoption("markexpr") or ""):
        return
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    found = [value for report in reports for key, value in report.user_properties if key == "parity"]
    worst: dict[tuple[str, str], dict[str, float]] = {}
    for optimiser, option, dtype, deviation in found:
        worst.setdefault((optimiser, option), {})[dtype] = deviation
    if worst:
        terminalreporter.section("largest deviation from torch.optim: |a − b| / (|b| + 0.1), in float32 and float64")
        for (optimiser, option), by in sorted(worst.items()):
            seen = "  ".join(f"{by[dtype]:8.1e}" if dtype in by else " " * 8 for dtype in ("float32", "float64"))
            terminalreporter.write_line(f"{optimiser:<9} {seen}  {option}")


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how often tensors are bound: a number a binding that is made."""
    from steprule.optim import binding

    made: list[int] = []
    make_one = binding.Binding.__init__

    def counted(self: Any, *given: Any, **named: Any) -> None:
        make_one(self, *given, **named)
        made.append(len(self.parameters))

    monkeypatch.setattr(binding.Binding, "__init__", counted)
    return made
