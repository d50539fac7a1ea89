"""Whatever pointers rely on is noticed when it changes: by the fast check, and by its definition in Python."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable
from typing import Any

import pytest
import torch

import steprule as sr
from steprule.optim import binding, checks, fast_check

pytestmark = pytest.mark.cpu

Change = Callable[[list[torch.nn.Parameter], sr.Optimizer], None]
CHANGES: dict[str, Change] = {}
SHAPES = ((3, 4), (5,), (2, 2, 2))


def change(does: Change) -> Change:
    CHANGES[does.__name__] = does
    return does


def own(optimizer: sr.Optimizer, parameter: torch.Tensor) -> dict[str, Any]:
    return optimizer.state[parameter]


@pytest.fixture(params=["fast", "slow", "slow without guards"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "fast":
        monkeypatch.setattr(binding, "loop", lambda: None)
    if request.param == "slow without guards":
        monkeypatch.setattr(checks, "TensorGuards", None)
    elif fast_check.loop() is None:
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


def fast_is_off() -> bool:
    return binding.loop() is None


def asks(optimizer: sr.Optimizer) -> bool:
    """Ask as a step does whether its binding may be used again."""
    found = optimizer._binding
    assert found is not None
    assert (found._fast is None) == (fast_is_off())
    return found.still_holds(optimizer._choose, optimizer._mood(), optimizer.param_groups, optimizer.state)


@change
def the_parameter_has_other_memory(parameters, optimizer):
    parameters[0].data = parameters[0].data.clone()


@change
def the_parameter_has_a_bigger_neighbourhood(parameters, optimizer):
    parameters[1].data.untyped_storage().resize_(64)


@change
def the_parameter_has_another_shape_in_the_same_memory(parameters, optimizer):
    parameters[0].data = parameters[0].data.view(4, 3)


@change
def the_parameter_has_another_dimension(parameters, optimizer):
    parameters[1].data = parameters[1].data.view(5, 1)


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
def the_count_has_other_memory(parameters, optimizer):
    own(optimizer, parameters[1])["step"].data = own(optimizer, parameters[1])["step"].clone()


@change
def the_count_is_another_place_of_its_table(parameters, optimizer):
    own(optimizer, parameters[1])["step"].data = own(optimizer, parameters[0])["step"].data


@change
def the_count_is_read_as_integers(parameters, optimizer):
    count = own(optimizer, parameters[2])["step"]
    count.data = count.data.view(torch.int32)


@change
def the_count_is_lazily_negated(parameters, optimizer):
    count = own(optimizer, parameters[0])["step"]
    count.data = torch._neg_view(count.data)


@change
def the_counts_are_shared_with_other_processes(parameters, optimizer):
    own(optimizer, parameters[1])["step"].share_memory_()


@change
def the_count_is_gone(parameters, optimizer):
    del own(optimizer, parameters[2])["step"]


@change
def there_is_more_state(parameters, optimizer):
    optimizer.state[torch.nn.Parameter(torch.zeros(2))] = {}


@change
def there_is_a_group_more(parameters, optimizer):
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": []})


@change
def the_whole_state_is_another(parameters, optimizer):
    optimizer.state = copy.copy(optimizer.state)


@change
def the_formula_is_another(parameters, optimizer):
    optimizer.param_groups[0]["amsgrad"] = True


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
def the_gradient_has_another_dtype(parameters, optimizer):
    parameters[1].data, before = parameters[1].data.double(), parameters[1].data  # torch compares the two
    parameters[1].grad = torch.ones(5, dtype=torch.float64)
    parameters[1].data = before


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


@pytest.mark.parametrize("what", ["parameter", "gradient", "slot"])
def test_another_device_of_the_same_kind_is_noticed(what: str) -> None:
    """Two GPUs have one set of dispatch keys, and a kernel on one would read what is on the other."""
    found = fast_check.loop()
    if found is None:
        pytest.skip("this Python or this torch is made differently")
    parameters, optimizer = trained()
    tensor = {
        "parameter": parameters[0],
        "gradient": parameters[0].grad,
        "slot": own(optimizer, parameters[0])["exp_avg"],
    }
    index = ctypes.c_int8.from_address(tensor[what]._cdata + found.places.dtype + 3)
    assert asks(optimizer)
    assert index.value == -1
    index.value = 1
    try:
        assert not asks(optimizer)
    finally:
        index.value = -1
    assert asks(optimizer)


@pytest.mark.parametrize("which", ["parameter", "slot"])
def test_a_storage_that_has_another_size_at_the_same_address_is_noticed(way: str, which: str) -> None:
    """Shrink storages until the allocator gives back an address that the kernel knows."""
    # Whether it does for small ones is its own affair. A large one has pages of its own, and fits where it was.
    for count in (*[100] * 300, 9_000_000):
        parameter = torch.nn.Parameter(torch.zeros(count))
        optimizer = sr.optim.AdamW([parameter], clip=1.0)
        fill([parameter])
        optimizer.step()
        tensor = parameter.data if which == "parameter" else own(optimizer, parameter)["exp_avg"]
        address, storage = tensor.data_ptr(), tensor.untyped_storage()
        for size in range(8, 360, 16) if count == 100 else range(4 * count - 64, 4 * count - 1024, -64):
            storage.resize_(size)
            if tensor.data_ptr() == address:
                assert not asks(optimizer)
                return
    pytest.fail("no address came back, so this shows nothing")


def test_what_may_change_is_not_taken_for_a_change(way: str) -> None:
    parameters, optimizer = trained()
    before = optimizer._binding
    for _ in range(3):
        fill(parameters)  # gradients are other tensors at every step
        optimizer.param_groups[0]["lr"] *= 0.5
        own(optimizer, parameters[0])["note"] = object()  # what we do not know is not ours
        for parameter in parameters:
            parameter.data.mul_(0.5)
        parameters[1].grad = None  # and may be absent
        optimizer.step()
    assert optimizer._binding is before


def test_both_ways_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    if fast_check.loop() is None:
        pytest.skip("this Python or this torch is made differently")
    ends, asked = [], []
    for _ in range(2):
        parameters, optimizer = trained()
        optimizer.step()
        ends.append([parameter.detach().clone() for parameter in parameters])
        asked.append(optimizer._binding._fast)
        monkeypatch.setattr(binding, "loop", lambda: None)
    assert asked[0] is not None
    assert asked[1] is None
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_torch_that_is_made_differently_is_looked_at_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one of the places is not found there is no fast check, and steps go on."""
    for name in ("_keys", "_dtype", "_storage", "_offset", "_shape"):
        fast_check.loop.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(fast_check, name, lambda tensor: -1)
            assert fast_check.loop() is None
            parameters, optimizer = trained()
            optimizer.step()
            assert optimizer._binding._fast is None
            assert all(int(own(optimizer, parameter)["step"]) == 3 for parameter in parameters)
    fast_check.loop.cache_clear()
    assert fast_check.loop() is not None
