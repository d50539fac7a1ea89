"""Whatever pointers rely on is noticed when it changes: by the compiled glance, and by its definition in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import steprule as sr
from steprule.optim import glance, roster

pytestmark = pytest.mark.cpu

Change = Callable[[list[torch.nn.Parameter], sr.Optimizer], None]
CHANGES: dict[str, Change] = {}
SHAPES = ((3, 4), (5,), (2, 2, 2))


def change(does: Change) -> Change:
    CHANGES[does.__name__] = does
    return does


def own(optimizer: sr.Optimizer, parameter: torch.Tensor) -> dict[str, Any]:
    return optimizer.state[parameter]


@pytest.fixture(params=["glance", "look"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "look":
        monkeypatch.setattr(roster, "looker", lambda: None)
    elif glance.looker() is None:
        pytest.skip("this Python or this torch is made differently")
    return request.param


def fill(parameters: list[torch.nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)


def trained() -> tuple[list[torch.nn.Parameter], sr.Optimizer]:
    torch.manual_seed(1)
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    optimizer = sr.optim.AdamW(parameters, lr=0.1, clip=1.0)
    for _ in range(2):
        fill(parameters)
        optimizer.step()
    fill(parameters)
    return parameters, optimizer


def asks(optimizer: sr.Optimizer) -> bool:
    """Ask as a step does whether its roster may be used again."""
    found = optimizer._roster
    assert found is not None
    return found.still_holds(optimizer._choose, optimizer._mood(), optimizer.param_groups, optimizer.state)


@change
def the_parameter_has_other_memory(parameters, optimizer):
    parameters[0].data = parameters[0].data.clone()


@change
def the_parameter_has_a_bigger_neighbourhood(parameters, optimizer):
    parameters[1].data.untyped_storage().resize_(64)


@change
def the_parameter_is_shorter(parameters, optimizer):
    parameters[1].requires_grad_(False).resize_(4)


@change
def the_parameter_is_transposed_in_place(parameters, optimizer):
    parameters[0].data = parameters[0].data.as_strided((3, 4), (1, 3))


@change
def the_parameter_is_lazily_negated(parameters, optimizer):
    parameters[0].data = torch._neg_view(parameters[0].data)


@change
def the_parameter_is_read_as_integers(parameters, optimizer):
    parameters[0].requires_grad_(False)
    parameters[0].data = parameters[0].data.view(torch.int32)


@change
def the_parameter_was_freed(parameters, optimizer):
    parameters[2].data.untyped_storage().resize_(0)


@change
def the_group_lists_another_parameter(parameters, optimizer):
    optimizer.param_groups[0]["params"][1] = torch.nn.Parameter(torch.randn(5))


@change
def the_group_lists_fewer(parameters, optimizer):
    optimizer.param_groups[0]["params"].pop()


@change
def the_group_lists_more(parameters, optimizer):
    optimizer.param_groups[0]["params"].append(torch.nn.Parameter(torch.randn(5)))


@change
def the_group_is_another_list_of_others(parameters, optimizer):
    optimizer.param_groups[0]["params"] = [torch.nn.Parameter(p.detach().clone()) for p in parameters]


@change
def the_slot_is_another_tensor(parameters, optimizer):
    own(optimizer, parameters[0])["exp_avg"] = torch.zeros(3, 4)


@change
def the_slot_has_other_memory(parameters, optimizer):
    own(optimizer, parameters[0])["exp_avg"].data = torch.zeros(3, 4)


@change
def the_slot_is_lazily_negated(parameters, optimizer):
    slot = own(optimizer, parameters[0])["exp_avg"]
    slot.data = torch._neg_view(slot.data)


@change
def the_slot_is_read_as_integers(parameters, optimizer):
    slot = own(optimizer, parameters[0])["exp_avg"]
    slot.data = slot.data.view(torch.int32)


@change
def the_slot_was_freed(parameters, optimizer):
    own(optimizer, parameters[0])["exp_avg_sq"].untyped_storage().resize_(0)


@change
def the_slot_is_gone(parameters, optimizer):
    del own(optimizer, parameters[2])["exp_avg"]


@change
def the_state_is_another_dict(parameters, optimizer):
    optimizer.state[parameters[1]] = dict(own(optimizer, parameters[1]))


@change
def the_state_is_gone(parameters, optimizer):
    del optimizer.state[parameters[1]]


@change
def the_count_is_another_tensor(parameters, optimizer):
    own(optimizer, parameters[1])["step"] = own(optimizer, parameters[1])["step"].clone()


@change
def the_count_was_edited(parameters, optimizer):
    own(optimizer, parameters[1])["step"].fill_(17.0)


@change
def the_gradient_is_missing(parameters, optimizer):
    parameters[1].grad = None


@change
def the_gradient_has_other_strides(parameters, optimizer):
    parameters[0].grad = torch.ones(4, 3).t()


@change
def the_gradient_begins_elsewhere_in_its_storage(parameters, optimizer):
    parameters[1].grad = torch.ones(9)[4:]


@change
def the_gradient_is_lazily_negated(parameters, optimizer):
    parameters[1].grad = torch._neg_view(torch.ones(5))


@change
def the_gradient_lost_its_storage(parameters, optimizer):
    parameters[1].grad.untyped_storage().resize_(8)


@change
def the_gradient_is_expanded(parameters, optimizer):
    parameters[0].grad = torch.ones(1, 1).expand(3, 4)


@change
def the_gradient_is_a_subclass(parameters, optimizer):
    parameters[0].grad = torch.nn.Buffer(torch.ones(3, 4)).as_subclass(Tagged)


class Tagged(torch.Tensor):
    """A tensor that is none of torch's own."""


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_noticed(way: str, what: str) -> None:
    parameters, optimizer = trained()
    assert asks(optimizer)
    CHANGES[what](parameters, optimizer)
    assert not asks(optimizer)


def test_what_may_change_is_not_taken_for_a_change(way: str) -> None:
    parameters, optimizer = trained()
    before = optimizer._roster
    for _ in range(3):
        fill(parameters)  # gradients are other tensors at every step
        optimizer.param_groups[0]["lr"] *= 0.5
        own(optimizer, parameters[0])["note"] = object()  # what we do not know is not ours
        for parameter in parameters:
            parameter.data.mul_(0.5)
        optimizer.step()
    assert optimizer._roster is before


def test_both_ways_give_the_same_numbers(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [parameter.detach().clone() for parameter in trained()[0]]
    monkeypatch.setattr(roster, "looker", lambda: None)
    assert all(torch.equal(a, b) for a, b in zip(first, trained()[0], strict=True))


def test_a_torch_that_is_made_differently_is_looked_at_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where keys are not found, or not in one place only, there is no glance, and steps go on."""
    for wrong in (lambda tensor: 0, lambda tensor: -1):
        glance.looker.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(glance, "_keys", wrong)
            assert glance.looker() is None
            parameters, optimizer = trained()
            optimizer.step()
            assert optimizer._roster._glance is None
            assert all(int(own(optimizer, parameter)["step"]) == 3 for parameter in parameters)
    glance.looker.cache_clear()
    assert glance.looker() is not None
