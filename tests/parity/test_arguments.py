"""torch.optim's face: the same arguments, defaults, groups and refusals."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from cases import CLASSES, FUSED

import steprule as sr
import steprule.optim as ours
from steprule.errors import StepruleError
from steprule.optim.torch_classes import Own

pytestmark = [pytest.mark.cpu, pytest.mark.parity]

ADDED = {"clip": None, "nonfinite": "propagate", "backend": None, "compensated": False}
ADDED |= {"rounding": "nearest", "state": None, "seed": 0, "watch": None}
BETAS = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax")
every_class = pytest.mark.parametrize("name", CLASSES)


def parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0])), torch.nn.Parameter(torch.tensor(0.5))]


def face(cls: type) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(cls).parameters.values()]


@every_class
def test_the_signature_is_that_of_torch_plus_ours(name: str) -> None:
    """Names, order, kinds and defaults; what we add can only be given by name."""
    own, wanted = face(getattr(ours, name)), face(getattr(torch.optim, name))
    assert own == [*wanted, *((key, inspect.Parameter.KEYWORD_ONLY, default) for key, default in ADDED.items())]
    assert set(Own.__annotations__) == set(ADDED)
    with pytest.raises(TypeError, match=f"{name}: got an unexpected keyword argument 'clipp'"):
        getattr(ours, name)(parameters(), clipp=1.0)


@every_class
def test_defaults_and_groups_are_those_of_torch(name: str) -> None:
    own, twin = getattr(ours, name)(parameters()), getattr(torch.optim, name)(parameters())
    assert own.defaults == twin.defaults
    assert [set(group) for group in own.param_groups] == [set(group) for group in twin.param_groups]
    for key, value in twin.param_groups[0].items():
        assert key == "params" or own.param_groups[0][key] == value
    ours_to_tell = ("rule: ", *(f"{option}: " for option in (*ADDED, "capturable")))
    head, *lines = repr(own).splitlines()
    groups = lines.index("Parameter Group 0")
    assert [line.strip().startswith(ours_to_tell) for line in lines[:groups]] == [True] * len(ours_to_tell)
    assert [head, *lines[groups:]] == repr(twin).splitlines()


@every_class
def test_a_class_is_a_torch_optimizer_and_can_be_subclassed(name: str) -> None:
    class Mine(getattr(ours, name)):
        def step(self, closure: Any = None) -> Any:
            self.taken = True
            return super().step(closure)

    found = parameters()
    optimizer = Mine(found, lr=0.5)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert isinstance(optimizer, getattr(ours, name))
    for p in found:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.taken
    assert not torch.equal(found[0], parameters()[0])
    assert repr(optimizer).startswith("Mine (")


LR = [{"lr": -0.1}, {"lr": torch.tensor([0.1, 0.2])}]
DECAY = [{"weight_decay": -0.1}]
ADAM = [{"betas": (1.0, 0.9)}, {"betas": (-0.1, 0.9)}, {"betas": (0.9, 1.0)}, {"betas": (0.9, -1)}, {"eps": -1e-8}]
INVALID: dict[str, list[dict[str, Any]]] = {
    "SGD": [{"momentum": -0.1}, {"nesterov": True}, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}],
    "Adagrad": [{"lr_decay": -1}, {"initial_accumulator_value": -0.1}, {"eps": -1e-10}],
    "RMSprop": [{"alpha": -0.1}, {"momentum": -0.1}, {"eps": -1e-8}],
    "Adadelta": [{"rho": -0.1}, {"rho": 1.5}, {"eps": -1e-6}],
    "NAdam": [*ADAM, {"momentum_decay": -1}],
    "Rprop": [{"etas": (0.0, 1.2)}, {"etas": (1.0, 1.2)}, {"etas": (0.5, 1.0)}, {"etas": (-1, 2)}],
    "ASGD": [],
}
REFUSED = [
    (name, options)
    for name in CLASSES
    for options in [*LR, *([] if name == "Rprop" else DECAY), *INVALID.get(name, ADAM)]
]


@pytest.mark.parametrize(("name", "options"), REFUSED, ids=lambda value: str(value))
def test_what_torch_refuses_we_refuse(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".") as theirs:
        getattr(torch.optim, name)(parameters(), **options)
    with pytest.raises(ValueError, match=r".") as own:
        getattr(ours, name)(parameters(), **options)
    assert type(theirs.value) is ValueError
    assert isinstance(own.value, StepruleError)
    assert own.value.fix


@pytest.mark.hostile("P3")
@every_class
@pytest.mark.parametrize("lr", [float("nan"), float("inf"), "fast", None], ids=str)
def test_a_learning_rate_that_is_no_finite_number_is_refused(name: str, lr: Any) -> None:
    with pytest.raises(ValueError, match="`lr` of"):
        getattr(ours, name)(parameters(), lr=lr)


@every_class
def test_a_group_with_a_bad_value_is_refused_and_not_added(name: str) -> None:
    optimizer = getattr(ours, name)(parameters())
    with pytest.raises(ValueError, match="`lr` of"):
        optimizer.add_param_group({"params": parameters(), "lr": -1.0})
    assert len(optimizer.param_groups) == 1


@every_class
@pytest.mark.parametrize("option", ["capturable", "differentiable"])
def test_capturable_and_differentiable_are_refused_clearly(name: str, option: str) -> None:
    if option not in inspect.signature(getattr(torch.optim, name)).parameters:
        with pytest.raises(TypeError, match=option):
            getattr(ours, name)(parameters(), **{option: True})
        return
    with pytest.raises(ValueError, match=f"{option}=True") as caught:
        getattr(ours, name)(parameters(), **{option: True})
    assert "torch.optim" in caught.value.fix


@every_class
@pytest.mark.parametrize("option", [{"foreach": True}, {"foreach": False}, {"fused": True}, {"fused": False}], ids=str)
def test_foreach_and_fused_are_accepted_and_change_no_number(name: str, option: dict[str, bool]) -> None:
    if "fused" in option and name not in FUSED:
        with pytest.raises(TypeError, match="fused"):
            getattr(ours, name)(parameters(), **option)
        return
    ends = []
    for options in ({}, option):
        found = parameters()
        optimizer = getattr(ours, name)(found, **options)
        for p in found:
            p.grad = torch.full_like(p, 0.3)
        optimizer.step()
        ends.append(found)
        assert optimizer.param_groups[0][next(iter(option))] == options.get(next(iter(option)))
    assert all(torch.equal(p, q) for p, q in zip(*ends, strict=True))


@every_class
def test_a_step_of_zero_gradients_at_rate_zero_changes_nothing(name: str) -> None:
    found = parameters()
    optimizer = getattr(ours, name)(found, lr=0.0)
    for _ in range(3):
        for p in found:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert all(torch.equal(p, before) for p, before in zip(found, parameters(), strict=True))
    assert all(torch.isfinite(value).all() for state in optimizer.state.values() for value in state.values())


@every_class
@pytest.mark.parametrize("option", [{"nonfinite": "ignore"}, {"backend": "cuda"}, {"clip": -1.0}], ids=str)
def test_a_bad_option_of_ours_is_refused_before_anything_runs(name: str, option: dict[str, Any]) -> None:
    with pytest.raises(StepruleError) as caught:
        getattr(ours, name)(parameters(), **option)
    assert caught.value.fix


def test_every_class_with_betas_is_among_those_checked() -> None:
    with_betas = {name for name in CLASSES if "betas" in inspect.signature(getattr(ours, name)).parameters}
    assert with_betas == set(BETAS)


@pytest.mark.null
@pytest.mark.parametrize("name", ["lambd", "alpha"])
def test_asgd_refuses_what_torch_refuses_since_2_15(name: str) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(sr.errors.HyperparameterError, match=name):
        sr.optim.ASGD([parameter], **{name: -0.1})
    optimizer = sr.optim.ASGD([parameter], **{name: 0.0})
    optimizer.param_groups[0][name] = -0.1
    parameter.grad = torch.ones(2)
    with pytest.raises(sr.errors.HyperparameterError, match=name):
        optimizer.step()
    assert parameter.tolist() == [1.0, 1.0]
