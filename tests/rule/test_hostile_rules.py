"""Formulas as an enemy would write them: text for code, symbols taken apart, no end, infinities, any name at all."""

from __future__ import annotations

import keyword
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from told import a_parameter, pointed, refused

import steprule as sr
from counted import calls
from steprule import board, chain, hyper, rule, slot
from steprule.errors import StepruleError
from steprule.graph.evaluate import evaluate
from steprule.rule.symbols import LONGEST

# Text is never code ----------------------------------------------------------------------------------------

CODE = "__import__('pathlib').Path('it-ran').mkdir()"
TEXT_FOR: dict[str, Callable[[], Any]] = {
    "a rule": lambda: rule(CODE),
    "a transform": lambda: sr.transform(CODE),
    "a formula's value": lambda: rule(lambda theta, g, *, lr=0.1: CODE).graph,
    "a factor": lambda: rule(lambda theta, g, *, lr=0.1: theta - lr * CODE).graph,
    "an argument": lambda: rule(lambda theta, g, *, lr=0.1: theta - lr * sr.maximum(g, CODE)).graph,
    "a formatted symbol": lambda: rule(lambda theta, g, *, lr=0.1: theta - lr * f"{g}").graph,
    "a default": lambda: hyper(CODE),
    "a bound": lambda: hyper(1.0, low=CODE),
    "a slot's start": lambda: slot(init=CODE),
    "a slot's rank": lambda: slot(rank=[CODE]),
    "a look-ahead": lambda: rule(evaluate_at=CODE)(lambda theta, g, *, lr=0.1: theta - lr * g),
    "a link": lambda: chain(CODE, board.sgd),
    "a variant": lambda: board.nesterov(look_ahead=CODE),
    "a value": lambda: board.sgd(lr=CODE),
    "an optimiser's rule": lambda: sr.Optimizer([a_parameter()], CODE),
    "an optimiser's value": lambda: board.sgd.optimizer([a_parameter()], lr=CODE),
    "a clipping": lambda: board.sgd.optimizer([a_parameter()], clip=CODE),
    "a backend": lambda: board.sgd.optimizer([a_parameter()], backend=CODE),
    "a policy": lambda: board.sgd.optimizer([a_parameter()], nonfinite=CODE),
    "what is explained": lambda: sr.explain(CODE),
    "a group's value": lambda: board.sgd.optimizer([{"params": [a_parameter()], "lr": CODE}]),
}


@pytest.mark.null
@pytest.mark.hostile("R1")
@pytest.mark.parametrize("place", TEXT_FOR)
def test_text_is_refused_wherever_a_formula_or_number_belongs_and_is_never_run(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(TEXT_FOR[place], StepruleError)
    assert list(tmp_path.iterdir()) == []


def takes_attributes_in_a_row(theta, g, *, lr=0.1):
    return theta - lr * g.T.real.grad_fn


def takes_an_inner_attribute(theta, g, *, lr=0.1):
    return theta - lr * g.node.op


def climbs_to_the_class(theta, g, *, lr=0.1):
    return g.__class__.__bases__[0]


def asks_for_globals(theta, g, *, lr=0.1):
    return theta - g.__globals__["os"]


def sets_an_attribute(theta, g, *, lr=0.1):
    g.value = theta
    return theta - lr * g


def writes_into_the_gradient(theta, g, *, lr=0.1):
    g[:] = 0
    return theta - lr * g


def reads_a_name_that_looks_alike(theta, g, *, lr=0.1):
    return theta - lг * g  # noqa: F821 - a Cyrillic letter


def gives_back_a_function(theta, g, *, lr=0.1):
    return lambda: theta - lr * g


def yields(theta, g, *, lr=0.1):
    yield theta - lr * g


@pytest.mark.null
@pytest.mark.hostile("R1", "R4")
@pytest.mark.parametrize(
    ("function", "snippet"),
    [
        (takes_attributes_in_a_row, "g.T"),
        (takes_an_inner_attribute, "lr * g.node.op"),
        (climbs_to_the_class, "return g.__class__.__bases__[0]"),
        (asks_for_globals, "g.__globals__"),
        (sets_an_attribute, "g.value"),
        (writes_into_the_gradient, "g[:]"),
        (reads_a_name_that_looks_alike, "lг"),
        (gives_back_a_function, "return lambda: theta - lr * g"),
        (yields, "def yields(theta, g, *, lr=0.1):"),
    ],
)
def test_a_symbol_cannot_be_taken_apart_and_the_error_stands_at_its_columns(function: Any, snippet: str) -> None:
    assert pointed(refused(lambda: rule(function).graph)) == snippet


@pytest.mark.null
@pytest.mark.hostile("R1")
def test_letters_that_look_alike_name_no_hyperparameter() -> None:
    error = refused(lambda: board.sgd.optimizer([a_parameter()], lг=0.1), StepruleError)
    assert "no hyperparameter `lг`" in error.what
    assert error.fix == "it has lr"


# Without end -----------------------------------------------------------------------------------------------


def a_hundred_thousand(theta, g, *, lr=0.1):
    for number in range(100_000):
        g = g * 0.5 + number
    return theta - lr * g


def without_end(theta, g, *, lr=0.1):
    while True:
        g = g + 1


def without_end_on_numbers(theta, g, *, lr=0.1):
    while True:
        lr = lr * 0.5 + 1


@pytest.mark.null
@pytest.mark.hostile("R2")
@pytest.mark.parametrize("function", [a_hundred_thousand, without_end, without_end_on_numbers])
def test_a_formula_too_long_to_compile_is_refused_before_it_is_read_to_its_end(function: Any) -> None:
    errors = []
    assert calls(lambda: errors.append(refused(lambda: rule(function).graph))) < 100 * LONGEST
    (error,) = errors
    assert f"room for {LONGEST} operations" in error.what
    assert "loop" in error.fix


@pytest.mark.null
@pytest.mark.hostile("R2")
def test_a_formula_that_doubles_at_every_line_is_no_larger_than_its_lines() -> None:
    """Written out it would have 2**200 terms; equal parts are one node, and print as one name."""

    def doubling(theta, g, *, lr=0.1):
        for _ in range(200):
            g = g * g + g
        return theta - lr * g

    accounts = []
    assert calls(lambda: accounts.append(sr.explain(rule(doubling)))) < 1_000_000
    (account,) = accounts
    assert len(account.formula) + len(account.latex) + len(account.source) < 500_000
    assert len(repr(rule(doubling).graph.new_parameter)) < 1000


@pytest.mark.null
@pytest.mark.hostile("R2")
@pytest.mark.parametrize(
    ("function", "snippet"),
    [
        (lambda theta, g, *, lr=0.1: theta - lr * g * 1e400, "lr * g * 1e400"),
        (lambda theta, g, *, lr=0.1: theta - lr * g * 10**400, "lr * g * 10**400"),
        (lambda theta, g, *, lr=0.1: theta - lr * g * -1e400, "lr * g * -1e400"),
        (lambda theta, g, *, lr=0.1: 1e309, None),
    ],
    ids=["1e400", "10**400", "-1e400", "1e309 alone"],
)
def test_a_number_that_is_none_is_refused_where_it_stands(function: Any, snippet: str | None) -> None:
    error = refused(lambda: rule(function).graph)
    if snippet is not None:
        assert pointed(error) == snippet


@pytest.mark.cpu
@pytest.mark.hostile("R2")
def test_a_power_of_a_thousand_million_is_one_operation() -> None:
    @rule
    def enormous(theta, g, *, lr=2.0):
        return theta - g ** (10**9) + 1 / lr ** (10**9)

    sources = []
    assert calls(lambda: sources.append(sr.explain(enormous).source)) < 100_000
    assert len(sources[0]) < 5000
    parameter = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    parameter.grad = torch.tensor([0.5, 1.0, 2.0, -1.0], dtype=torch.float64)
    enormous.optimizer([parameter]).step()
    assert parameter.tolist() == [0.0, -1.0, -math.inf, -1.0]


# What is not finite ----------------------------------------------------------------------------------------

SPECIAL = [0.0, 1.0, -1.0, 0.5, 3.0, math.inf, -math.inf, math.nan, 1.7e308, -1.7e308, 5e-324]


@rule
def every_operation(
    theta, g, quotient, power, root, logarithm, exponent, product, smaller, larger, chosen, signed, ranked, *, lr=0.5
):  # fmt: skip
    """Give one slot to each operation, and hand numbers that are not finite to hyperparameters' arithmetic too."""
    nothing = lr - lr
    return (
        theta + g,
        theta / g,
        theta**g,
        sr.sqrt(theta),
        sr.log(theta),
        sr.exp(theta),
        theta * g,
        sr.minimum(theta, g),
        sr.maximum(theta, g),
        sr.where(theta < g, theta, g),
        sr.sign(theta) + lr / nothing,
        g * sr.log(nothing) - sr.sqrt(-lr),
    )


@pytest.mark.cpu
@pytest.mark.hostile("R3")
@pytest.mark.parametrize("backend", ["numba_cpu", "eager"])
def test_what_is_not_finite_is_as_in_the_interpreter(backend: str) -> None:
    """Every pair of special values through every operation; a product and a sum are kept apart, or they may fuse."""
    theta, g = (pairs.ravel() for pairs in np.meshgrid(SPECIAL, SPECIAL))
    graph = every_operation.graph
    slots = {item.name: np.zeros(theta.size) for item in graph.slots}
    (expected,) = evaluate(graph, [{"theta": theta, "g": g, **slots}], [{"lr": 0.5}])
    parameter = torch.nn.Parameter(torch.tensor(theta))
    parameter.grad = torch.tensor(g)
    optimizer = every_operation.optimizer([parameter], backend=backend)
    optimizer.step()
    np.testing.assert_allclose(parameter.detach().numpy(), expected["theta"], rtol=1e-14)
    for name, held in optimizer.state[parameter].items():
        np.testing.assert_allclose(held.numpy(), expected[name], rtol=1e-13, atol=0, err_msg=name)


@pytest.mark.cpu
@pytest.mark.hostile("R3")
@pytest.mark.parametrize("backend", ["numba_cpu", "eager"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_reductions_of_what_is_not_finite_are_as_in_the_interpreter(value: float, backend: str) -> None:
    @rule
    def reducing(theta, g, *, lr=1.0):
        return theta - lr * (g / sr.norm(g) + sr.max(g) * sr.mean(g) + sr.global_norm(g) / sr.sum(g))

    theta, g = np.array([1.0, 2.0, 3.0]), np.array([0.0, value, -value])
    (expected,) = evaluate(reducing.graph, [{"theta": theta, "g": g}], [{"lr": 1.0}])
    parameter = torch.nn.Parameter(torch.tensor(theta))
    parameter.grad = torch.tensor(g)
    reducing.optimizer([parameter], backend=backend).step()
    np.testing.assert_allclose(parameter.detach().numpy(), expected["theta"], rtol=1e-14)


# Names -----------------------------------------------------------------------------------------------------

TAKEN = [*keyword.softkwlist, "tl", "triton", "jit", "njit", "prange", "constexpr", "program_id", "load", "store"]
TAKEN += ["numba", "types", "literally", "objmode", "float64", "int64", "address", "done", "steprule", "self", "cls"]
TAKEN += ["print", "exec", "len", "float", "True_", "__builtins__", "__name__", "__file__", "theta_1", "x_2", "value_2"]


@pytest.mark.cpu
@pytest.mark.hostile("R5")
def test_names_that_mean_something_to_python_numba_or_triton_are_only_names() -> None:
    """Odd ones are slots, even ones hyperparameters, each with a weight of its own in the sum."""
    slots, values = TAKEN[1::2], TAKEN[::2]
    text = (
        f"def named(theta, g, {', '.join(slots)}, *, {', '.join(f'{name}=1.0' for name in values)}):\n"
        f"    total = {' + '.join(f'{weight} * {name}' for weight, name in enumerate(TAKEN, start=1))}\n"
        f"    return theta - total * g, {', '.join(f'{name} + g' for name in slots)}\n"
    )
    namespace: dict[str, Any] = {}
    exec(text, namespace)  # noqa: S102
    program = rule(namespace["named"])
    parameter = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = sr.Optimizer([parameter], program, backend="numba_cpu")
    arrays = {"theta": np.zeros(2), **{name: np.zeros(2) for name in slots}}
    for gradient in ([1.0, -2.0], [0.5, 3.0]):
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        (arrays,) = evaluate(program.graph, [{**arrays, "g": np.array(gradient)}], [dict.fromkeys(values, 1.0)])
        optimizer.step()
    np.testing.assert_allclose(parameter.detach().numpy(), arrays["theta"], rtol=1e-14)
