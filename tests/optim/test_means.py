"""What makes steps slower than they could be is told with its reason: by `explain`, its JSON, records of `bench`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest
import torch

import steprule as sr
from steprule import board
from steprule.backends import cache, compiler, threads
from steprule.bench.machine import machine
from steprule.optim import binding, checks, fast_check, means

pytestmark = pytest.mark.cpu
Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def two_threads() -> Generator[None]:
    torch.set_num_threads(2)
    yield
    fast_check.loop.cache_clear()


def told(optimizer: sr.Optimizer) -> dict[str, Any]:
    json = sr.explain(optimizer).as_json()
    return {key: json[key] for key in ("checks", "threads", "comparisons", "reasons")}


def fresh() -> sr.Optimizer:
    return board.adam.optimizer([torch.nn.Parameter(torch.zeros(3))])


def stepped(size: int = 3, backend: str | None = None) -> sr.Optimizer:
    parameter = torch.nn.Parameter(torch.zeros(size))
    parameter.grad = torch.ones_like(parameter)
    optimizer = board.sgd.optimizer([parameter], backend=backend)
    optimizer.step()
    return optimizer


def test_where_everything_is_as_fast_as_can_be_nothing_is_said() -> None:
    if fast_check.obstacle() or threads.by()[1] or checks.by()[1]:
        pytest.skip("this Python or this torch is made differently")
    best = {"checks": "fast", "threads": "torch", "comparisons": "torch", "reasons": {}}
    optimizer = stepped(600_000)
    assert told(optimizer) == best
    assert machine(2)["steps"] == best
    assert "slower" not in str(sr.explain(optimizer))
    assert "slower" not in str(sr.explain(fresh()))


def fork_off(patch: Patch) -> None:
    patch.setattr(threads, "_loops", [])
    patch.setattr(threads, "_forked", True)


def free_threads(patch: Patch) -> None:
    patch.setattr(fast_check.sys, "_is_gil_enabled", lambda: False, raising=False)


OFF: dict[str, tuple[str, Callable[[Patch], object]]] = {
    "parts of tensors elsewhere": ("checks", lambda patch: patch.setattr(fast_check, "_places", lambda: None)),
    "lacks what it asks": ("checks", lambda patch: patch.setattr(fast_check, "torch_library", lambda: None)),
    "CPython": ("checks", lambda patch: patch.setattr(fast_check.sys.implementation, "name", "pypy")),
    "interpreter lock": ("checks", free_threads),
    "does not lend its threads": ("threads", lambda patch: patch.setattr(threads, "_loops", [])),
    "forked process": ("threads", fork_off),
    "has no guards": ("comparisons", lambda patch: patch.setattr(checks, "TensorGuards", None)),
}


@pytest.mark.parametrize("reason", OFF)
def test_what_is_off_in_this_process_is_told_with_its_reason(reason: str, monkeypatch: Patch) -> None:
    key, switch_off = OFF[reason]
    fast_check.loop.cache_clear()
    switch_off(monkeypatch)
    for found in (told(stepped(600_000)), machine(2)["steps"]):
        assert found[key] == ("slow" if key == "checks" else "python")
        assert reason in found["reasons"][key]
    for optimizer in (stepped(600_000), fresh()):
        (line,) = [line for line in str(sr.explain(optimizer)).splitlines() if line.startswith("slower")]
        assert line.startswith("slower than it could be: ")
        assert reason in line


def test_a_copied_gradient_or_a_state_of_another_class_is_the_reason() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2, 3))
    parameter.grad = torch.ones(3, 2).t()
    optimizer = board.sgd.optimizer([parameter])
    optimizer.step()
    assert told(optimizer)["checks"] == "fast"
    assert "copied at every step" in str(sr.explain(optimizer))


def test_few_elements_one_thread_and_other_backends_are_no_complaint() -> None:
    small, eager = stepped(), stepped(backend="eager")
    assert told(small)["threads"] == told(eager)["threads"] == "serial"
    assert "too few elements" in told(small)["reasons"]["threads"]
    assert told(eager)["checks"] == "slow"
    torch.set_num_threads(1)
    assert "get_num_threads() is 1" in told(stepped(600_000))["reasons"]["threads"]
    assert not any("slower" in str(sr.explain(optimizer)) for optimizer in (small, eager))


def test_asking_compiles_nothing(monkeypatch: Patch) -> None:
    fast_check.loop.cache_clear()
    monkeypatch.setattr(cache, "_find", lambda *_: pytest.fail("a kernel was asked for"))
    assert means.means() == sr.explain(fresh()).means
    assert not compiler.switched_off()
    assert binding.loop is fast_check.loop
