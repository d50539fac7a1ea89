"""Every error of the language says what is wrong, shows the author's own line, and says what to do."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import steprule as sr
from steprule import board, chain, choice, hyper, rule, slot, transform
from steprule.errors import HyperparameterError, RuleError, StepruleError

pytestmark = pytest.mark.null


def pointed(error: StepruleError) -> str:
    """Return what the caret stands under."""
    assert f'File "{__file__}", line ' in error.where, error.where
    _, text, caret = error.where.splitlines()
    start, end = caret.index("^"), caret.rindex("^") + 1
    assert set(caret[start:end]) == {"^"}
    return text[start:end]


def refused(action: Callable[[], Any], kind: type[StepruleError] = RuleError) -> StepruleError:
    """Return the error an action ends in, having checked that all parts are there, in order."""
    with pytest.raises(kind) as caught:
        action()
    error = caught.value
    assert error.what
    assert error.fix
    assert str(error) == "\n".join(part for part in (error.what, error.where, f"help: {error.fix}") if part)
    return error


def tree(function: Callable[..., Any]) -> StepruleError:
    """Return the error of tracing a function as a rule."""
    return refused(lambda: rule(function).graph)


def a_parameter() -> torch.nn.Parameter:
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    return parameter


# What Python cannot do with a symbol -------------------------------------------------------------------


def decides_with_if(theta, g, *, lr=0.1):
    if g > 0:
        return theta - lr * g
    return theta


def decides_with_and(theta, g, *, lr=0.1):
    return theta - lr * (g and theta)


def decides_with_or(theta, g, *, lr=0.1):
    return theta - lr * (g or theta)


def decides_with_not(theta, g, *, lr=0.1):
    return theta if not g else theta - lr * g


def takes_the_builtin_min(theta, g, *, lr=0.1):
    return theta - lr * min(g, theta)


def takes_the_builtin_max(theta, g, *, lr=0.1):
    return theta - lr * max(g, 1.0)


def compares_in_a_row(theta, g, *, lr=0.1):
    return theta - lr * sr.where(0 < g < 1, g, theta)


def asks_for_membership(theta, g, *, lr=0.1):
    return theta if g in [theta] else g


@pytest.mark.parametrize(
    ("function", "snippet"),
    [
        (decides_with_if, "g > 0"),
        (decides_with_and, "g and theta"),
        (decides_with_or, "g or theta"),
        (decides_with_not, "not g"),
        (takes_the_builtin_min, "min(g, theta)"),
        (takes_the_builtin_max, "max(g, 1.0)"),
        (compares_in_a_row, "0 < g < 1"),
        (asks_for_membership, "g in [theta]"),
    ],
)
def test_deciding_on_a_symbol_is_refused_with_the_advice_to_use_where(function: Any, snippet: str) -> None:
    error = tree(function)
    assert "no value yet" in error.what
    assert "where(" in error.fix
    assert snippet in pointed(error) or pointed(error) in snippet


def uses_an_unknown_name(theta, g, *, lr=0.1):
    return theta - lr * sgn(g)  # noqa: F821


def uses_numpy(theta, g, *, lr=0.1):
    return theta - lr * np.sqrt(g)


def uses_torch(theta, g, *, lr=0.1):
    return theta - lr * torch.sqrt(g)


def uses_math(theta, g, *, lr=0.1):
    return theta - lr * math.sqrt(g)


def calls_a_method(theta, g, *, lr=0.1):
    return theta - lr * g.mean()


def reads_an_attribute(theta, g, *, lr=0.1):
    return theta - lr * g.shape


def takes_an_element(theta, g, *, lr=0.1):
    return theta - lr * g[0]


def takes_the_length(theta, g, *, lr=0.1):
    return theta - lr * len(g)


def multiplies_matrices(theta, g, *, lr=0.1):
    return theta - lr * (g @ theta)


def iterates(theta, g, *, lr=0.1):
    return theta - lr * tuple(g)[0]


def writes_a_string(theta, g, *, lr=0.1):
    return theta - lr * (g * "0.5")


def writes_nothing(theta, g, *, lr=0.1):
    return theta - lr * (g * None)


def writes_infinity(theta, g, *, lr=0.1):
    return theta - lr * (g * float("inf"))


def writes_a_huge_integer(theta, g, *, lr=0.1):
    return theta - lr * (g * 10**400)


def writes_a_tensor(theta, g, *, lr=0.1):
    return theta - lr * (g * torch.ones(3))


def divides_by_zero_in_python(theta, g, *, lr=0.1):
    return theta - lr * g * (1 / 0)


@pytest.mark.parametrize(
    ("function", "snippet", "word"),
    [
        (uses_an_unknown_name, "sgn", "sgn"),
        (uses_numpy, "np.sqrt(g)", "ufunc"),
        (uses_torch, "torch.sqrt(g)", "sqrt"),
        (uses_math, "math.sqrt(g)", "no value"),
        (calls_a_method, "g.mean", ".mean"),
        (reads_an_attribute, "g.shape", ".shape"),
        (takes_an_element, "g[0]", "no value"),
        (takes_the_length, "len(g)", "no value"),
        (multiplies_matrices, "g @ theta", "no value"),
        (iterates, "tuple(g)", "no value"),
        (writes_a_string, 'g * "0.5"', "'0.5'"),
        (writes_nothing, "g * None", "None"),
        (writes_infinity, 'g * float("inf")', "inf"),
        (writes_a_huge_integer, "g * 10**400", "OverflowError"),
        (writes_a_tensor, "g * torch.ones(3)", "tensor"),
        (divides_by_zero_in_python, "1 / 0", "ZeroDivisionError"),
    ],
)
def test_what_is_not_in_the_language_is_refused_at_its_columns(function: Any, snippet: str, word: str) -> None:
    error = tree(function)
    assert word in error.what
    assert pointed(error) == snippet


def test_a_method_that_exists_as_a_function_is_spelled_in_the_help() -> None:
    assert "mean(x)" in tree(calls_a_method).fix


def test_every_unknown_word_lists_the_functions_of_the_language() -> None:
    for function in (uses_an_unknown_name, uses_torch, reads_an_attribute, divides_by_zero_in_python):
        fix = tree(function).fix
        assert all(name in fix for name in ("sqrt", "where", "global_norm", "clamp")), fix


def test_comparisons_stand_only_inside_where() -> None:
    error = refused(lambda: rule(lambda theta, g, *, lr=0.1: theta - lr * (g > 0)).graph)
    assert "comparison" in error.what
    error = refused(lambda: rule(lambda theta, g, *, lr=0.1: sr.where(g, theta, lr)).graph)
    assert "comparison" in error.what
    assert pointed(error) == "sr.where(g, theta, lr)"


def recurses(theta, g, *, lr=0.1):
    return recurses(theta - lr * g, g, lr=lr)


def test_endless_recursion_is_told_at_the_definition() -> None:
    error = tree(recurses)
    assert "calls itself without end" in error.what
    assert pointed(error).startswith("def recurses")


# What a rule returns -----------------------------------------------------------------------------------


def returns_too_few(theta, g, m, *, lr=0.1):
    return theta - lr * g


def returns_too_many(theta, g, *, lr=0.1):
    return theta - lr * g, g


def returns_nothing(theta, g, *, lr=0.1):
    theta = theta - lr * g


def returns_a_none_for_a_slot(theta, g, m, *, lr=0.1):
    return theta - lr * g, None


@pytest.mark.parametrize(
    ("function", "told", "fix", "line"),
    [
        (returns_too_few, "returns 1 value(s), but its signature needs 2", "return theta, m", "return"),
        (returns_too_many, "returns 2 value(s), but its signature needs 1", "return theta", "return"),
        (returns_nothing, "returns no value(s)", "return theta", "def"),
        (returns_a_none_for_a_slot, "returns 2 value(s)", "return theta, m", "return"),
    ],
)
def test_a_return_that_does_not_match_the_signature_is_shown(function: Any, told: str, fix: str, line: str) -> None:
    error = tree(function)
    assert told in error.what
    assert error.fix == fix
    assert pointed(error).startswith(line)


def test_a_slot_smaller_than_its_new_value_is_refused() -> None:
    @rule
    def greedy(theta, g, k=slot(rank="tensor"), *, lr=0.1):
        k = k + g**2
        return theta - lr * g, k

    error = refused(lambda: greedy.graph)
    assert "slot `k` holds one number a tensor" in error.what
    assert pointed(error) == "k + g**2"


def test_reductions_of_what_does_not_vary_are_refused() -> None:
    def of_a_hyperparameter(theta, g, *, lr=0.1):
        return theta - sr.norm(lr) * g

    def of_a_reduction(theta, g, *, lr=0.1):
        return theta - lr * sr.sum(sr.mean(g)) * g

    for function, snippet, what in (
        (of_a_hyperparameter, "sr.norm(lr)", "a host scalar"),
        (of_a_reduction, "sr.sum(sr.mean(g))", "already one number"),
    ):
        error = tree(function)
        assert what in error.what
        assert pointed(error) == snippet


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


@pytest.mark.parametrize("thing", [5, "adam", None, print, board.adam, board.adam.part], ids=repr)
def test_only_a_python_function_becomes_a_rule(thing: Any) -> None:
    error = refused(lambda: rule(thing) if thing is not None else transform(moves="gradient")(thing))
    assert "no Python function" in error.what


def test_declarations_out_of_range_are_refused() -> None:
    assert "-1" in refused(lambda: hyper(-1, low=0)).what
    assert "rank 'row'" in refused(lambda: slot(rank="row")).what  # type: ignore[arg-type]
    assert "at least one option" in refused(lambda: choice()).what


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


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: repr(bad)[:12])
def test_a_bad_hyperparameter_is_refused_wherever_it_is_given(bad: Any) -> None:
    """At construction, when configuring, in a new group, and when a group is edited before a step."""
    parameter = a_parameter()
    optimizer = board.sgd.optimizer([parameter])

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
    optimizer = board.adam.optimizer([{"params": [a_parameter()]}, {"params": [a_parameter()]}])
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


def test_transforms_and_rules_keep_their_places() -> None:
    for action, what in (
        (lambda: sr.Optimizer([a_parameter()], sr.clip_value), "is a transform"),
        (lambda: sr.clip_value.optimizer([a_parameter()]), "is a transform"),
        (lambda: chain(board.sgd, sr.clip_value), "`sgd` is a rule"),
        (lambda: chain(sr.clip_norm, sr.clip_value), "`clip_value` is a transform, but the last link"),
        (lambda: chain(sr.clip_value, board.sgd, board.adam), "`sgd` is a rule, but only the last"),
        (lambda: chain(), "empty chain"),
        (lambda: chain(sr.clip_value, decides_with_if), "neither a rule nor a transform"),  # type: ignore[arg-type]
        (lambda: sr.Optimizer([a_parameter()], decides_with_if), "needs a rule"),  # type: ignore[arg-type]
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


# Without source ----------------------------------------------------------------------------------------


def test_rules_without_source_still_give_sane_errors() -> None:
    namespace: dict[str, Any] = {}
    exec("def hidden(theta, g, *, lr=0.1):\n    return theta if g else theta", namespace)  # noqa: S102
    error = refused(lambda: rule(namespace["hidden"]).graph)
    assert '"<string>", line 2' in error.where
    assert "^" not in error.where
    assert "where(" in error.fix


def test_rules_made_of_lambdas_give_errors_at_their_line() -> None:
    error = refused(lambda: rule(lambda theta, g, *, lr=0.1: theta - lr * nothing(g)).graph)  # noqa: F821
    assert pointed(error) == "nothing"
    line = inspect.currentframe().f_lineno - 2  # type: ignore[union-attr]
    assert f"line {line}" in error.where


def test_a_caret_counts_characters_not_bytes() -> None:
    def greek(θ, g, *, η=0.1):  # noqa: PLC2401
        return θ - η * g.ψ

    assert pointed(tree(greek)) == "g.ψ"
