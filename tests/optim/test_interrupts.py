"""An interrupt (Ctrl-C) at any bytecode of a step: no crash, and all parameters, slots and counts stay in step."""

from __future__ import annotations

import linecache
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from truth import as_array, corrected_adam, fill_gradients

import steprule as sr
from fake_device import FakeDevice
from steprule import rule, slot
from steprule.backends import lots, triton_device
from steprule.backends.numba_cpu import PARALLEL_FROM

pytestmark = pytest.mark.cpu

PACKAGE = str(Path(sr.__file__).parent)


@rule
def walking(theta, g, m, k=slot(rank="tensor"), n=slot(rank="global"), *, lr=1.0, t):
    """Move by one and count in slots, so that parameters, state and step count can be compared.

    The sum over all tensors feeds a number of each tensor alone, which is written after the last pass, and made of
    what is one number for all, which is written last of all, and once.
    """
    return theta + lr * t / t, m + 1, k + sr.global_sum(g) * (1 + n) / (1 + n), n + 1


@rule
def apart(theta, g, m, k=slot(rank="tensor"), n=slot(rank="tensor"), *, lr=1.0, t):
    """Do the same where no tensor waits for another: the sum over all three is three times that of each."""
    return theta + lr * t / t * sr.mean(g), m + 1, k + 3 * sr.sum(g), n + 1


class Interrupt:
    """Raise KeyboardInterrupt just before the n-th bytecode that the package runs.

    Not at the ends of a `with`, where Python itself handles no signal, nor in what runs when an object is freed,
    where it reports an exception and goes on.
    """

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code.co_name == "_remove_all":
            return None
        frame.f_trace_opcodes = True
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno or 0).lstrip()
        if event == "opcode" and line and not line.startswith("with "):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


def interrupted(optimizer: sr.Optimizer, after: int) -> bool:
    """Take a step that is interrupted before its n-th bytecode; tell whether there was such a one."""
    previous = sys.gettrace()
    sys.settrace(Interrupt(after))
    try:
        optimizer.step()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(previous)
    return False


def made(*, stepped: bool, kind: str = "one") -> tuple[list[torch.nn.Parameter], sr.Optimizer]:
    """Make an optimiser; in `lots`, a lot for each tensor."""
    own = apart if "lots" in kind else walking
    torch.set_num_threads(2 if kind == "threads" else 1)
    size = PARALLEL_FROM[True] // 2 if kind == "threads" else 2
    dtypes = [torch.float64, torch.float32 if "two kernels" in kind else torch.float64, torch.float64]
    parameters = [torch.nn.Parameter(torch.zeros(size, dtype=dtype)) for dtype in dtypes]
    optimizer = own.optimizer(parameters, backend="eager" if kind == "eager" else None)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    if stepped:
        optimizer.step()
    return parameters, optimizer


def places(parameters: list[torch.nn.Parameter]) -> set[float]:
    return {float(v) for parameter in parameters for v in parameter.detach().unique()}


def counts(parameters: list[torch.nn.Parameter], optimizer: sr.Optimizer) -> set[float]:
    return {float(optimizer.state.get(parameter, {}).get("step", 0.0)) for parameter in parameters}


def slots(parameters: list[torch.nn.Parameter], optimizer: sr.Optimizer) -> set[float]:
    states = [optimizer.state.get(parameter, {}) for parameter in parameters]
    elements = sum(parameter.numel() for parameter in parameters)
    each = {float(v) for state in states for v in state.get("m", torch.zeros(1)).unique()}
    return each | {float(x) for state in states for x in (state.get("k", 0.0) / elements, state.get("n", 0.0))}


@pytest.mark.hostile("P9")
@pytest.mark.parametrize(
    ("stepped", "every", "kind"),
    [(False, 211, "one"), (True, 1, "one"), (True, 3, "two kernels"), (True, 13, "eager"), (True, 41, "threads"),
     (True, 11, "lots"), (True, 29, "lots of two kernels")],
)  # fmt: skip
def test_an_interrupt_at_any_bytecode_leaves_parameters_slots_and_counts_at_the_same_step(
    stepped: bool, every: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every bytecode of a later step; at a sample of the many that plan and prepare the first."""
    monkeypatch.setattr(lots, "CACHED", 0)
    made(stepped=True, kind=kind)  # compiled before anything is interrupted
    after, moments = 0, 0
    while True:
        after += every
        parameters, optimizer = made(stepped=stepped, kind=kind)
        if not interrupted(optimizer, after):
            break
        moments += 1
        walked = places(parameters)
        assert walked in ({float(stepped)}, {stepped + 1.0})
        assert slots(parameters, optimizer) == counts(parameters, optimizer) == walked
        optimizer.step()
        assert places(parameters) == slots(parameters, optimizer) == counts(parameters, optimizer)
        assert places(parameters) == {walked.pop() + 1}
    assert moments > 10


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


class Signal(Interrupt):
    """Press Ctrl-C before the n-th bytecode of what launches: Python's own handler raises, unless it is held off."""

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith((f"{PACKAGE}/backends", f"{PACKAGE}/optim/binding")):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)
        return self


@pytest.mark.hostile("P9")
@pytest.mark.interp
@pytest.mark.parametrize("batches", [1, 2])
def test_an_interrupt_at_any_bytecode_launches_all_of_a_gpu_step_or_nothing(
    batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All means that each batch's last pass, and what follows it, is launched once; versions of parameters say so."""
    fake = FakeDevice(runs=False)
    monkeypatch.setitem(triton_device.DEVICES, "cpu", lambda where: fake)
    dtypes = [torch.float64, torch.float64, torch.float32][: 1 + batches]
    parameters = [torch.nn.Parameter(torch.zeros(2, dtype=dtype)) for dtype in dtypes]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer = walking.optimizer(parameters, backend="triton_gpu")
    outcomes, ended, after = set(), False, 0
    while not ended:
        optimizer.step()
        fake.launched.clear()
        before = [parameter._version for parameter in parameters]
        after += 9
        sys.settrace(Signal(after))
        try:
            optimizer.step()
            ended = True
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        (stepped,) = {parameter._version > then for parameter, then in zip(parameters, before, strict=True)}
        assert [fake.launched.count(name) for name in ("pass_0", "finish")] == [stepped * batches] * 2
        assert fake.launched.count("finish_all") == stepped
        outcomes.add((ended, stepped))
    assert outcomes == {(False, False), (False, True), (True, True)}
