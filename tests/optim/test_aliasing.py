"""Memory that parameters, gradients and slots share: refused, or as if all were read before anything is written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from truth import bits

import steprule as sr
from steprule import board
from steprule.errors import ParameterError
from steprule.optim import binding, fast_check

pytestmark = pytest.mark.cpu

WAYS = ["fast", "slow", "eager", pytest.param("triton_gpu", marks=pytest.mark.interp)]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "slow":
        monkeypatch.setattr(binding, "loop", lambda: None)
    elif request.param == "fast" and fast_check.loop() is None:
        pytest.skip("this Python or this torch is made differently")
    return request.param


def field(length: int = 40) -> torch.Tensor:
    return torch.arange(1.0, length + 1)


def momentum(way: str, parameters: list[torch.nn.Parameter]) -> sr.Optimizer:
    return board.momentum.optimizer(parameters, lr=0.1, backend=way if way in {"eager", "triton_gpu"} else None)


def stepped(way: str, parameters: list[torch.Tensor], gradients: list[torch.Tensor], *, apart: bool) -> sr.Optimizer:
    """Take three steps with gradients in the same memory each time, or with copies of them."""
    parameters = [torch.nn.Parameter(tensor) for tensor in parameters]
    optimizer = momentum(way, parameters)
    for _ in range(3):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone() if apart else gradient
        optimizer.step()
    return optimizer


def views(kind: str) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return parameters and gradients whose memory overlaps."""
    whole = field()
    return {
        "its own parameter": ([whole[:20]], [whole[:20]]),
        "a part of its own parameter": ([whole[:20]], [whole[3:23]]),
        "before its own parameter": ([whole[3:23]], [whole[:20]]),
        "its own parameter transposed": ([whole[:16].view(4, 4)], [whole[:16].view(4, 4).t()]),
        "its own parameter expanded": ([whole[:16].view(4, 4)], [whole[:4].expand(4, 4)]),
        "each other's parameters": ([whole[:20], whole[20:]], [whole[20:], whole[:20]]),
        "the next parameter": ([whole[:10], whole[10:20]], [whole[10:20], whole[30:]]),
        "every second element": ([whole[:20:2]], [whole[1:21:2]]),
        "every second element of another": ([whole[:10], whole[10:30]], [whole[10:30:2], whole[5:25]]),
    }[kind]


KINDS = ["its own parameter", "a part of its own parameter", "before its own parameter", "its own parameter transposed",
         "its own parameter expanded", "each other's parameters", "the next parameter", "every second element",
         "every second element of another"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_in_memory_that_is_written_is_the_gradient_before_the_step(way: str, kind: str) -> None:
    if way == "triton_gpu" and kind == "every second element":
        pytest.skip("there is no such kernel: the parameter has gaps")
    shared = stepped(way, *views(kind), apart=False)
    twin = stepped(way, *views(kind), apart=True)
    assert bits(shared) == bits(twin)


def test_a_gradient_that_is_its_own_parameter_binds_nothing_anew(way: str) -> None:
    parameter = torch.nn.Parameter(field())
    optimizer = momentum(way, [parameter])
    parameter.grad = parameter.data
    optimizer.step()
    before = optimizer._binding
    parameter.grad = parameter.data
    optimizer.step()
    assert optimizer._binding is before


@pytest.mark.parametrize("where", ["parameter", "slot"])
def test_a_gradient_that_moves_into_memory_that_is_written_is_noticed(way: str, where: str) -> None:
    """Bound apart, and moved while everything else is as it was."""
    ends = []
    for apart in (False, True):
        whole = field(60)
        parameters = [torch.nn.Parameter(whole[:10].clone()), torch.nn.Parameter(whole[10:40].clone())]
        optimizer = momentum(way, parameters)
        for number in range(6):
            parameters[0].grad, parameters[1].grad = torch.ones(10), torch.ones(30)
            if number in {3, 5}:
                target = parameters[1].data if where == "parameter" else optimizer.state[parameters[1]]["m"]
                kept = target[7:17]
                aside = torch.empty(0).set_(kept.untyped_storage(), 7, (10,)) if kept.storage_offset() else kept
                parameters[0].grad = kept.clone() if apart else aside
            before = optimizer._binding
            optimizer.step()
            if number == 3 and not apart:
                assert optimizer._binding is not before
        ends.append(bits(optimizer))
    assert ends[0] == ends[1]


def from_address(tensor: torch.Tensor, skip: int, count: int) -> torch.Tensor:
    """Return floats that begin so many after a tensor's, at offset 0 of a storage of their own."""
    memory = tensor.detach().numpy()[skip : skip + count]
    return torch.from_numpy(memory)


def test_memory_is_compared_and_not_storages(way: str) -> None:
    """Bound apart; then the gradient is other memory at offset 0 of a storage of its own, which another slot shares."""
    ends = []
    for apart in (False, True):
        parameters = [torch.nn.Parameter(field(10)), torch.nn.Parameter(field(30))]
        optimizer = momentum(way, parameters)
        for number in range(5):
            parameters[0].grad, parameters[1].grad = torch.ones(10), torch.ones(30)
            if number >= 3:
                own = from_address(parameters[1] if number == 3 else optimizer.state[parameters[1]]["m"], 7, 10)
                parameters[0].grad = own.clone() if apart else own
            before = optimizer._binding
            optimizer.step()
            assert number not in {3, 4} or apart or optimizer._binding is not before
        ends.append(bits(optimizer))
    assert ends[0] == ends[1]


def test_gradients_that_move_elsewhere_bind_nothing_anew(way: str) -> None:
    parameters = [torch.nn.Parameter(field(10)) for _ in range(5)]
    optimizer = momentum(way, parameters)
    held, seen, bindings = [], set(), []
    for _ in range(6):
        for parameter in parameters:
            parameter.grad = torch.ones(10)
            held.append(parameter.grad)  # so that the next ones are elsewhere
            seen.add(parameter.grad.data_ptr())
        optimizer.step()
        bindings.append(optimizer._binding)
    assert len(seen) == 30
    assert all(found is bindings[0] for found in bindings)


def alias(kind: str, parameters: list[torch.nn.Parameter], state: Any) -> None:
    own, other = (state[parameter] for parameter in parameters)
    if kind == "the slot is its parameter":
        own["exp_avg"] = parameters[0].data
    elif kind == "the slot is another's parameter":
        own["exp_avg"] = parameters[1].data[:10]
    elif kind == "two slots are one":
        own["exp_avg"] = own["exp_avg_sq"]
    elif kind == "slots of two parameters are one":
        own["exp_avg"] = other["exp_avg_sq"][5:15]
    else:
        whole = field(30)
        parameters[0].data, parameters[1].data = whole[:10], whole[9:29]


@pytest.mark.parametrize(
    ("kind", "told"),
    [("the slot is its parameter", "parameter 0 of group 0 and state 'exp_avg' of parameter 0 of group 0"),
     ("the slot is another's parameter", "parameter 1 of group 0 and state 'exp_avg' of parameter 0 of group 0"),
     ("two slots are one", "state 'exp_avg.*' of parameter 0 of group 0 and state 'exp_avg.*' of parameter 0"),
     ("slots of two parameters are one", "state 'exp_avg' of parameter 0 of group 0 and state 'exp_avg_sq' of"),
     ("parameters overlap", "parameter 0 of group 0 and parameter 1 of group 0")],
)  # fmt: skip
def test_what_is_written_twice_is_refused_before_anything_is_written(way: str, kind: str, told: str) -> None:
    parameters = [torch.nn.Parameter(field(10)), torch.nn.Parameter(field(20))]
    optimizer = sr.optim.Adam(parameters, backend=way if way in {"eager", "triton_gpu"} else None)
    for number in range(2):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        if number == 0:
            optimizer.step()
    alias(kind, parameters, optimizer.state)
    before = bits(optimizer)
    with pytest.raises(ParameterError, match=f"{told}.* share memory") as caught:
        optimizer.step()
    assert "bytes" in caught.value.where
    assert caught.value.fix
    assert bits(optimizer) == before


def test_the_advice_about_a_slot_helps() -> None:
    parameters = [torch.nn.Parameter(field(10)), torch.nn.Parameter(field(20))]
    optimizer = sr.optim.Adam(parameters, backend="eager")
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    alias("the slot is its parameter", parameters, optimizer.state)
    with pytest.raises(ParameterError) as caught:
        optimizer.step()
    assert caught.value.fix.startswith("optimizer.state[p]['exp_avg'] = optimizer.state[p]['exp_avg'].clone()")
    optimizer.state[parameters[0]]["exp_avg"] = optimizer.state[parameters[0]]["exp_avg"].clone()
    optimizer.step()
