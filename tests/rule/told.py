"""Read an error of the language as its reader does: three parts, and a caret under the author's own words."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from steprule.errors import RuleError, StepruleError


def pointed(error: StepruleError) -> str:
    """Return what the caret stands under, in the file of the caller."""
    file = sys._getframe(1).f_code.co_filename
    assert f'File "{file}", line ' in error.where, error.where
    _, text, caret = error.where.splitlines()
    start, end = caret.index("^"), caret.rindex("^") + 1
    assert set(caret[start:end]) == {"^"}
    return text[start:end]


def refused(action: Callable[[], Any], kind: type[StepruleError] = RuleError) -> StepruleError:
    """Return the error an action ends in, having checked that its parts are there, in order."""
    with pytest.raises(kind) as caught:
        action()
    error = caught.value
    assert error.what
    assert error.fix
    assert str(error) == "\n".join(part for part in (error.what, error.where, f"help: {error.fix}") if part)
    return error


def a_parameter() -> torch.nn.Parameter:
    """Return three ones with a gradient of ones."""
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    return parameter
