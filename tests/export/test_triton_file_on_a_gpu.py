"""Exported files of Triton on a GPU, beside the library's kernels there: bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from triton_file import exported, fill, maker, parameters, same

import steprule as sr
from steprule.zoo import papers

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

CASES: dict[str, tuple[Any, torch.dtype, dict[str, Any]]] = {
    "AdamW": (sr.optim.AdamW, torch.float32, {"clip": 1.0}),
    "LAMB": (papers.lamb, torch.float32, {}),
    "Lion": (papers.lion, torch.bfloat16, {"rounding": "stochastic"}),
    "SGLD": (papers.sgld, torch.float32, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_steps_as_the_library_s_kernels_do(name: str, tmp_path: Path) -> None:
    """Of a part of a chunk, several chunks, and a tensor that begins at no multiple of 16 bytes."""
    what, dtype, options = CASES[name]
    shapes = [(7,), (3, 5000), (1,), (64, 129)]
    mine, ours = parameters(*shapes, dtype=dtype, device="cuda"), parameters(*shapes, dtype=dtype, device="cuda")
    for params in (mine, ours):
        params[1].data = torch.cat([params[1].data.new_zeros(1), params[1].data.view(-1)])[1:].view(3, 5000)
    optimizer = exported(what, tmp_path, dtype, **options)(mine)
    other = maker(what, **options)(ours)
    for number in range(20):
        fill(mine, ours, number, absent=2 if number == 1 else -1)
        optimizer.step()
        other.step()
    assert sr.explain(other).backend == "triton_gpu"
    same(optimizer, other)
