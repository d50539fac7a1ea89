"""Whatever surrounds a step: dtypes side by side, modes of torch, threads, forked processes, backends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from truth import CLIPPED, Truth, as_array, bits, corrected_adam, fill_gradients, make, raw, step_both

import steprule as sr
from steprule import board, chain
from steprule.errors import BackendError
from steprule.graph.evaluate import evaluate

pytestmark = pytest.mark.cpu


# Dtypes --------------------------------------------------------------------------------------------------


@pytest.mark.hostile("M20")
def test_a_global_norm_spans_dtypes_and_layouts_of_one_group() -> None:
    """The largest gradient is in half precision, so every other tensor shows whether it was counted."""
    parameters = [
        *make((5,), dtype=torch.float32),
        *make((3, 2), (4,), dtype=torch.float64),
        *make((6,), dtype=torch.bfloat16),
        torch.nn.Parameter(torch.randn(4, 6)[:, ::2]),
    ]
    optimizer = sr.Optimizer(parameters, CLIPPED, lr=0.1)
    truth = Truth(optimizer)
    for _ in range(3):
        fill_gradients(parameters)
        parameters[3].grad = torch.full((6,), 300.0, dtype=torch.bfloat16)
        step_both(optimizer, truth)
    assert optimizer.state[parameters[3]]["m"].dtype is torch.bfloat16


@pytest.mark.hostile("P11")
def test_a_norm_of_large_half_precision_gradients_does_not_overflow() -> None:
    for dtype in (torch.float16, torch.float32):
        (parameter,) = make((4,), dtype=dtype)
        start = parameter.detach().clone()
        parameter.grad = torch.full_like(parameter, 6e4 if dtype is torch.float16 else 3e38)
        board.sgd.optimizer([parameter], lr=1.0, clip=1.0).step()
        torch.testing.assert_close(parameter.detach(), start - 0.5)


def test_a_half_precision_step_rounds_once() -> None:
    """Half of the last place from the float64 result, where rounding every operation strays ten times as far."""
    (parameter,) = make((4000,), dtype=torch.bfloat16)
    optimizer = board.adam.optimizer([parameter], lr=0.1)
    fill_gradients([parameter])
    optimizer.step()
    ours = theirs = 0.0
    for _ in range(5):
        fill_gradients([parameter])
        theta, g, m, s = (x.detach().clone() for x in (parameter, parameter.grad, *optimizer.state[parameter].values()))
        now = {name: as_array(x) for name, x in {"theta": theta, "g": g, "m": m, "s": s}.items()}
        exact = evaluate(board.adam.graph, [now], [{"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8}])[0]["theta"]
        last_place = np.exp2(np.floor(np.log2(np.abs(exact) + 1e-30)) - 7)
        m = 0.9 * m + (1 - 0.9) * g
        s = 0.99 * s + (1 - 0.99) * g**2
        by_operation = theta - 0.1 * m / (s + 1e-8).sqrt()
        optimizer.step()
        ours = max(ours, np.max(np.abs(as_array(parameter) - exact) / last_place))
        theirs = max(theirs, np.max(np.abs(as_array(by_operation) - exact) / last_place))
    assert ours <= 0.51
    assert theirs > 5


# Modes ---------------------------------------------------------------------------------------------------


@contextmanager
def default_dtype(dtype: torch.dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


MODES: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "inference_mode": torch.inference_mode,
    "default float64": lambda: default_dtype(torch.float64),
    "default bfloat16": lambda: default_dtype(torch.bfloat16),
    "default float16": lambda: default_dtype(torch.float16),
    "default device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.hostile("P13")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("program", [corrected_adam, board.nesterov, CLIPPED], ids=lambda program: program.name)
def test_a_mode_around_the_step_changes_nothing(program: Any, mode: str) -> None:
    """Also not for the plain steps after it: nothing that a mode made may stay in the state."""
    runs = []
    for around in (torch.enable_grad, MODES[mode]):
        torch.manual_seed(2)
        parameters = [*make((5,), ()), *make((3,), dtype=torch.bfloat16)]
        optimizer = sr.Optimizer(parameters, program, lr=0.1)
        for number in range(4):
            fill_gradients(parameters)
            if number % 2 == 0:
                with around():
                    optimizer.step()
            else:
                optimizer.step()
        with optimizer.at_iterate():
            runs.append([raw(parameter) for parameter in parameters])
        optimizer.step(lambda parameters=parameters: fill_gradients(parameters))
        runs[-1] += bits(optimizer)
    assert runs[0] == runs[1]


# Threads and processes -----------------------------------------------------------------------------------


def train(seed: int, steps: int = 30) -> list[tuple[str, bytes]]:
    generator = torch.Generator().manual_seed(seed)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((300,), (20, 5))]
    optimizer = sr.Optimizer(parameters, chain(sr.clip_global_norm, corrected_adam))
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return bits(optimizer)


@pytest.mark.hostile("C6")
def test_threads_with_their_own_optimisers_do_not_disturb_each_other() -> None:
    alone = [train(seed) for seed in range(4)]
    found: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda seed=seed: found.update({seed: train(seed)})) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(4)] == alone


@pytest.mark.hostile("C6")
def test_threads_with_one_optimiser_take_turns() -> None:
    (parameter,) = make((1000,), dtype=torch.float64)
    optimizer = board.sgd.optimizer([parameter], lr=1.0)
    start = parameter.detach().clone()
    parameter.grad = torch.full_like(parameter, 0.25)
    threads = [threading.Thread(target=lambda: [optimizer.step() for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(parameter.detach(), start - 50, rtol=0, atol=1e-11)


LARGE = (300_001,), (7,), (131_072,)


def large(threads: list[int], program: Any = CLIPPED) -> list[tuple[str, bytes]]:
    torch.manual_seed(11)
    parameters = make(*LARGE)
    optimizer = sr.Optimizer(parameters, program, lr=0.1)
    for count in threads:
        fill_gradients(parameters)
        torch.set_num_threads(count)
        optimizer.step()
        assert torch.get_num_threads() == count
    torch.set_num_threads(1)
    return bits(optimizer)


@pytest.mark.hostile("C7")
def test_the_number_of_threads_never_changes_a_bit() -> None:
    program = chain(sr.clip_norm, sr.clip_global_norm(max_norm=0.1), corrected_adam)
    assert large([1, 1, 1], program) == large([4, 2, 64], program) == large([2, 1, 3], program)


@pytest.mark.hostile("C5")
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_a_forked_child_goes_on_stepping() -> None:
    """After the parent's pool of threads has run; a hang would be a child that never ends."""
    torch.manual_seed(1)
    parameters = make(*LARGE)
    optimizer = sr.Optimizer(parameters, CLIPPED)
    fill_gradients(parameters)
    torch.set_num_threads(2)
    optimizer.step()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            optimizer.step()
            code = 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + 30
    ended, status = os.waitpid(child, os.WNOHANG)
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended, "the child hangs"
    assert os.waitstatus_to_exitcode(status) == 0
    optimizer.step()


# Backends ------------------------------------------------------------------------------------------------


def test_backends_may_be_chosen_and_agree() -> None:
    found = []
    for backend in ("eager", "numba_cpu", None):
        torch.manual_seed(5)
        parameters = make((7,), (3, 2), dtype=torch.float64)
        optimizer = sr.Optimizer(parameters, chain(sr.clip_global_norm, corrected_adam), backend=backend)
        truth = Truth(optimizer)
        for _ in range(3):
            fill_gradients(parameters)
            step_both(optimizer, truth)
        found.append(sr.explain(optimizer).backend)
    assert found == ["eager", "numba_cpu", "numba_cpu"]
    with pytest.raises(BackendError, match="there is no backend 'cuda'") as caught:
        board.sgd.optimizer(parameters, backend="cuda")
    assert "numba_cpu, triton_gpu, eager" in caught.value.fix


def test_a_backend_that_cannot_update_a_tensor_says_why() -> None:
    for tensor, why in ((torch.zeros(3).neg()._neg_view(), "negated"), (torch.zeros(4, 4)[:, ::2], "stretch")):
        parameter = torch.nn.Parameter(tensor)
        fill_gradients([parameter])
        with pytest.raises(BackendError, match=why):
            board.sgd.optimizer([parameter], backend="numba_cpu").step()
        assert not parameter.any()
        board.sgd.optimizer([parameter]).step()
        assert parameter.any()
