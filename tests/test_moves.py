"""What other libraries are here: the pages of Move say which lines make equal numbers, and why others do not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import moves  # noqa: E402

pytestmark = pytest.mark.null


@pytest.mark.parametrize("library", moves.MOVES)
def test_a_line_of_other_numbers_says_what_differs(library: str) -> None:
    """In float32 numbers are equal up to its last digits, in float64 up to where torch adds ε."""
    found = json.loads((moves.RECORDS / f"{library}.json").read_text(encoding="utf-8"))["apart"]
    near = 1e-6 if library in moves.SINGLE else 1e-9
    far = {move.theirs for move, apart in zip(moves.MOVES[library], found, strict=True) if apart > near}
    assert far == {move.theirs for move in moves.MOVES[library] if move.differs} - {
        "timm.optim.Lamb(p, lr)",  # what a millionth beside the norm does is less
    }


def test_our_lines_still_run() -> None:
    """A name or an argument that is gone would be missed by no other test."""
    for library in moves.MOVES.values():
        for move in library:
            parameter = torch.nn.Parameter(torch.ones(2, 2))
            eval(move.ours, {"optim": moves.optim, "sr": moves.sr, "p": [parameter], "lr": 0.01})  # noqa: S307
