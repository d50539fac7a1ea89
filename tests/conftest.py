"""Shared set-up: a private kernel cache for the run, one compute thread, and fixed seeds."""

from __future__ import annotations

import os

import hypothesis
import numpy as np
import pytest
import torch

hypothesis.settings.register_profile(
    "steprule", derandomize=True, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("steprule")


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(tmp_path_factory: pytest.TempPathFactory):
    """Keep kernels of a test run in a directory of its own, shared by its worker processes."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["STEPRULE_CACHE"] = str(shared / "steprule-cache")
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
