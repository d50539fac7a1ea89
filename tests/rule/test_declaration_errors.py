"""Errors of declarations: signatures, look-aheads, hyperparameters, and programs in the wrong place."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from told import a_parameter, pointed, refused

import steprule as sr
from steprule import board, chain, choice, hyper, rule, slot, transform
from steprule.errors import HyperparameterError

pytestmark = pytest.mark.null


# Signatures --------------------------------------------------------------------------------------------


def test_signatures_that_cannot_be_read_are_refused_at_once() -> None:
    def default_among_arrays(theta, g, lr=0.1): ...
    def starred(theta, g, *slots, lr=0.1): ...
    def keywords(theta, g, **options): ...
    def lonely(theta): ...
    def reserved_t(theta, g, t, *, lr=0.1): ...
    def reserved_step(theta, g, step, *, lr=0.1): ...
    def texted(theta, g, *, mode="fast"): ...
    def endless(theta, g, *, lr=math.inf): ...
    def own_keyword(theta, g, *, params=1.0): ...
    def own_option(theta, g, *, clip=1.0): ...

    for function, word in (
        (default_among_arrays, "stands among the arrays"),
        (starred, "no *args"),
        (keywords, "no *args or **kwargs"),
        (lonely, "needs positional arguments"),
        (reserved_t, "`t` is reserved"),
        (reserved_step, "`step` is reserved"),
        (texted, "is no number"),
        (endless, "is no number"),
        (own_keyword, "`params` is reserved"),
        (own_option, "`clip` is reserved"),
    ):
        error = refused(lambda function=function: rule(function))
        assert word in error.what, error.what
        assert pointed(error).startswith(f"def {function.__name__}(")
        assert refused(lambda function=function: transform(function)).what == error.what


NO_FUNCTIONS = [5, "adam", None, print, board.adam, board.adam.part]


@pytest.mark.hostile("R1")
@pytest.mark.parametrize("thing", NO_FUNCTIONS, ids=lambda thing: type(thing).__name__)
def test_only_a_python_function_becomes_a_rule(thing: Any) -> None:
    error = refused(lambda: rule(thing) if thing is not None else transform(moves="gradient")(thing))
    assert "no Python function" in error.what


def test_declarations_out_of_range_are_refused() -> None:
    assert "-1" in refused(lambda: hyper(-1, low=0)).what
    assert "rank 'line'" in refused(lambda: slot(rank="line")).what  # type: ignore[arg-type]
    assert "at least one option" in refused(lambda: choice()).what
    for wrong in (0.1, (0.1,), (0.1, 0.01), (0.1, 0.1), (-0.1, 1), (0.1, 2), (0.1, math.nan), ("a", 1), (1e-4, 0.1, 1)):
        error = refused(lambda wrong=wrong: hyper(0.5, low=0, high=1, tune=wrong))  # type: ignore[arg-type]
        assert f"tune={wrong!r} is no range to search" in error.what
        assert "two numbers of [0, 1], the lower first, e.g. tune=(1e-4, 0.1)" in error.fix
        assert "hyper(0.5" in pointed(error)
    assert "e.g." not in refused(lambda: hyper(3, low=1, tune=(0, 9))).fix  # such an example would be refused, too


def test_a_look_ahead_must_be_the_parameter_minus_something() -> None:
    def scaled(theta, m):
        return 2 * theta - m

    def of_itself(theta, m, *, lr=0.1):
        return theta - lr * theta * m

    for point, snippet in ((scaled, "2 * theta - m"), (of_itself, "theta - lr * theta * m")):
        looking = rule(evaluate_at=point)(lambda theta, g, m, *, lr=0.1: (theta - lr * m, m + g))
        error = refused(lambda looking=looking: looking.optimizer([a_parameter()]))
        assert "look-ahead" in error.what
        assert "evaluate_at" in error.fix
        assert pointed(error) == snippet


def test_a_look_ahead_asks_only_for_what_the_rule_has() -> None:
    looking = rule(evaluate_at=lambda theta, speed: theta - speed)(board.momentum.part.function)
    error = refused(lambda: looking.graph)
    assert "`speed`" in error.what
    assert "theta" in error.fix


def test_names_of_the_look_ahead_itself_are_reserved_in_such_a_rule() -> None:
    @rule(evaluate_at=lambda theta, ahead: theta - ahead)
    def looking(theta, g, ahead, *, lr=0.1):
        return theta - lr * g, ahead + g

    assert "`ahead`" in refused(lambda: looking.optimizer([a_parameter()])).what


# Hyperparameters ---------------------------------------------------------------------------------------

BAD = [-0.5, math.nan, math.inf, "0.1", None, [0.1], 10**400, torch.ones(2), 1j]


@pytest.mark.hostile("P3")
@pytest.mark.parametrize("bad", BAD, ids=lambda bad: repr(bad)[:12])
def test_a_bad_hyperparameter_is_refused_wherever_it_is_given(bad: Any) -> None:
    """At construction, when configuring, in a new group, and when a group is edited before a step."""
    parameter = a_parameter()
    optimizer = board.sgd.optimizer([parameter], backend="eager")

    def edit() -> None:
        optimizer.param_groups[0]["lr"] = bad
        optimizer.step()

    for action in (
        lambda: board.sgd(lr=bad),
        lambda: board.sgd.optimizer([a_parameter()], lr=bad),
        lambda: optimizer.add_param_group({"params": [a_parameter()], "lr": bad}),
        edit,
    ):
        error = refused(action, HyperparameterError)
        assert "`lr` of `sgd`" in error.what
        assert "[0, ∞)" in error.fix
    assert len(optimizer.param_groups) == 1
    assert torch.equal(parameter, torch.ones(3))
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()
    assert torch.equal(parameter, torch.full((3,), 0.5))


def test_the_owner_of_a_bad_hyperparameter_is_named() -> None:
    groups = [{"params": [a_parameter()]}, {"params": [a_parameter()]}]
    optimizer = board.adam.optimizer(groups, backend="eager")
    optimizer.param_groups[1]["beta2"] = 1.5
    assert "`beta2` of `adam`, group 1 is 1.5" in refused(optimizer.step, HyperparameterError).what


def test_a_hyperparameter_without_value_must_be_given() -> None:
    @rule
    def needy(theta, g, *, lr):
        return theta - lr * g

    error = refused(lambda: needy.optimizer([a_parameter()]), HyperparameterError)
    assert "`lr` of `needy`, group 0 has no value" in error.what
    assert "lr=0.1" in error.fix
    assert needy.optimizer([a_parameter()], lr=0.1).param_groups[0]["lr"] == 0.1
    assert needy.optimizer([{"params": [a_parameter()], "lr": 0.2}]).param_groups[0]["lr"] == 0.2


def test_unknown_hyperparameters_and_variants_are_refused_with_the_known_ones() -> None:
    error = refused(lambda: board.nesterov(betta=0.9), HyperparameterError)
    assert "`betta`" in error.what
    assert "lr, beta, look_ahead" in error.fix
    error = refused(lambda: board.nesterov(look_ahead="far"), HyperparameterError)
    assert "'momentum', 'board'" in error.fix
    error = refused(lambda: sr.Optimizer([a_parameter()], board.adam, betas=(0.9, 0.99)), HyperparameterError)
    assert "lr, beta1, beta2, eps" in error.fix


# Rules and transforms in the wrong place ----------------------------------------------------------------


def a_function(theta, g, *, lr=0.1):
    return theta - lr * g


def test_transforms_and_rules_keep_their_places() -> None:
    for action, what in (
        (lambda: sr.Optimizer([a_parameter()], sr.clip_value), "is a transform"),
        (lambda: sr.clip_value.optimizer([a_parameter()]), "is a transform"),
        (lambda: chain(board.sgd, sr.clip_value), "`sgd` is a rule"),
        (lambda: chain(sr.clip_norm, sr.clip_value), "`clip_value` is a transform, but the last link"),
        (lambda: chain(sr.clip_value, board.sgd, board.adam), "`sgd` is a rule, but only the last"),
        (lambda: chain(), "empty chain"),
        (lambda: chain(sr.clip_value, a_function), "neither a rule nor a transform"),  # type: ignore[arg-type]
        (lambda: sr.Optimizer([a_parameter()], a_function), "needs a rule"),  # type: ignore[arg-type]
        (lambda: sr.Optimizer([a_parameter()], torch.optim.SGD), "needs a rule"),  # type: ignore[arg-type]
    ):
        assert what in refused(action).what


def test_a_rule_is_not_called_on_tensors() -> None:
    error = refused(lambda: board.sgd(torch.ones(3), torch.ones(3)))
    assert "a formula, not a function on tensors" in error.what
    assert "sgd.optimizer(" in error.fix
    assert "takes symbols and numbers" in refused(lambda: sr.sqrt(torch.ones(3))).what


def test_an_error_inside_an_inlined_rule_keeps_its_own_words() -> None:
    @rule
    def needy(theta, g, *, lr):
        return theta - lr * g

    outer = rule(lambda theta, g, *, lr=0.1: needy(theta, g))
    error = refused(lambda: outer.graph, HyperparameterError)
    assert error.what == "`needy` has no value for `lr`"
