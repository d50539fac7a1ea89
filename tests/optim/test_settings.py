"""What stands in a param group is followed: every key, of every group, replaced or changed in place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from truth import bits, fill_gradients, make

import steprule as sr
from steprule import optim
from steprule.optim import binding, settings

pytestmark = pytest.mark.cpu

CLASSES = [name for name in optim.__all__ if name not in {"Explanation", "Optimizer", "explain"}]
STARTS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Rprop": {"lr": 0.1, "step_sizes": (0.09, 0.11)},
    "Adafactor": {"eps": (0.5, 5.0)},
    "CAME": {"eps": (0.1, 0.1)},
    "DoG": {"first": 1.0, "eps": 0.1},
    "Muon": {"eps": 100.0},
    "NorMuon": {"eps": 100.0},
    "Polyak": {"eps": 0.5},
    "SOAP": {"eps": 0.1, "precondition_frequency": 2},
    "Shampoo": {"eps": 0.9, "precondition_frequency": 2},
    "Prodigy": {"d0": 0.1, "eps": 0.1},
}
"""Least numbers are so great that they decide."""
EDITS = {"etas": (0.4, 1.3), "step_sizes": (0.1, 0.105), "t0": 0.0, "beta3_warmup": 7, "alpha_warmup": 7, "d": 2.0,
         "d_coef": 9.0, "ns_steps": 3, "max_precond_dim": 2, "precondition_frequency": 1}  # fmt: skip
"""What becomes of an entry, where half of it would change nothing or be out of its range."""
ONCE = {("Adagrad", "initial_accumulator_value"), ("Yogi", "initial_accumulator"), ("Rprop", "lr"), ("DoG", "first")}
"""What is read when state is made, or by the first step, and never again."""
TOGETHER = {("Prodigy", "betas"), ("Prodigy", "d0"), ("Prodigy", "d_coef")}
"""Of what one number for all tensors is made: it is edited in all groups."""
SHAPES = {name: [(2, 3), (3, 2)] for name in ("Muon", "NorMuon")}
"""Those of classes that do not take a matrix and a vector."""


class Number:
    """A number that is none of Python's, and that changes."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return float(self.value)


def _fill(holder: Any, value: float) -> None:
    holder[...] = value


KINDS: dict[str, tuple[Callable[[float], Any], Callable[[Any, float], Any]]] = {
    "array": (np.array, _fill),
    "tensor": (lambda value: torch.tensor(value, dtype=torch.float64), lambda held, value: held.fill_(value)),
    "object": (Number, lambda held, value: setattr(held, "value", value)),
}
"""How a number is wrapped, and changed in place."""


def edited(name: str, key: str, value: Any) -> Any:
    if (name, key) == ("ADOPT", "eps"):
        return 2.0  # the least that a root may be
    if key in EDITS:
        return EDITS[key]
    if isinstance(value, tuple):
        return tuple(part * 0.9 for part in value)
    return value * 0.5 if value else 0.25


def optimizer_of(name: str, groups: int = 1, **own: Any) -> sr.Optimizer:
    torch.manual_seed(2)
    given = [{"params": make(*SHAPES.get(name, [(2, 3), (2,)]), dtype=torch.float64)} for _ in range(groups)]
    decay = {} if name == "Rprop" else {"weight_decay": 0.1}
    return getattr(optim, name)(given, **{**decay, **STARTS.get(name, {}), **own})


def numbers_of(name: str) -> Iterator[str]:
    for key, value in optimizer_of(name).defaults.items():
        if (isinstance(value, float | tuple) or type(value) is int) and (name, key) not in ONCE:
            yield key


def end_of(
    optimizer: sr.Optimizer, change: Callable[[dict[str, Any]], Any] = lambda group: None, *, everywhere: bool = False
) -> list[Any]:
    """Step, change the last group, or all of them, and step again; return every bit."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    torch.manual_seed(3)
    for number in range(7):
        if number == 5:  # RAdam's eps is read from the sixth step on
            for group in optimizer.param_groups if everywhere else optimizer.param_groups[-1:]:
                change(group)
        fill_gradients(parameters)
        optimizer.step(loss=1000.0 if number % 2 else 1.0)  # Polyak's lr decides where the loss is great
    return bits(optimizer)


@pytest.mark.parametrize("name", CLASSES)
def test_every_number_of_the_last_group_is_followed_when_it_is_replaced_or_changed_in_place(name: str) -> None:
    """Alone, with all gradients present: for every key, against the same run in which nothing was edited."""
    unedited = end_of(optimizer_of(name, 2, backend="eager"))
    keys = list(numbers_of(name))
    assert keys
    for place, key in enumerate(keys):
        before = optimizer_of(name).defaults[key]
        after = edited(name, key, before)
        wrap, fill = list(KINDS.values())[place % len(KINDS)]
        every = (name, key) in TOGETHER
        replaced = end_of(
            optimizer_of(name, 2, backend="eager"), lambda group, k=key, v=after: group.update({k: v}), everywhere=every
        )
        assert replaced != unedited, f"{key} decides nothing here, so this shows nothing"
        held: Any = [wrap(part) for part in before] if isinstance(before, tuple) else wrap(before)
        optimizer = optimizer_of(name, 2, backend="eager")
        for group in optimizer.param_groups if every else optimizer.param_groups[-1:]:
            group[key] = held

        def change(_: Any, held: Any = held, after: Any = after, fill: Any = fill) -> None:
            for one, value in zip(held, after, strict=True) if isinstance(after, tuple) else [(held, after)]:
                fill(one, value)

        assert end_of(optimizer, change, everywhere=every) == replaced, f"{key} as {type(held)}"


@pytest.mark.parametrize("way", ["fast", "slow"])
@pytest.mark.parametrize("key", [*numbers_of("AdamW"), "max_norm"])
def test_kernels_follow_every_entry_of_the_last_group(way: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "slow":
        monkeypatch.setattr(binding, "loop", lambda: None)
    before = optimizer_of("AdamW").defaults.get(key, 1.0)
    after = edited("AdamW", key, before)
    ends = [end_of(optimizer_of("AdamW", 3, clip=1.0))]
    optimizer = optimizer_of("AdamW", 3, clip=1.0)
    ends.append(end_of(optimizer, lambda group: group.update({key: after})))
    assert (optimizer._binding._fast is not None) == (way == "fast")
    held: Any = list(before) if isinstance(before, tuple) else np.array(before)

    def change(_: Any) -> None:
        held[slice(None) if isinstance(held, list) else ...] = after

    optimizer = optimizer_of("AdamW", 3, clip=1.0)
    optimizer.param_groups[-1][key] = held
    ends.append(end_of(optimizer, change))
    assert ends[1] != ends[0]
    assert ends[2] == ends[1]


@pytest.mark.parametrize(
    ("name", "flag"),
    [("Adam", "maximize"), ("Adam", "amsgrad"), ("Adam", "decoupled_weight_decay"), ("SGD", "nesterov"),
     ("RMSprop", "centered"), ("SGD", "momentum"), ("SGD", "weight_decay")],
)  # fmt: skip
def test_a_flag_is_followed(name: str, flag: str) -> None:
    """One that is an array changes in place, and with it the formula."""
    flags = np.array(1.0 if flag in {"momentum", "weight_decay"} else True), np.array(0.0)
    ends = [end_of(optimizer_of(name, backend="eager", **{flag: value})) for value in (flags[0].item(), False)]
    for place, start in enumerate(flags):
        optimizer = optimizer_of(name, backend="eager")
        optimizer.param_groups[0][flag] = held = start.copy()
        assert end_of(optimizer, lambda _, held=held: None) == ends[place]
    optimizer = optimizer_of(name, backend="eager")
    optimizer.param_groups[0][flag] = held = flags[0].copy()
    assert end_of(optimizer, lambda _: held.fill(0)) not in ends


@pytest.mark.parametrize("holder", [list, tuple])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_holder_holds_is_followed(kind: str, holder: Any) -> None:
    wrap, fill = KINDS[kind]
    optimizer = optimizer_of("Adam", backend="eager", betas=holder([wrap(0.9), wrap(0.99)]))
    betas = optimizer.param_groups[0]["betas"]
    changed = end_of(optimizer, lambda _: fill(betas[1], 0.5))
    plain = optimizer_of("Adam", backend="eager", betas=(0.9, 0.99))
    assert changed == end_of(plain, lambda group: group.update(betas=(0.9, 0.5)))


def test_a_hyperparameter_of_ones_own_rule_is_followed() -> None:
    def run(change: Callable[[dict[str, Any]], Any], lr: Any) -> list[Any]:
        torch.manual_seed(2)
        rule = sr.chain(sr.clip_global_norm(max_norm=0.5), sr.board.adam)
        return end_of(sr.Optimizer(make((3,)), rule, lr=lr, backend="eager"), change)

    rate, bound = np.array(0.1), Number(0.5)

    def change(group: dict[str, Any]) -> None:
        group["lr"] *= 0.5
        bound.value = 0.25

    def whole(group: dict[str, Any]) -> None:
        group.update(max_norm=0.25, lr=0.05)

    def with_bound(group: dict[str, Any]) -> None:
        group["max_norm"] = bound
        change(group)

    assert run(with_bound, rate) == run(whole, 0.1) != run(lambda group: None, 0.1)


def test_keys_that_nothing_reads_cost_no_step_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of parameters are a list, and trainers keep what they like in a group."""
    (parameter,) = make((3,))
    optimizer = sr.optim.AdamW([("weight", parameter)], clip=1.0, backend="eager")
    optimizer.param_groups[0].update(layers=[1, 2], scale=torch.ones(1))
    assert isinstance(optimizer.param_groups[0]["param_names"], list)
    end_of(optimizer)
    read = []
    monkeypatch.setattr(settings, "Reading", lambda group: pytest.fail("the group was read again"))
    monkeypatch.setattr(optimizer._binding.buckets[0], "set_hypers", read.append)
    end_of(optimizer, lambda group: group["layers"].append(3))
    assert not read


def test_an_entry_that_comes_later_is_followed() -> None:
    """A key that a formula looks for and did not find, put where another was taken away."""
    ends = []
    for keys in ({}, {"decoupled_weight_decay": True}, {"max_norm": 0.01}, {"maximize": True}):
        optimizer = optimizer_of("NAdam", clip=1.0, backend="eager")
        group = optimizer.param_groups[0]
        group["spare"] = 0
        for name in ("maximize", "decoupled_weight_decay", "max_norm"):
            group.pop(name, None)

        def change(group: dict[str, Any], keys: dict[str, Any] = keys) -> None:
            if keys:
                del group["spare"]
                group.update(keys)

        ends.append(end_of(optimizer, change))
    assert len({repr(end) for end in ends}) == len(ends)


def test_a_copied_group_is_followed() -> None:
    optimizer = optimizer_of("AdamW", backend="eager", betas=[0.9, 0.99])
    end_of(optimizer)
    other = copy.deepcopy(optimizer)
    assert end_of(other, lambda group: group["betas"].__setitem__(0, 0.1)) != end_of(optimizer)
