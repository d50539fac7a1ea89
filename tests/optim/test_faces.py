"""What a class shows of itself: `help`, signatures, errors of a call that does not fit, `repr` and `dir`."""

from __future__ import annotations

import copy
import inspect
import pickle
import pydoc
import re
from typing import Any

import pytest
import torch

import steprule as sr
from steprule.optim.documented import MEANINGS, OPTIONS
from steprule.optim.options import NAMES

pytestmark = pytest.mark.null

CLASSES = [name for name in sr.optim.__all__ if name not in {"Explanation", "Optimizer", "explain"}]
every_class = pytest.mark.parametrize("name", CLASSES)
BOUNDS = {"at least 0": [-0.1], "above 0": [0.0], "from 0 to 1": [-0.1, 1.1], "from 0, below 1": [-0.1, 1.0]}
"""What a sentence about an argument may say of its range, and values outside."""


def make() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(1, 2))]


def of(name: str) -> Any:
    return getattr(sr.optim, name)


def arguments(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(of(name)).parameters)


def told(name: str) -> dict[str, str]:
    """Read the sentences about arguments and options out of a class's docstring, as `help` shows it."""
    text = inspect.getdoc(of(name)) or ""
    found = re.findall(r"^    (?:\*\*)?(\w+)(=.+?)?: ((?:.|\n {8})+)", text, flags=re.MULTILINE)
    return {argument: f"{default}: {' '.join(sentence.split())}" for argument, default, sentence in found}


@pytest.mark.parametrize("name", [*CLASSES, "Optimizer"])
def test_help_tells_every_argument_with_its_default_and_every_option(name: str) -> None:
    sentences = told(name)
    assert set(sentences) == set(arguments(name)) >= set(OPTIONS)
    for argument, parameter in arguments(name).items():
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        assert sentences[argument].startswith(f"{default}: ")
    shown = pydoc.render_doc(of(name), renderer=pydoc.plaintext)
    for word in ("ArgumentError", "HyperparameterError", "ParameterError", "BackendError", "NonFiniteError", ">>> "):
        assert word in shown
    assert "foreach" not in sentences or "without effect" in sentences["foreach"]
    assert ("foreach" in sentences) == (name not in {"Optimizer", "Muon", "NorMuon", "Shampoo", "SOAP"})  # as torch's
    assert "fused" not in sentences or "GradScaler" in sentences["fused"]


@every_class
def test_ranges_that_help_tells_are_those_that_are_checked(name: str) -> None:
    """Whatever a sentence says of a range, a value outside is refused; what is a number and says nothing has none."""
    for argument, sentence in told(name).items():
        for words, outside in BOUNDS.items():
            for value in outside if sentence.rstrip(".").endswith(words) else ():
                default = arguments(name)[argument].default
                values = [value] if not isinstance(default, tuple) else [
                    (*default[:place], value, *default[place + 1 :]) for place in range(len(default))]  # fmt: skip
                for given in values:
                    flags = {"momentum": 0.9} if name == "RMSprop" else {}
                    with pytest.raises(sr.errors.HyperparameterError):
                        of(name)(make(), **{**flags, argument: given})


def test_every_sentence_is_used_and_every_class_says_what_it_alone_takes() -> None:
    taken = {argument for name in [*CLASSES, "Optimizer"] for argument in arguments(name)}
    assert set(MEANINGS) <= taken
    decay = {name: told(name)["weight_decay"] for name in CLASSES if "weight_decay" in arguments(name)}
    assert {name for name, sentence in decay.items() if "apart from the gradient" in sentence} == {
        "AdamW", "Lion", "AdaBelief", "AdEMAMix", "MARS", "Muon", "NorMuon", "SOAP", "Signum", "Adafactor", "AdamMini",
        "CAME",
    }  # fmt: skip


@every_class
def test_a_signature_has_real_types_and_every_option_by_its_name(name: str) -> None:
    parameters = arguments(name).values()
    assert all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters)
    assert not any(isinstance(parameter.annotation, str) for parameter in parameters)
    assert not any(parameter.annotation in (Any, parameter.empty) for parameter in parameters)
    defaults = inspect.signature(sr.Optimizer).parameters
    assert all(arguments(name)[option].default == defaults[option].default for option in OPTIONS)
    assert "own" not in str(inspect.signature(of(name).__init__))


TYPOS = {"learning_rate": "lr", "beta": "betas", "LR": "lr", "weight_decy": "weight_decay", "clipp": "clip",
         "non_finite": "nonfinite", "maximise": "maximize"}  # fmt: skip


@every_class
@pytest.mark.parametrize("typo", TYPOS)
def test_a_typo_is_told_with_the_name_of_the_class_and_what_was_meant(name: str, typo: str) -> None:
    with pytest.raises(sr.errors.ArgumentError) as caught:
        of(name)(make(), **{typo: 1})
    message = str(caught.value)
    assert message.startswith(f"{name}: got an unexpected keyword argument '{typo}'")
    if TYPOS[typo] in arguments(name):
        assert caught.value.fix == f"did you mean {TYPOS[typo]}?"
    assert isinstance(caught.value, TypeError)
    assert "TorchOptimizer" not in message
    assert "__init__" not in message


@every_class
@pytest.mark.parametrize("way", ["nothing", "too many", "twice", "far from any"])
def test_a_call_that_does_not_fit_is_told_with_the_call_that_would(name: str, way: str) -> None:
    given: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        "nothing": ((), {}), "too many": ((make(), *[0.1] * 30), {}), "twice": ((make(), 0.1), {"lr": 0.1}),
        "far from any": ((make(),), {"qqq": 1}),
    }  # fmt: skip
    positional, named = given[way]
    with pytest.raises(sr.errors.ArgumentError) as caught:
        of(name)(*positional, **named)
    assert caught.value.what.startswith(f"{name}: ")
    assert f"{name}(params, lr=" in caught.value.fix
    assert "__init__" not in str(caught.value)


def test_the_optimizer_of_any_rule_names_itself_too() -> None:
    with pytest.raises(sr.errors.ArgumentError, match=r"^Optimizer: missing a required argument: 'rule'"):
        sr.Optimizer(make())  # type: ignore[call-arg]
    assert "**hyper" in str(inspect.signature(sr.Optimizer))
    for typo, meant in (("learning_rate", "lr"), ("clipp", "clip")):
        with pytest.raises(sr.errors.HyperparameterError, match=f"`adam` has no .*`{typo}`") as caught:
            sr.Optimizer(make(), sr.board.adam, **{typo: 1.0})
        assert caught.value.fix.startswith(f"did you mean {meant}? it has lr, ")


def test_a_subclass_has_its_own_signature_and_may_leave_arguments_to_ours() -> None:
    class Mine(sr.optim.AdamW):
        def __init__(self, params: Any, speed: float = 0.1, **rest: Any) -> None:
            super().__init__(params, lr=speed, **rest)

    assert list(inspect.signature(Mine).parameters) == ["params", "speed", "rest"]
    assert Mine(make(), speed=0.5, clip=1.0).param_groups[0]["lr"] == 0.5
    with pytest.raises(sr.errors.ArgumentError, match=r"^AdamW: got an unexpected"):
        Mine(make(), spede=0.5)


def head(optimizer: Any) -> dict[str, str]:
    """Read what stands before the groups of a repr."""
    lines = repr(optimizer).splitlines()
    assert lines[0] == f"{type(optimizer).__name__} ("
    pairs = [line.strip().split(": ", 1) for line in lines[1 : lines.index("Parameter Group 0")]]
    return dict(pairs)


@every_class
def test_a_repr_names_rule_clip_and_options(name: str) -> None:
    optimizer = of(name)(make(), clip=2.0, nonfinite="skip", backend="eager", compensated=True)
    seen = head(optimizer)
    assert set(seen) == {"rule", *NAMES}
    assert seen["rule"].startswith("clip_global_norm+")
    assert (seen["clip"], seen["nonfinite"]) == ("clip_global_norm(max_norm=2)", "'skip'")
    assert (seen["backend"], seen["compensated"]) == ("'eager'", "True")
    assert seen["rounding"] == "'compensated'"
    assert repr(copy.deepcopy(optimizer)) == repr(optimizer)


def test_a_repr_follows_what_is_set_and_names_every_formula() -> None:
    optimizer = sr.Optimizer([{"params": make()}], sr.board.adam)
    assert head(optimizer) | {"rule": "adam", "clip": "None"} == head(optimizer)
    optimizer.clip = sr.clip_value(limit=0.5)
    optimizer.nonfinite = "raise"
    assert head(optimizer) | {"rule": "clip_value+adam", "nonfinite": "'raise'"} == head(optimizer)
    assert repr(pickle.loads(pickle.dumps(optimizer))) == repr(optimizer)  # noqa: S301
    several = sr.optim.SGD([{"params": make(), "momentum": 0.9}, {"params": make()}], weight_decay=0.1)
    assert head(several)["rule"] == "coupled_weight_decay+heavy_ball, coupled_weight_decay+sgd"
    assert several.program.name == "coupled_weight_decay+heavy_ball"
    del several.param_groups[0]["momentum"]
    assert head(several)["rule"] == "unknown"


@every_class
def test_dir_shows_what_is_public_and_all_of_it_can_be_read(name: str) -> None:
    optimizer = of(name)(make())
    public = {word for word in dir(optimizer) if not word.startswith("_")}
    added = public - set(dir(torch.optim.SGD(make())))
    own = {
        "at_iterate",
        "eval",
        "train",
        "program",
        "routes",
        "state_dtype",
        "gauges",
        "register_gauges_hook",
        "step_in_backward",
        *NAMES,
    }
    assert added == own - {"state"}
    assert all(getattr(optimizer, word) is not Ellipsis for word in public)
    assert {word for word in dir(of(name)) if not word.startswith("_")} - set(dir(torch.optim.SGD)) == added
