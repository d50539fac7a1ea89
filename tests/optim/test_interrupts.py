"""An interrupt (Ctrl-C) at any line of a step: no crash, and every parameter is left at the same step."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from truth import as_array, corrected_adam, fill_gradients

import steprule as sr
from steprule import rule

pytestmark = pytest.mark.cpu

PACKAGE = str(Path(sr.__file__).parent)


@rule
def walking(theta, g, m, *, lr=1.0, t):
    """Move by one and count in a slot, so that parameters, state and step count can be compared."""
    return theta + lr * t / t, m + 1


class Interrupt:
    """Raise KeyboardInterrupt just before the n-th line that the package runs.

    Not at the end of a `with`, which Python shows to tracers as a line, but where no signal is handled.
    """

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
        if event == "line" and not line.startswith("with "):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


def interrupted(optimizer: sr.Optimizer, after: int) -> bool:
    """Take a step that is interrupted before its n-th line; tell whether there was such a line."""
    previous = sys.gettrace()
    sys.settrace(Interrupt(after))
    try:
        optimizer.step()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(previous)
    return False


def made(*, stepped: bool) -> tuple[list[torch.nn.Parameter], sr.Optimizer]:
    parameters = [torch.nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(3)]
    optimizer = walking.optimizer(parameters)
    fill_gradients(parameters)
    if stepped:
        optimizer.step()
    return parameters, optimizer


def places(parameters: list[torch.nn.Parameter]) -> set[float]:
    return {value for parameter in parameters for value in parameter.tolist()}


@pytest.mark.parametrize(("stepped", "every"), [(False, 37), (True, 1)], ids=["first step", "later step"])
def test_an_interrupt_at_any_line_leaves_every_parameter_at_the_same_step(stepped: bool, every: int) -> None:
    """At every line of a later step; at a sample of the many lines that plan and prepare the first."""
    made(stepped=True)  # compiled before anything is interrupted
    after, moments = 0, 0
    while True:
        after += every
        parameters, optimizer = made(stepped=stepped)
        if not interrupted(optimizer, after):
            break
        moments += 1
        walked = places(parameters)
        assert walked <= {float(stepped)} or walked == {stepped + 1.0}
        slots = {float(v) for p in parameters for v in optimizer.state.get(p, {}).get("m", torch.zeros(1))}
        assert slots == walked
        optimizer.step()
        optimizer.step()
        assert places(parameters) == {walked.pop() + 2}
        (count,) = {float(optimizer.state[parameter]["step"]) for parameter in parameters}
        assert places(parameters).pop() - count in {0, 1}  # a kernel may end just before its step is counted
    assert moments > 20


def test_steps_after_an_interrupt_give_the_right_numbers() -> None:
    """One run is interrupted again and again before anything is written; the other never."""
    runs = []
    for interrupt in (False, True):
        torch.manual_seed(4)
        parameters = [torch.nn.Parameter(torch.randn(3, dtype=torch.float64)) for _ in range(2)]
        optimizer = corrected_adam.optimizer(parameters)
        for number in range(5):
            fill_gradients(parameters)
            if interrupt:
                for after in range(1, 10 + number):
                    assert interrupted(optimizer, after)
            optimizer.step()
        runs.append([as_array(parameter).tolist() for parameter in parameters])
    assert runs[0] == runs[1]
