"""State dictionaries: resuming is bitwise, nothing is shared, and what does not fit is refused whole."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from truth import WITH_CLIPPING, bits, corrected_adam, fill_gradients, make, raw

import steprule as sr
from steprule import board, chain, rule, slot
from steprule.errors import HyperparameterError, StateError, StepruleError

pytestmark = pytest.mark.cpu

SHAPES = (5,), (2, 3), ()


@rule
def of_every_rank(theta, g, m=slot(init=0.5), k=slot(rank="tensor", init=2.0), n=slot(rank="host"), *, lr=0.1, t):
    """Keep a slot of every rank, none of which starts from zero and stays there."""
    m = 0.9 * m + g
    return theta - lr * m / (k + n + t), m, k + sr.norm(g), n + 0.5


PROGRAMS = [*WITH_CLIPPING, corrected_adam, of_every_rank, chain(sr.clip_norm, sr.weight_decay(0.1), of_every_rank)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def trained(program: Any, steps: int = 3, dtype: torch.dtype = torch.float32) -> tuple[list[Any], sr.Optimizer]:
    parameters = make(*SHAPES, dtype=dtype)
    optimizer = sr.Optimizer([{"params": parameters[:1], "lr": 0.05}, {"params": parameters[1:]}], program)
    for _ in range(steps):
        fill_gradients(parameters)
        optimizer.step()
    return parameters, optimizer


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def go_on(parameters: list[Any], optimizer: sr.Optimizer, steps: int = 3) -> list[tuple[str, bytes]]:
    """Step with the same gradients for every caller."""
    torch.manual_seed(99)
    for _ in range(steps):
        fill_gradients(parameters)
        optimizer.step()
    return bits(optimizer)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: repr(program)[:45])
def test_resuming_from_a_file_is_bitwise(program: Any, dtype: torch.dtype) -> None:
    """Through torch.save and a torch.load that runs no code, into an optimiser with other defaults."""
    parameters, optimizer = trained(program, dtype=dtype)
    saved = through_a_file(optimizer.state_dict())
    weights = through_a_file({"weights": parameters})["weights"]
    again = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    other = sr.Optimizer([{"params": again[:1]}, {"params": again[1:]}], program, lr=0.77)
    other.load_state_dict(saved)
    assert bits(other) == bits(optimizer)
    for key, value in optimizer.state[parameters[0]].items():
        assert other.state[again[0]][key].dtype is value.dtype
    assert [group["lr"] for group in other.param_groups] == [group["lr"] for group in optimizer.param_groups]
    assert go_on(again, other) == go_on(parameters, optimizer)


@pytest.mark.parametrize("name", ["ASGD", "NAdam"])
def test_numbers_kept_in_float32_beside_float64_parameters_resume_bitwise(name: str) -> None:
    """A running product or rate is read as exactly in the run that goes on as in the one that is resumed."""
    parameters = make((3,), dtype=torch.float64)
    optimizer = getattr(sr.optim, name)(parameters, lr=0.1)
    go_on(parameters, optimizer)
    again = [torch.nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    other = getattr(sr.optim, name)(again, lr=0.1)
    other.load_state_dict(optimizer.state_dict())
    assert go_on(again, other) == go_on(parameters, optimizer)


@pytest.mark.hostile("P5")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: repr(program)[:45])
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_of_model_and_optimiser_goes_on_alike_and_apart(program: Any, how: str) -> None:
    parameters, optimizer = trained(program)
    pair = (parameters, optimizer)
    again, other = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))  # noqa: S301
    assert other.param_groups[0]["params"][0] is again[0]
    before = bits(optimizer)
    later = go_on(again, other)
    assert bits(optimizer) == before
    assert go_on(parameters, optimizer) == later


def test_a_copy_of_an_optimiser_that_never_stepped_can_step() -> None:
    parameters, optimizer = trained(corrected_adam, steps=0)
    again, other = copy.deepcopy((parameters, optimizer))
    assert go_on(again, other) == go_on(parameters, optimizer)


@pytest.mark.hostile("S2")
def test_loading_shares_nothing_with_what_was_loaded() -> None:
    parameters, optimizer = trained(of_every_rank)
    again, other = trained(of_every_rank, steps=1)
    state = optimizer.state_dict()
    other.load_state_dict(state)
    before = bits(optimizer)
    go_on(again, other)
    other.param_groups[0]["lr"] = 9.0
    assert bits(optimizer) == before
    assert optimizer.param_groups[0]["lr"] == 0.05
    ours = {value.untyped_storage().data_ptr() for p in parameters for value in optimizer.state[p].values()}
    theirs = {value.untyped_storage().data_ptr() for p in again for value in other.state[p].values()}
    assert not ours & theirs
    for loaded in state["state"].values():
        for value in loaded.values():
            value.fill_(7.0)
    assert not any((value == 7).all() for p in again for value in other.state[p].values())


def test_a_state_dict_of_before_the_first_step_starts_afresh() -> None:
    _, fresh = trained(corrected_adam, steps=0)
    parameters, optimizer = trained(corrected_adam)
    optimizer.load_state_dict(fresh.state_dict())
    assert not any(optimizer.state.get(parameter) for parameter in parameters)
    fill_gradients(parameters)
    optimizer.step()
    assert float(optimizer.state[parameters[0]]["step"]) == 1


def test_state_keeps_the_dtype_it_was_saved_with() -> None:
    parameters, optimizer = trained(corrected_adam)
    state = optimizer.state_dict()
    for index in range(3):
        state["state"][index]["m"] = state["state"][index]["m"].double()
    optimizer.load_state_dict(state)
    fill_gradients(parameters)
    optimizer.step()
    kept = optimizer.state[parameters[0]]
    assert [kept[key].dtype for key in ("step", "m", "s")] == [torch.float64, torch.float64, torch.float32]


@pytest.mark.parametrize("kind", ["transposed", "expanded", "negated", "needs grad", "number", "float32 step"])
def test_state_in_any_form_is_loaded_as_a_plain_copy(kind: str) -> None:
    parameters = make((4, 3), dtype=torch.float64)
    optimizer = corrected_adam.optimizer(parameters)
    fill_gradients(parameters)
    optimizer.step()
    state = optimizer.state_dict()
    value = torch.randn(4, 3, dtype=torch.float64).abs()
    key, form = {
        "transposed": ("m", value.t().contiguous().t()),
        "expanded": ("m", torch.tensor(0.25, dtype=torch.float64).expand(4, 3)),
        "negated": ("s", torch._neg_view(-value)),
        "needs grad": ("m", value.clone().requires_grad_()),
        "number": ("step", 5),
        "float32 step": ("step", torch.tensor([5.0])),
    }[kind]
    state["state"][0][key] = form
    optimizer.load_state_dict(state)
    held = optimizer.state[parameters[0]][key]
    assert held.is_contiguous()
    assert not held.is_neg()
    assert not held.requires_grad
    assert torch.equal(held, torch.as_tensor(form, dtype=torch.float64).detach().reshape(held.shape))
    fill_gradients(parameters)
    optimizer.step()
    assert all(torch.isfinite(value).all() for value in optimizer.state[parameters[0]].values())


# Refused -------------------------------------------------------------------------------------------------

Spoil = Callable[[dict[str, Any]], Any]


def entry(key: str, value: Any, index: int = 1) -> Spoil:
    return lambda saved: saved["state"][index].__setitem__(key, value)


SPOILED: dict[str, tuple[Spoil, str]] = {
    "short": (entry("m", torch.zeros(3)), r"'m' has shape \(3,\), but \(2, 3\)"),
    "long": (entry("m", torch.zeros(2, 300)), "has shape"),
    "transposed shape": (entry("m", torch.zeros(3, 2)), "has shape"),
    "scalar": (entry("m", torch.zeros(())), "has shape"),
    "expanded to another shape": (entry("m", torch.zeros(1).expand(4_000_000)), "has shape"),
    "missing": (lambda saved: saved["state"][1].pop("m"), "has no 'm'"),
    "none": (entry("m", None), "has no 'm'"),
    "list": (entry("m", [0.0] * 6), "no floating-point tensor"),
    "string": (entry("m", "zeros"), "no floating-point tensor"),
    "integers": (entry("m", torch.zeros(2, 3, dtype=torch.int64)), "no floating-point tensor"),
    "complex": (entry("m", torch.zeros(2, 3, dtype=torch.complex64)), "no floating-point tensor"),
    "sparse": (entry("m", torch.zeros(2, 3).to_sparse()), "no floating-point tensor"),
    "no step": (lambda saved: saved["state"][1].pop("step"), "has no 'step'"),
    "many steps": (entry("step", torch.zeros(2)), "'step' has shape"),
    "step a string": (entry("step", "5"), "no floating-point tensor"),
    "a long tensor slot": (entry("k", torch.zeros(3)), "'k' has shape"),
    "fewer groups": (lambda saved: saved["param_groups"].pop(), r"hold \[1\] parameters, this .* \[1, 2\]"),
    "fewer parameters": (lambda saved: saved["param_groups"][1]["params"].pop(), r"hold \[1, 1\]"),
    "no groups": (lambda saved: saved.pop("param_groups"), "no state of an optimiser"),
    "no state": (lambda saved: saved.pop("state"), "no state of an optimiser"),
    "groups of numbers": (lambda saved: saved.update(param_groups=[1, 2]), "no state of an optimiser"),
    "a bad rate": (lambda saved: saved["param_groups"][1].update(lr="fast"), "`lr` of `of_every_rank`, saved group 1"),
    "no rate": (lambda saved: saved["param_groups"][1].update(lr=None), "has no value"),
}


@pytest.mark.hostile("S1")
@pytest.mark.parametrize("kind", SPOILED)
def test_state_that_does_not_fit_is_refused_and_nothing_is_loaded(kind: str) -> None:
    """The spoiled parameter is not the first: nothing before it may have been taken over either."""
    _, optimizer = trained(of_every_rank)
    saved = copy.deepcopy(optimizer.state_dict())
    spoil, told = SPOILED[kind]
    spoil(saved)
    torch.manual_seed(5)
    parameters, other = trained(of_every_rank, steps=2)
    torch.manual_seed(5)
    twins, control = trained(of_every_rank, steps=2)
    with pytest.raises(StepruleError, match=told) as caught:
        other.load_state_dict(saved)
    assert isinstance(caught.value, StateError | HyperparameterError)
    assert caught.value.fix
    assert bits(other) == bits(control)
    assert [group["lr"] for group in other.param_groups] == [0.05, 0.1]
    assert go_on(parameters, other) == go_on(twins, control)


def test_a_refusal_names_the_parameter_and_the_key() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = board.adam.optimizer(model.named_parameters())
    fill_gradients(list(model.parameters()))
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][1]["s"] = torch.zeros(5)
    with pytest.raises(StateError) as caught:
        optimizer.load_state_dict(saved)
    assert caught.value.where == "  `bias`, state key 's'"


@pytest.mark.hostile("S9")
def test_state_of_another_rule_is_refused() -> None:
    parameters, optimizer = trained(board.momentum)
    before = [raw(parameter) for parameter in parameters]
    other = sr.Optimizer([{"params": parameters[:1]}, {"params": parameters[1:]}], board.adam)
    with pytest.raises(StateError, match="has no 's'") as caught:
        other.load_state_dict(optimizer.state_dict())
    assert "another rule than `adam`" in caught.value.fix
    assert [raw(parameter) for parameter in parameters] == before


def test_hooks_around_loading_and_saving_still_run() -> None:
    _, optimizer = trained(board.momentum)
    told: list[str] = []
    optimizer.register_load_state_dict_pre_hook(lambda *_: told.append("pre"))
    optimizer.register_load_state_dict_post_hook(lambda *_: told.append("post"))
    optimizer.register_state_dict_post_hook(lambda *_: told.append("saved"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert told == ["saved", "pre", "post"]
