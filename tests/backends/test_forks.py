"""Children that are forked at the worst moment: while another thread holds a lock, compiles, traces or steps."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from llvmlite.binding import ffi
from numba.core.compiler_lock import global_compiler_lock

import steprule as sr
from child import PATIENCE, survives
from steprule import board
from steprule.backends import cache, compiler, threads, triton_gpu
from steprule.graph import node
from steprule.optim.tensors import Entry, backend_of

pytestmark = pytest.mark.cpu


@contextmanager
def elsewhere(work: Callable[[threading.Event, threading.Event], object]) -> Generator[None]:
    """Have another thread do something: it says when it has come to the moment, and waits there for the end."""
    there, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=work, args=(there, end))
    thread.start()
    try:
        assert there.wait(PATIENCE)
        yield
    finally:
        end.set()
        thread.join()


def held(own: AbstractContextManager[Any]) -> AbstractContextManager[None]:
    """Have another thread hold a lock."""

    def hold(there: threading.Event, end: threading.Event) -> None:
        with own:
            there.set()
            assert end.wait(PATIENCE)

    return elsewhere(hold)


def stepped(lr: float = 0.5, dtype: torch.dtype = torch.float32) -> tuple[torch.nn.Parameter, Any]:
    """Return a parameter that plain descent has moved from 1 to 0, and its optimiser."""
    parameter = torch.nn.Parameter(torch.ones(3, dtype=dtype))
    parameter.grad = torch.full((3,), 2.0, dtype=dtype)
    optimizer = board.sgd.optimizer([parameter], lr=lr)
    optimizer.step()
    assert parameter.tolist() == [0.0] * 3
    return parameter, optimizer


def step_on(parameter: torch.nn.Parameter, optimizer: Any) -> None:
    """Go on with an optimiser, and begin with another whose rule nobody has traced, compiled or linked here."""
    optimizer.step()
    assert parameter.tolist() == [-1.0] * 3
    cache._loaded.clear()
    stepped()
    with optimizer._busy:
        pass


LOCKS = {
    "of kernels": cache._lock,
    "of threads": threads._lock,
    "of nodes": node._lock,
    "of GPU kernels": triton_gpu._lock,
    "of Numba": global_compiler_lock._lock,
    "of LLVM": ffi.lib._lock._lock,
}


@pytest.mark.hostile("C5")
@pytest.mark.parametrize("name", [*LOCKS, "of the optimiser"])
def test_a_child_forked_while_another_thread_holds_a_lock_steps(name: str) -> None:
    parameter, optimizer = stepped()
    with held(LOCKS.get(name, optimizer._busy)):
        survives(step_on, parameter, optimizer)


def step_without_a_compiler(parameter: torch.nn.Parameter, optimizer: Any) -> None:
    step_on(parameter, optimizer)
    backend, reason = backend_of(Entry("p", 0, parameter, parameter), [], None)
    assert backend == "eager"
    assert "forked while another thread compiled" in reason
    with pytest.raises(sr.errors.BackendError, match="forked while another thread compiled"):
        cache.load("a kernel that nobody has compiled")
    with pytest.raises(sr.errors.BackendError, match=r"cannot update .*forked"):
        board.gd.optimizer([parameter], backend="numba_cpu").step()
    assert parameter.tolist() == [-1.0] * 3


def compile_for_ever(there: threading.Event, end: threading.Event) -> None:
    """Compile a kernel, and stay where Numba is at work."""

    @global_compiler_lock
    def inside() -> None:
        there.set()
        assert end.wait(PATIENCE)

    with cache._lock:
        inside()


@pytest.mark.hostile("C5")
def test_a_child_forked_while_another_thread_compiles_runs_eagerly_and_says_why() -> None:
    own = stepped()
    with elsewhere(compile_for_ever):
        survives(step_without_a_compiler, *own)
    assert compiler.obstacle() == ""  # here, all is as it was


def trace_another() -> None:
    @sr.rule
    def another(theta: Any, g: Any, *, lr: Any = sr.hyper(0.1)) -> Any:
        return theta - lr * g * 3

    assert another.graph.nodes
    assert sr.explain(another).passes


@pytest.mark.hostile("C5")
def test_a_child_forked_while_another_thread_traces_a_rule_traces_its_own() -> None:
    """functools.cached_property has one lock for all rules, in Python 3.11."""

    def trace(there: threading.Event, end: threading.Event) -> None:
        @sr.rule
        def slow(theta: Any, g: Any, *, lr: Any = sr.hyper(0.1)) -> Any:
            there.set()
            assert end.wait(PATIENCE)
            return theta - lr * g

        assert slow.graph.nodes

    with elsewhere(trace):
        survives(trace_another)


@pytest.mark.hostile("C5")
def test_a_child_forked_while_another_thread_steps_steps_the_same_optimiser() -> None:
    parameter, optimizer = stepped()

    def step(there: threading.Event, end: threading.Event) -> None:
        optimizer.step(lambda: there.set() or end.wait(PATIENCE))

    with elsewhere(step):
        survives(step_on, parameter, optimizer)
    assert parameter.tolist() == [-1.0] * 3


ON_FORK: list[threading.Event] = []
os.register_at_fork(before=lambda: [event.set() for event in ON_FORK])


def import_the_late_module() -> None:
    assert importlib.import_module("torch.imported_late").whole


@pytest.mark.hostile("C5")
def test_a_fork_waits_for_an_import_that_a_first_step_would_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of torch._dynamo, which torch imports when the first optimiser is made."""
    there, end = threading.Event(), threading.Event()
    monkeypatch.setattr(torch, "moments", (there, end), raising=False)
    monkeypatch.setattr(torch, "__path__", [*torch.__path__, str(tmp_path)])
    monkeypatch.setattr(sys.modules[__name__], "ON_FORK", [end])
    body = f"import torch\ntorch.moments[0].set()\nassert torch.moments[1].wait({PATIENCE})\nwhole = True\n"
    (tmp_path / "imported_late.py").write_text(body)
    thread = threading.Thread(target=importlib.import_module, args=("torch.imported_late",))
    thread.start()
    assert there.wait(PATIENCE)
    survives(import_the_late_module)
    thread.join()
    monkeypatch.delitem(sys.modules, "torch.imported_late")


def fork_again(parameter: torch.nn.Parameter, optimizer: Any) -> None:
    """Hold a lock in the child's own thread over a fork: the grandchild's thread holds it, and opens it."""
    with optimizer._busy, cache._lock:
        survives(step_on, parameter, optimizer)
    with optimizer._busy:
        optimizer.step()


def test_a_lock_of_the_thread_that_forks_stays_its_own() -> None:
    fork_again(*stepped())


def step_what_torch_would_share(optimizer: Any, parameter: torch.nn.Parameter) -> None:
    torch.set_num_threads(2)  # which the parent has, and this process has not
    optimizer.step()
    assert float(parameter.detach()[-1]) == -0.5
    late = torch.nn.Parameter(parameter.detach()[:400_000].view(2, 200_000))
    late.grad = parameter.grad[:400_000].view(200_000, 2).t()  # copied, in torch's threads if it had any
    board.adagrad.optimizer([late], lr=0.5).step()
    assert torch.get_num_threads() == 2


@pytest.mark.hostile("C5")
def test_a_forked_child_waits_for_none_of_torchs_threads() -> None:
    torch.set_num_threads(2)
    parameter = torch.nn.Parameter(torch.zeros(400_001, dtype=torch.bfloat16))
    parameter.grad = torch.ones_like(parameter)
    torch.zeros(3_000_000).exp_()  # torch's threads are there
    optimizer = board.sgd.optimizer([parameter], lr=0.5)
    survives(step_what_torch_would_share, optimizer, parameter)
