"""Every error of a formula says what is wrong, shows the author's own line, and says what to do."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from told import pointed, refused

import steprule as sr
from steprule import rule, slot
from steprule.errors import StepruleError

pytestmark = pytest.mark.null


def traced(function: Callable[..., Any]) -> StepruleError:
    """Return the error of tracing a function as a rule."""
    return refused(lambda: rule(function).graph)


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


@pytest.mark.hostile("R6")
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
    error = traced(function)
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
    return theta - lr * tuple(g)


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


@pytest.mark.hostile("R1", "R4")
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
        (multiplies_matrices, "g @ theta", "rows by columns and a matrix of rows by columns"),
        (iterates, "tuple(g)", "no value"),
        (writes_a_string, 'g * "0.5"', "'0.5'"),
        (writes_nothing, "g * None", "None"),
        (writes_infinity, 'g * float("inf")', "inf"),
        (writes_a_huge_integer, "g * 10**400", "cannot stand in a formula"),
        (writes_a_tensor, "g * torch.ones(3)", "tensor"),
        (divides_by_zero_in_python, "1 / 0", "ZeroDivisionError"),
    ],
)
def test_what_is_not_in_the_language_is_refused_at_its_columns(function: Any, snippet: str, word: str) -> None:
    error = traced(function)
    assert word in error.what
    assert pointed(error) == snippet


def test_a_method_that_exists_as_a_function_is_spelled_in_the_help() -> None:
    assert "mean(x)" in traced(calls_a_method).fix


def test_every_unknown_word_lists_the_functions_of_the_language() -> None:
    for function in (
        lambda theta, g, *, lr=0.1: theta - lr * fourier(g),  # noqa: F821
        lambda theta, g, *, lr=0.1: theta - lr * torch.fft.fft(g),
        lambda theta, g, *, lr=0.1: theta - lr * g.colour,
        divides_by_zero_in_python,
    ):
        fix = traced(function).fix
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
    error = traced(recurses)
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


@pytest.mark.hostile("R4")
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
    error = traced(function)
    assert told in error.what
    assert error.fix == fix
    assert pointed(error).startswith(line)


@pytest.mark.hostile("R4")
def test_a_slot_smaller_than_its_new_value_is_refused() -> None:
    @rule
    def greedy(theta, g, k=slot(rank="tensor"), *, lr=0.1):
        k = k + g**2
        return theta - lr * g, k

    error = refused(lambda: greedy.graph)
    assert "slot `k` holds one number a tensor" in error.what
    assert pointed(error) == "k + g**2"


def test_a_number_for_all_tensors_is_made_of_nothing_that_each_has_of_its_own() -> None:
    @rule
    def late(theta, g, n=slot(rank="global"), *, lr=0.1, t):
        n = n + sr.global_sum(g) / t
        return theta - lr * g, n

    error = refused(lambda: late.graph)
    assert "slot `n` holds one number for all tensors, but its new value is made of `t`" in error.what
    assert pointed(error) == "sr.global_sum(g) / t"

    @rule
    def hosted(theta, g, n=slot(rank="global"), h=slot(rank="host"), *, lr=0.1):
        return theta - lr * g, n * h, h + lr

    error = refused(lambda: hosted.graph)
    assert "made of `h`" in error.what
    assert pointed(error) == "n * h"

    @rule
    def each(theta, g, n=slot(rank="global"), *, lr=0.1):
        return theta - lr * g, n + sr.norm(g)

    error = refused(lambda: each.graph)
    assert "slot `n` holds one number for all tensors, but its new value varies over tensors" in error.what
    assert pointed(error) == "n + sr.norm(g)"

    @rule(evaluate_at=lambda theta, m, n: theta - n * m)
    def ahead(theta, g, m, n=slot(rank="global"), *, lr=0.1):
        return theta - lr * g, g, n + 1

    assert "the point of `ahead` is made of `n`" in refused(lambda: ahead.graph).what
    assert "one number for all tensors" in refused(lambda: slot(rank="global", init="theta")).what

    @rule
    def within(theta, g, n=slot(rank="global"), h=slot(rank="host"), *, lr=0.1, t):
        return theta - lr * g * n, n + sr.global_sum(g * h / t), h + 1

    assert within.graph.common == ()  # inside a sum over all tensors each has its own


def test_reductions_of_what_does_not_vary_are_refused() -> None:
    def of_a_hyperparameter(theta, g, *, lr=0.1):
        return theta - sr.norm(lr) * g

    def of_a_reduction(theta, g, *, lr=0.1):
        return theta - lr * sr.sum(sr.mean(g)) * g

    for function, snippet, what in (
        (of_a_hyperparameter, "sr.norm(lr)", "a host scalar"),
        (of_a_reduction, "sr.sum(sr.mean(g))", "already one number"),
    ):
        error = traced(function)
        assert what in error.what
        assert pointed(error) == snippet


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
    def greek(θ, g, *, η=0.1):
        return θ - η * g.ψ

    assert pointed(traced(greek)) == "g.ψ"
