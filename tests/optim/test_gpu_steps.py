"""GPU kernels behind the facade follow the interpreter; without a GPU, Triton's interpreter runs them."""

from __future__ import annotations

import signal
import socket
import threading
from typing import Any

import pytest
import torch
from test_layouts import LAYOUTS, PROGRAMS
from truth import WITH_CLIPPING, Truth, bits, corrected_adam, fill_gradients, make, raw, step_both

import steprule as sr
from fake_device import FakeDevice
from steprule import board, chain
from steprule.backends import triton_device
from steprule.backends.triton_gpu import interpreted

pytestmark = [pytest.mark.interp, pytest.mark.skipif(not interpreted(), reason="a GPU is here: `-m gpu` runs on it")]
GPU = "triton_gpu"
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


@sr.rule
def by_length(theta, g, m, k=sr.slot(rank="tensor"), h=sr.slot(rank="host"), *, lr=0.1):
    """Reductions of every kind, a slot of one number a tensor, and one of the host's."""
    m = 0.5 * m + g / (1 + sr.norm(g))
    k = 0.5 * k + sr.mean(abs(g)) + sr.where(sr.max(g) > 0, 1, 0)
    h = 0.5 * h + lr
    return theta - lr * h * m / (1 + k + sr.global_norm(m)), m, k, h


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    own = FakeDevice()
    monkeypatch.setitem(triton_device.DEVICES, "cpu", lambda where: own)
    return own


PROGRAMS_HERE = [*WITH_CLIPPING, corrected_adam, by_length]


@pytest.mark.parametrize("program", PROGRAMS_HERE, ids=lambda program: repr(program)[:40])
def test_every_dtype_follows_the_interpreter(program: Any) -> None:
    for dtype in DTYPES:
        parameters = make((5,), (), (0,), dtype=dtype)
        optimizer = sr.Optimizer(parameters, program, backend=GPU)
        truth = Truth(optimizer)
        for _ in range(2):
            fill_gradients(parameters)
            if optimizer._points is None:
                step_both(optimizer, truth)
            else:
                optimizer.step()
        assert sr.explain(optimizer).backend == GPU


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_layout_follows_the_interpreter(name: str) -> None:
    """Those that a kernel can walk over together, under one norm; those that it cannot are refused by name."""
    parameters, gradients = [], []
    for layout, build in LAYOUTS.items():
        tensor, gradient = build(torch.float32)
        parameter = torch.nn.Parameter(tensor)
        parameter.grad = torch.empty_like(parameter)
        parameter.grad = gradient()
        alone = sr.Optimizer([parameter], PROGRAMS[name], backend=GPU)
        if layout in {"strided", "a column", "an inner box", "misaligned"}:
            with pytest.raises(sr.errors.BackendError, match="cannot update parameter 0"):
                alone.step()
        else:
            parameters.append(parameter)
            gradients.append(gradient)
    optimizer = sr.Optimizer(parameters, PROGRAMS[name], backend=GPU)
    truth = Truth(optimizer)
    for _ in range(2):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient()
        step_both(optimizer, truth)


def test_more_tensors_than_a_block_of_rows_are_one_launch_a_pass(fake: FakeDevice) -> None:
    parameters = make(*[(3,)] * 130)
    optimizer = sr.Optimizer(parameters, chain(sr.clip_global_norm(max_norm=0.5), corrected_adam), backend=GPU)
    truth = Truth(optimizer)
    fill_gradients(parameters)
    step_both(optimizer, truth)
    fake.launched.clear()
    step_both(optimizer, truth)
    assert fake.launched == ["pass_0", "end_0", "pass_1"]


def test_several_chunks_and_views_at_odd_places_leave_their_neighbours_alone() -> None:
    for offset in (0, 1, 3):
        field = torch.full((2, 5000 + 8), 7.0)
        views = [row[offset : offset + 4099] for row in field]
        for view in views:
            view.copy_(torch.randn(4099))
        parameters = [torch.nn.Parameter(view) for view in views]
        assert parameters[0].data_ptr() == views[0].data_ptr()
        optimizer = sr.Optimizer(parameters, PROGRAMS["clipped"], backend=GPU)
        truth = Truth(optimizer)
        fill_gradients(parameters)
        step_both(optimizer, truth)
        assert (field[:, :offset] == 7).all()
        assert (field[:, offset + 4099 :] == 7).all()


def test_a_run_repeats_bit_for_bit_and_goes_on_from_a_checkpoint_of_another_backend() -> None:
    def run(first: str | None, second: str | None) -> list[tuple[str, bytes]]:
        torch.manual_seed(5)
        parameters = make((7,), (3, 2), dtype=torch.float64)
        one, two = (sr.optim.NAdam(parameters, clip=0.5, backend=name) for name in (first, second))
        for optimizer in (one, two):
            for _ in range(2):
                fill_gradients(parameters)
                optimizer.step()
            if optimizer is one:
                two.load_state_dict(one.state_dict())
        return bits(two)

    assert run(GPU, GPU) == run(GPU, GPU)
    same = run("numba_cpu", "numba_cpu")
    for kinds in ((GPU, None), (None, GPU)):
        for (key, mine), (_, other) in zip(run(*kinds), same, strict=True):
            dtype = torch.float32 if key in {"step", "mu_product"} else torch.float64
            a, b = (torch.frombuffer(bytearray(data), dtype=dtype) for data in (mine, other))
            torch.testing.assert_close(a, b)


def test_gradients_that_come_and_go_and_slots_that_are_edited_are_followed() -> None:
    always, sometimes = make((3,), (2, 2), dtype=torch.float64)
    optimizer = corrected_adam.optimizer([always, sometimes], backend=GPU)
    truth = Truth(optimizer)
    for number in range(1, 7):
        optimizer.zero_grad()
        fill_gradients([always] + [sometimes] * (number % 3 == 0))
        step_both(optimizer, truth)
    assert [float(optimizer.state[p]["step"]) for p in (always, sometimes)] == [6, 2]
    optimizer.state[always]["step"].fill_(1.0)  # in place
    optimizer.state[sometimes]["step"] = torch.tensor(9.0)  # replaced
    truth.steps |= {always: 1, sometimes: 9}
    step_both(optimizer, truth)


def test_scheduled_rates_and_groups_are_read_at_every_step_and_compile_nothing() -> None:
    a, b = make((3,), (4,), dtype=torch.float64)
    groups = [{"params": [a], "lr": 0.1}, {"params": [b], "lr": torch.tensor(0.2, dtype=torch.float64)}]
    optimizer = sr.Optimizer(groups, board.adam, backend=GPU)
    truth = Truth(optimizer)
    for rate in (0.1, 0.01, 1.0):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.param_groups[1]["lr"].fill_(rate / 2)
        fill_gradients([a, b])
        step_both(optimizer, truth)


@pytest.mark.parametrize("nonfinite", ["skip", "raise", "propagate"])
def test_a_gradient_that_is_not_finite_is_left_out_on_the_device(nonfinite: str) -> None:
    parameters = make((5,), (5000,))
    optimizer = sr.optim.AdamW(parameters, clip=1.0, nonfinite=nonfinite, backend=GPU)
    fill_gradients(parameters)
    optimizer.step()
    before = bits(optimizer)
    parameters[1].grad[4500] = torch.inf
    if nonfinite == "raise":
        with pytest.raises(sr.errors.NonFiniteError, match="parameter 1"):
            optimizer.step()
    else:
        optimizer.step()
    if nonfinite == "propagate":
        assert not torch.isfinite(parameters[1]).all()
        return
    assert bits(optimizer) == before
    parameters[1].grad[4500] = 1.0
    optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in parameters] == [2, 2]
    assert raw(parameters[0]) != before[0][1]


@pytest.mark.parametrize("fused", [True, False])
def test_a_scaler_leaves_overflowing_steps_out_and_its_scale_is_undone(fused: bool) -> None:
    def run(backend: str | None) -> list[list[float]]:
        torch.manual_seed(1)
        parameters = make((6,), (2, 3))
        optimizer = sr.optim.AdamW(parameters, fused=fused, clip=0.5, backend=backend)
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        for number in range(5):
            optimizer.zero_grad()
            loss = sum((p * (number + 1)).sin().sum() for p in parameters)
            scaler.scale(loss).backward()
            if number in {0, 3}:
                parameters[0].grad[1] = torch.inf
            scaler.step(optimizer)
            scaler.update()
        assert scaler.get_scale() == 64.0
        assert {float(optimizer.state[p]["step"]) for p in parameters} == {3.0}
        return [parameter.detach().ravel().tolist() for parameter in parameters]

    for mine, other in zip(run(GPU), run(None), strict=True):
        assert mine == pytest.approx(other, rel=1e-5)


def test_a_graph_reads_numbers_on_the_device_when_it_is_replayed(fake: FakeDevice) -> None:
    parameters = make((5,), (70,))
    rate = torch.tensor(0.1)
    optimizer = sr.optim.AdamW(parameters, lr=rate, capturable=True, backend=GPU)
    truth = [torch.nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    twin = torch.optim.AdamW(truth, lr=0.1)
    fill_gradients(parameters)
    for parameter, other in zip(parameters, truth, strict=True):
        other.grad = parameter.grad
    optimizer.step()
    twin.step()
    with fake.capture() as graph:
        optimizer.step()  # captured, not done
    for new in (0.5, 0.01):
        rate.fill_(new)
        twin.param_groups[0]["lr"] = new
        fake.replay(graph)
        twin.step()
        for parameter, other in zip(parameters, truth, strict=True):
            torch.testing.assert_close(parameter, other)
    assert {float(optimizer.state[p]["step"]) for p in parameters} == {3.0}


def test_an_interrupt_between_launches_waits_until_the_step_is_whole(fake: FakeDevice) -> None:
    parameters = make((5,), (3, 2))
    optimizer = sr.Optimizer(parameters, corrected_adam, backend=GPU)
    truth = Truth(optimizer)
    fill_gradients(parameters)
    step_both(optimizer, truth)
    fake.before_launch = lambda name: signal.raise_signal(signal.SIGINT) if name == "pass_0" else None
    truth.step()
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    truth.agrees()
    fake.before_launch = lambda name: None
    step_both(optimizer, truth)


def test_several_optimisers_and_dtypes_share_compiled_modules_and_one_norm() -> None:
    parameters = [*make((5,)), *make((4,), dtype=torch.float64), *make((3,), dtype=torch.bfloat16)]
    optimizers = [sr.Optimizer(parameters, PROGRAMS["clipped"], lr=0.01, backend=GPU) for _ in range(2)]
    for optimizer in optimizers:
        truth = Truth(optimizer)
        fill_gradients(parameters)
        step_both(optimizer, truth)
    one, two = ([s.batch._functions for s in o._binding.buckets] for o in optimizers)
    assert [id(functions) for functions in one] == [id(functions) for functions in two]


def test_what_triton_cannot_is_refused_if_forced_and_else_explained() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2, dtype=torch.float8_e4m3fn))
    parameter.grad = torch.zeros_like(parameter)
    with pytest.raises(sr.errors.BackendError, match="GPU kernels are float32, float64, bfloat16, float16") as caught:
        board.sgd.optimizer([parameter], backend=GPU).step()
    assert "backend=None" in caught.value.fix
    told = sr.explain(board.sgd.optimizer(make((2,)), backend=GPU))
    assert "interpreter" in told.reason
    assert "def pass_0(" in told.source
    with pytest.raises(sr.errors.HyperparameterError, match="capturable"):
        sr.Optimizer(make((2,)), board.sgd, capturable=True)


def test_what_answers_ctrl_c_is_asked_once_when_the_step_is_whole(fake: FakeDevice) -> None:
    """Whatever it is: a function of the program's own, Python's, or nothing. In another thread nothing is held off."""
    parameters = make((5,))
    optimizer = sr.Optimizer(parameters, corrected_adam, backend=GPU)
    fill_gradients(parameters)
    fake.before_launch = lambda name: name == "pass_0" and signal.raise_signal(signal.SIGINT)
    before, heard = signal.getsignal(signal.SIGINT), []
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.fileno())  # as event loops do
    try:
        for handler in (lambda *told: heard.append(list(fake.launched)), signal.SIG_IGN):
            signal.signal(signal.SIGINT, handler)
            optimizer.step()
            assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, before)
    assert heard == [["begin", "pass_0"]]
    theirs.close()
    with ours:
        assert ours.recv(99) == bytes([signal.SIGINT]), "of the first; nothing answers the second"
    fake.before_launch = lambda name: None
    thread = threading.Thread(target=optimizer.step)
    thread.start()
    thread.join()
    assert float(optimizer.state[parameters[0]]["step"]) == 3.0
