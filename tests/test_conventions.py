"""The table of conventions is what optimisers do; `benchmarks/conventions.py` runs those of other libraries."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import conventions

pytestmark = pytest.mark.cpu

HERE = ("steprule.board", "steprule.optim", "torch.optim")


@pytest.mark.parametrize("library", HERE)
def test_the_record_holds_what_optimisers_do(library: str) -> None:
    rows = json.loads(conventions.RECORD.read_text(encoding="utf-8"))["rows"]
    _, kind, arms = conventions.LIBRARIES[library]
    module = {"torch.optim": "torch.optim"}.get(library, "steprule.optim")
    quick = {"backend": "eager"} if module == "steprule.optim" else {}
    assert arms
    for family, arm in arms.items():
        found, made = conventions.walk(module, kind, replace(arm, given={**arm.given, **quick}))
        told = rows[family][library]
        assert conventions.convention(family, found) == told["convention"]
        named = json.loads(json.dumps(conventions.names(made, arm.given)))  # tuples become lists
        assert named == told["arguments"]


@pytest.mark.parametrize("family", ["SGD with momentum", "Nesterov", "AdaGrad", "RMSProp", "Adam", "AdamW"])
def test_every_setting_is_told_from_every_other(family: str) -> None:
    """A setting's own numbers fit it alone, so that a record cannot name a neighbour."""
    for words, step in conventions.settings(family):
        assert conventions.convention(family, conventions.walked(step)) == words


def test_numbers_of_no_convention_are_refused() -> None:
    with pytest.raises(ValueError, match="0 settings fit"):
        conventions.convention("Adam", np.zeros((conventions.STEPS, 4, 3)))
