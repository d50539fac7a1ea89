"""What parity tests share: torch's default dtype, and the table of deviations printed by `pytest -m parity`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import RTOL

Record = Callable[[str, str, torch.dtype, float], None]


@pytest.fixture
def default_dtype(request: pytest.FixtureRequest):
    """Make the test's dtype torch's default: torch keeps NAdam's mu_product, ASGD's eta and mu and all step counts
    in the default dtype, so that a float64 comparison to 1e-12 needs float64 there too."""
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def deviations(record_property: Callable[[str, object], None]) -> Record:
    """Record a deviation for the table, and hold it against what its dtype allows."""

    def record(optimiser: str, option: str, dtype: torch.dtype, worst: float) -> None:
        record_property("parity", [optimiser, option, str(dtype).removeprefix("torch."), worst])
        assert worst <= RTOL[dtype]

    return record
