"""Options of an optimiser: one list of names, read, set, copied and refused as that list says."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from dataclasses import fields
from typing import Any

import pytest
import torch
from truth import bits, corrected_adam, raw

import steprule as sr
from steprule import board, choice, rule, slot, transform
from steprule.errors import BackendError, HyperparameterError, NonFiniteError, RuleError, StepruleError
from steprule.optim.cut import SPLITS
from steprule.optim.groups import RULE
from steprule.optim.options import NAMES, Options
from steprule.optim.torch_classes import Own
from steprule.rule.signature import OPTIONS, RESERVED, RESERVED_HYPERS

pytestmark = pytest.mark.null

MAKERS: dict[str, Any] = {
    "rule": lambda params, **options: sr.Optimizer(params, corrected_adam, **options),
    "look-ahead": lambda params, **options: sr.Optimizer(params, board.nesterov, lr=0.1, **options),
    "class": lambda params, **options: sr.optim.AdamW(params, lr=0.1, **options),
    "momentum": lambda params, **options: sr.optim.SGD(params, lr=0.1, momentum=0.9, **options),
}


def pair(make: Any, changed: dict[str, Any], **options: Any) -> tuple[Any, Any]:
    """Return an optimiser whose options are to be changed, and one made so."""
    options = {"backend": "eager", **options}
    one = [torch.nn.Parameter(torch.linspace(-1, 1, 5)), torch.nn.Parameter(torch.ones(2, 3))]
    return make(one, **options), make(copy.deepcopy(one), **{**options, **changed})


def step(*optimizers: Any, bad: float | None = None) -> None:
    """Step each with the same gradients, of which one element may be `bad`."""
    torch.manual_seed(1)
    gradients = [torch.randn(5) * 3, torch.randn(2, 3) * 3]
    if bad is not None:
        gradients[1][1, 2] = bad
    for optimizer in optimizers:
        for parameter, gradient in zip(optimizer.param_groups[0]["params"], gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()


def test_there_is_one_list_of_options() -> None:
    """Constructors, copies, attributes and the names that rules may not use: all from the fields of `Options`."""
    names = tuple(field.name for field in fields(Options))
    assert names == NAMES
    assert set(names) == OPTIONS
    assert RESERVED > OPTIONS < RESERVED_HYPERS > {RULE, SPLITS}
    keywords = {name: p.default for name, p in inspect.signature(sr.Optimizer).parameters.items()}
    assert [name for name in keywords if name not in {"params", "rule", "roles", "hyper"}] == list(names)
    assert {name: keywords[name] for name in names} == {field.name: field.default for field in fields(Options)}
    assert Own.__annotations__.keys() | {"capturable"} == set(names)  # capturable is an argument of torch's own
    own = set(inspect.signature(sr.optim.torch_classes.TorchOptimizer.__init__).parameters) - {
        "self",
        "params",
        "defaults",
    }
    assert own == set(Own.__annotations__)
    for name in names:
        attribute = "state_dtype" if name == "state" else name  # torch's optimisers have another `state`
        assert inspect.getattr_static(sr.Optimizer, attribute).__class__.__name__ == "Option"


def written(signature: str) -> Any:
    """Return a function of that signature."""
    scope: dict[str, Any] = {"choice": choice, "slot": slot, "sr": sr}
    exec(f"def named({signature}): return theta", scope)  # noqa: S102
    return scope["named"]


@pytest.mark.parametrize("name", sorted(RESERVED_HYPERS))
def test_no_hyperparameter_or_choice_is_called_as_an_option(name: str) -> None:
    for declared in ("0.5", "sr.hyper(1.0, low=0)", "choice(False, True)", "None"):
        for make in (rule, transform, lambda f: rule(evaluate_at=lambda theta: theta)(f)):
            with pytest.raises(RuleError, match=rf"`{name}` is reserved") as caught:
                make(written(f"theta, g, m, *, lr=0.1, {name}={declared}"))
            assert caught.value.fix
            assert ", line " in caught.value.where


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_no_array_is_called_as_an_option(name: str) -> None:
    for signature in (f"{name}, g", f"theta, {name}", f"theta, g, {name}", f"theta, g, {name}=slot(rank='host')"):
        with pytest.raises(RuleError, match=rf"`{name}` is reserved"):
            rule(written(signature))
        with pytest.raises(RuleError, match=rf"`{name}` is reserved"):
            transform(written(signature))


CHANGES = [
    {"nonfinite": "skip"},
    {"nonfinite": "raise"},
    {"clip": 0.5},
    {"clip": sr.clip_value(limit=0.25)},
    {"clip": sr.clip_norm(max_norm=0.1)},
    {"clip": 0.5, "nonfinite": "skip"},
]


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("changed", CHANGES, ids=repr)
def test_what_is_set_holds_from_the_next_step_as_if_it_had_been_asked_for(maker: str, changed: dict[str, Any]) -> None:
    """After a step without it, and after another one with it and back again."""
    optimizer, made_so = pair(MAKERS[maker], changed)
    for value in ("clip", "nonfinite"):
        setattr(made_so, value, None if value == "clip" else "propagate")
    step(optimizer, made_so)
    assert bits(optimizer) == bits(made_so)
    for name, value in changed.items():
        setattr(optimizer, name, value)
        setattr(made_so, name, value)
    again, _ = pair(MAKERS[maker], {}, **changed)
    again.load_state_dict(optimizer.state_dict())
    for mine, its in zip(optimizer.param_groups[0]["params"], again.param_groups[0]["params"], strict=True):
        its.data.copy_(mine)
    step(optimizer, made_so, again)
    assert bits(optimizer) == bits(made_so) == bits(again)
    plain, _ = pair(MAKERS[maker], {})
    step(plain)
    step(plain)
    assert (bits(plain) != bits(optimizer)) == ("clip" in changed)
    before = bits(optimizer)
    if changed.get("nonfinite") == "skip":
        step(optimizer, bad=math.inf)
        assert bits(optimizer) == before
    if changed.get("nonfinite") == "raise":
        with pytest.raises(NonFiniteError):
            step(optimizer, bad=math.nan)
        assert bits(optimizer) == before
    optimizer.nonfinite = "propagate"
    step(optimizer, bad=math.nan)
    assert any(not torch.isfinite(p).all() for p in optimizer.param_groups[0]["params"])


@pytest.mark.cpu
@pytest.mark.parametrize("maker", ["momentum"])
def test_a_backend_that_is_set_runs_the_next_step(maker: str) -> None:
    optimizer, other = pair(MAKERS[maker], {}, backend=None)
    step(optimizer, other)
    optimizer.backend = "eager"
    step(optimizer, other)
    assert {type(bucket.batch).__name__ for bucket in optimizer._binding.buckets} == {"EagerBatch"}
    assert sr.explain(optimizer).backend == "eager"
    for (name, mine), (_, its) in zip(bits(optimizer), bits(other), strict=True):
        mine, its = (torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in (mine, its))
        if name != "step":
            torch.testing.assert_close(mine.view(torch.float32), its.view(torch.float32))
    optimizer.backend = None
    step(optimizer)
    assert {type(bucket.batch).__name__ for bucket in optimizer._binding.buckets} == {"CpuBatch"}


def test_hyperparameters_of_the_clipping_come_and_go_with_it() -> None:
    optimizer = sr.Optimizer([torch.nn.Parameter(torch.ones(2))], board.adam, clip=1.0, backend="eager")
    optimizer.param_groups[0].update(max_norm=0.3, lr=0.7)
    optimizer.nonfinite = "skip"
    assert optimizer.param_groups[0]["max_norm"] == 0.3  # only a new clipping brings new numbers
    optimizer.clip = 2.0
    assert optimizer.param_groups[0]["max_norm"] == optimizer.defaults["max_norm"] == 2.0
    optimizer.clip = sr.clip_value(limit=0.2)
    assert "max_norm" not in optimizer.param_groups[0]
    assert "max_norm" not in optimizer.defaults
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
    assert [group["limit"] for group in optimizer.param_groups] == [0.2, 0.2]
    optimizer.clip = None
    assert sorted(optimizer.param_groups[1]) == ["beta1", "beta2", "eps", "lr", "params"]
    assert [group["lr"] for group in optimizer.param_groups] == [0.7, board.adam.hypers["lr"].value]
    assert optimizer.program is board.adam


REFUSED: dict[str, tuple[Any, type[StepruleError]]] = {
    "nonfinite": ("ignore", HyperparameterError),
    "backend": ("cuda", BackendError),
    "clip": (-1.0, HyperparameterError),
    "compensated": (True, HyperparameterError),
    "rounding": ("stochastic", HyperparameterError),
    "state_dtype": ("float32", HyperparameterError),
    "seed": (3, HyperparameterError),
    "capturable": (True, HyperparameterError),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("name", [*REFUSED, "a rule as clip", "a word as clip"])
def test_what_cannot_be_set_is_refused_and_changes_nothing(maker: str, name: str) -> None:
    value, kind = REFUSED.get(name, (board.sgd, RuleError) if "rule" in name else ("a", HyperparameterError))
    optimizer, other = pair(MAKERS[maker], {})
    step(optimizer, other)
    before = dict(vars(optimizer))
    groups = copy.deepcopy([{**group, "params": 0} for group in optimizer.param_groups])
    with pytest.raises(kind) as caught:
        setattr(optimizer, name.split()[-1], value)
    assert caught.value.what
    assert caught.value.fix
    assert vars(optimizer) == before
    assert [{**group, "params": 0} for group in optimizer.param_groups] == groups
    step(optimizer, other)
    assert bits(optimizer) == bits(other)
    optimizer.compensated = optimizer.capturable = False  # as they are
    optimizer.rounding, optimizer.state_dtype, optimizer.seed = "nearest", None, 0
    with pytest.raises(AttributeError):
        optimizer.program = board.sgd


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "copy"])
def test_options_that_were_set_are_copied_and_pickled(maker: str, how: str) -> None:
    optimizer, _ = pair(MAKERS[maker], {})
    optimizer.nonfinite, optimizer.clip = "skip", 0.5
    step(optimizer)
    copied = {"deepcopy": copy.deepcopy, "copy": copy.copy, "pickle": lambda o: pickle.loads(pickle.dumps(o))}  # noqa: S301
    again = copied[how](optimizer)
    assert (again.nonfinite, again.backend, again.compensated, again.capturable) == ("skip", "eager", False, False)
    assert again.clip.hypers["max_norm"].value == 0.5
    before = bits(again)
    step(again, bad=math.nan)
    assert bits(again) == before
    if how != "copy":
        step(optimizer, again)
        assert bits(optimizer) == bits(again)
    again.clip = None
    assert optimizer.clip is not None


@pytest.mark.parametrize("compensated", [False, True])
def test_optimisers_pickled_before_clip_could_be_set_still_load(compensated: bool) -> None:
    """They hold the program, clipping included, and no list of options."""
    made = {"clip": 0.5, "nonfinite": "skip", "compensated": compensated}
    optimizer, _ = pair(MAKERS["rule"], {}, **made)
    step(optimizer)
    form = optimizer.__getstate__()
    old = {key: form[key] for key in ("defaults", "state", "param_groups", "backend", "nonfinite", "capturable")}
    again = object.__new__(sr.Optimizer)
    again.__setstate__(copy.deepcopy({**old, "program": optimizer.program}))
    step(optimizer, again)
    assert bits(optimizer) == bits(again)
    again.nonfinite = "raise"
    with pytest.raises(NonFiniteError):
        step(again, bad=math.nan)


@transform
def scaled(theta, g, *, momentum=0.5):
    return g * momentum + 0 * theta


@transform
def damped(theta, g, *, beta1=0.5, lr=sr.hyper(shared=True)):
    return g * beta1 + lr * 0 * theta


@transform
def shortened(theta, g, *, factor=0.5, lr=sr.hyper(shared=True)):
    return g * factor + lr * 0 * theta


@pytest.mark.parametrize(
    ("name", "clip", "word"),
    [("SGD", scaled, "momentum"), ("AdamW", damped, "beta1"), ("SGD", sr.weight_decay(0.1), "weight_decay")],
    ids=repr,
)
def test_a_clipping_and_a_class_do_not_share_a_word(name: str, clip: Any, word: str) -> None:
    """The group's momentum of 0 would be read for the transform's own of 0.5."""
    make = getattr(sr.optim, name)
    optimizer = make([torch.nn.Parameter(torch.ones(2))], clip=shortened, backend="eager")
    for action in (
        lambda: make([torch.nn.Parameter(torch.ones(2))], clip=clip),
        lambda: setattr(optimizer, "clip", clip),
    ):
        with pytest.raises(HyperparameterError, match=f"`{word}` of the clipping") as caught:
            action()
        assert clip.name in caught.value.where
        assert caught.value.fix
    assert optimizer.clip is shortened
    optimizer.step()


def test_options_can_be_set_in_the_middle_of_things() -> None:
    """In a closure, in hooks, and inside `at_iterate`: the update that follows obeys."""
    optimizer, other = pair(MAKERS["look-ahead"], {"clip": 0.5})

    def closure(changed: bool) -> None:
        step_gradients = torch.Generator().manual_seed(3)
        owner = optimizer if changed else other
        for parameter in owner.param_groups[0]["params"]:
            parameter.grad = torch.randn(parameter.shape, generator=step_gradients) * 5
        if changed:
            optimizer.clip = 0.5

    optimizer.step(lambda: closure(True))
    other.step(lambda: closure(False))
    assert bits(optimizer) == bits(other)
    step(optimizer, other)
    with optimizer.at_iterate():
        optimizer.nonfinite = "skip"
        held = raw(optimizer.param_groups[0]["params"][0])
    assert raw(optimizer.param_groups[0]["params"][0]) != held
    assert bits(optimizer) == bits(other)
    optimizer.register_step_pre_hook(lambda *_: setattr(optimizer, "nonfinite", "propagate"))
    step(optimizer, other)
    assert bits(optimizer) == bits(other)
