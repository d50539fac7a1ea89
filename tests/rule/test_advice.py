"""What a message advises helps: every mistake stands beside its rule as the advice has it, which is then read."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from told import a_parameter, refused

import steprule as sr
from steprule import board, chain, choice, hyper, maximum, mean, minimum, norm, rule, slot, sqrt, transform, where
from steprule.errors import StepruleError
from steprule.graph.evaluate import evaluate
from steprule.graph.ops import OPS
from steprule.rule import advice

pytestmark = pytest.mark.null

Case = tuple[Callable[..., Any], str, Callable[..., Any]]


def variants(theta, g, *, lr=0.1, nesterov=0):
    return theta - lr * g if nesterov else theta


def with_a_choice(theta, g, *, lr=0.1, nesterov=choice(False, True)):
    return theta - lr * g if nesterov else theta


def modes(theta, g, *, lr=0.1, mode=1.0):
    return theta - lr * g if mode == "fast" else theta


def modes_as_a_choice(theta, g, *, lr=0.1, mode=choice("fast", "slow")):
    return theta - lr * g if mode == "fast" else theta


def loops(theta, g, *, lr=0.1, steps=5):
    for _ in range(steps):
        g = g * lr
    return theta - g


def loops_by_choice(theta, g, *, lr=0.1, steps=choice(5, 10)):
    for _ in range(steps):
        g = g * lr
    return theta - g


def takes_sum_for_addition(theta, g, *, lr=0.1):
    return theta - lr * sr.sum(theta, g)


def assigns_what_it_reads(theta, g, *, lr=0.1):
    norm = norm(g)  # noqa: F823
    return theta - lr * g / norm


def assigns_another(theta, g, *, lr=0.1):
    length = norm(g)
    return theta - lr * g / length


def recurses(theta, g, *, lr=0.1):
    return recurses(theta - lr * g, g, lr=lr)


def repeats(theta, g, *, lr=0.1):
    for _ in range(3):
        theta = theta - lr * g
    return theta


HELD = torch.tensor(0.5)


def holds_a_tensor(theta, g, *, lr=0.1):
    return theta - lr * HELD * g


def has_it_as_hyperparameter(theta, g, *, lr=0.1, held=0.5):
    return theta - lr * held * g


def of(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a rule's function of what changes the gradient."""

    def changed(theta, g, *, lr=0.1):
        return theta - lr * function(theta, g)

    return changed


CASES: list[Case] = [
    (variants, "nesterov=choice(False, True)", with_a_choice),
    (variants, "where(nesterov > 0, a, b)", lambda theta, g, *, lr=0.1, n=0.0: where(n > 0, theta - lr * g, theta)),
    (modes, 'mode=choice("fast", "slow")', modes_as_a_choice),
    (loops, "steps=choice(5, 10)", loops_by_choice),
    (takes_sum_for_addition, "a + b", of(lambda theta, g: theta + g)),
    (assigns_what_it_reads, "before this line", assigns_another),
    (recurses, "for _ in range(3)", repeats),
    (holds_a_tensor, "hyperparameter", has_it_as_hyperparameter),
    (holds_a_tensor, "float(x)", of(lambda theta, g: float(HELD) * g)),
    *(
        (of(bad), advised, of(good))
        for bad, advised, good in [
            (lambda theta, g: g if g > 0 else theta, "where(g > 0, a, b)", lambda theta, g: where(g > 0, g, theta)),
            (lambda theta, g: max(g, 1.0), "maximum(a, b)", lambda theta, g: maximum(g, 1.0)),
            (lambda theta, g: min(g, theta), "minimum(a, b)", lambda theta, g: minimum(g, theta)),
            (lambda theta, g: min(g, theta), "where(a < b, a, b)", lambda theta, g: where(g < theta, g, theta)),
            (lambda theta, g: sr.max(g, theta), "maximum(a, b)", lambda theta, g: maximum(g, theta)),
            (lambda theta, g: builtins.max(g), "sr.max(x)", lambda theta, g: sr.max(g) * g),
            (lambda theta, g: sum(g), "sr.sum(x)", lambda theta, g: sr.sum(g) * g),
            (lambda theta, g: norm(g, dim=1), "norm(x) alone", lambda theta, g: norm(g)),
            (lambda theta, g: mean(g, dim=0), "mean(x, axis=0)", lambda theta, g: mean(g, axis=0) * g),
            (lambda theta, g: mean(g, axis=-1), "mean(x, axis=1)", lambda theta, g: mean(g, axis=1) * g),
            (lambda theta, g: mean(mean(g, axis=1), axis=1), "leave axis out", lambda theta, g: mean(mean(g, axis=1))),
            (lambda theta, g: sr.rows(mean(g, axis=1)), "rows(g)", lambda theta, g: sr.rows(g) * g),
            (lambda theta, g: g.shape[0], "rows(x)", lambda theta, g: sr.rows(g)),
            (lambda theta, g: sr.sum(g, dim=0), "sum(x) alone", lambda theta, g: sr.sum(g)),
            (lambda theta, g: sr.max(g, dim=0), "max(x) alone", lambda theta, g: sr.max(g)),
            (lambda theta, g: norm(g, p=1), "sum(abs(x))", lambda theta, g: sr.sum(abs(g))),
            (lambda theta, g: sr.clamp(g, min=0), "clamp(x, low, high)", lambda theta, g: sr.clamp(g, 0, 1)),
            (lambda theta, g: sr.clamp(g, 0), "maximum(x, low)", lambda theta, g: maximum(g, 0)),
            (lambda theta, g: minimum(g), "minimum(a, b)", lambda theta, g: minimum(g, theta)),
            (lambda theta, g: where(g > 0), "where(condition, a, b)", lambda theta, g: where(g > 0, g, 0)),
            (lambda theta, g: where(g, theta, 0), "where(a < b, x, y)", lambda theta, g: where(g < 0, theta, 0)),
            (lambda theta, g: g * (g > 0), "where(a < b, 1, 0)", lambda theta, g: g * where(g > 0, 1, 0)),
            (
                lambda theta, g: g if 0 < g < 1 else theta,
                "where((a < b) & (b < c), x, y)",
                lambda theta, g: where((g > 0) & (g < 1), g, theta),
            ),
            (
                lambda theta, g: where(g > 0 & theta > 0, g, 0),
                "give each its brackets",
                lambda theta, g: where((g > 0) & (theta > 0), g, 0),
            ),
            (lambda theta, g: where(~g, g, 0), "give each its brackets", lambda theta, g: where(~(g > 0), g, 0)),
            (
                lambda theta, g: where((g > 0) ^ (g < 1), g, 0),
                "(a | b) & ~(a & b)",
                lambda theta, g: where(((g > 0) | (g < 1)) & ~((g > 0) & (g < 1)), g, 0),
            ),
            (
                lambda theta, g: g if not g else theta,
                "where(~(a < b), x, y)",
                lambda theta, g: where(~(g != 0), g, theta),
            ),
            (lambda theta, g: g and theta, "where((a < b) & (c < d), x, y)", lambda theta, g: where(g == 0, g, theta)),
            (lambda theta, g: len(g), "numel(x)", lambda theta, g: sr.numel(g)),
            (lambda theta, g: g.numel(), "numel(x)", lambda theta, g: sr.numel(g)),
            (lambda theta, g: g @ theta, "a @ transpose(b)", lambda theta, g: g @ sr.transpose(theta) @ g),
            (lambda theta, g: torch.mm(g, theta), "a @ b", lambda theta, g: (g @ sr.transpose(theta)) @ g),
            (lambda theta, g: 2 @ g, "a * b", lambda theta, g: 2 * g),
            (lambda theta, g: math.sqrt(g), "sqrt(x)", lambda theta, g: sqrt(g)),
            (lambda theta, g: np.maximum(g, 0), "maximum(a, b)", lambda theta, g: maximum(g, 0)),
            (lambda theta, g: torch.sigmoid(g), "1 / (1 + exp(-x))", lambda theta, g: 1 / (1 + sr.exp(-g))),
            (lambda theta, g: g.pow(2), "x ** y", lambda theta, g: g**2),
            (lambda theta, g: g.mul(2), "x * y", lambda theta, g: g * 2),
            (lambda theta, g: g.clamp_(0, 1), "clamp(x, low, high)", lambda theta, g: sr.clamp(g, 0, 1)),
            (lambda theta, g: g.min(), "-max(-x)", lambda theta, g: -sr.max(-g)),
            (lambda theta, g: g.detach(), "leave .detach out", lambda theta, g: g),
            (lambda theta, g: sr.sigmoid(g), "exp(-x)", lambda theta, g: 1 / (1 + sr.exp(-g))),
            (lambda theta, g: round(g), "floor(x + 0.5)", lambda theta, g: sr.floor(g + 0.5)),
            (lambda theta, g: int(g), "leave int(...) out", lambda theta, g: g),
            (lambda theta, g: g // 2, "floor(x / y)", lambda theta, g: sr.floor(g / 2)),
            (lambda theta, g: divmod(g, 2)[1], "x % y", lambda theta, g: g % 2),
            (lambda theta, g: math.floor(g), "write floor(x)", lambda theta, g: sr.floor(g)),
            (lambda theta, g: torch.fmod(g, 2), "write x % y", lambda theta, g: g % 2),
            (lambda theta, g: g[0], "any one element", lambda theta, g: mean(g)),
            (lambda theta, g: g * "0.5", "no quotes", lambda theta, g: g * 0.5),
            (lambda theta, g: g * float("inf"), "1e30", lambda theta, g: g * 1e30),
            (lambda theta, g: g * 10**400, "1e30", lambda theta, g: g * 1e30),
            (lambda theta, g: g * sr.sqrt, "call it", lambda theta, g: g * sr.sqrt(2.0)),
            (lambda theta, g: sgn(g), "sign(x)", lambda theta, g: sr.sign(g)),  # noqa: F821
            (lambda theta, g: exp(g), "from steprule import exp", lambda theta, g: sr.exp(g)),  # noqa: F821
            (lambda theta, g: sqroot(g), "did you mean sqrt?", lambda theta, g: sqrt(g)),  # noqa: F821
        ]
    ),
]


@pytest.mark.hostile("R4")
@pytest.mark.parametrize(("bad", "advised", "good"), CASES, ids=[item[1] for item in CASES])
def test_advice_helps(bad: Callable[..., Any], advised: str, good: Callable[..., Any]) -> None:
    error = refused(lambda: rule(bad).graph)
    assert advised in error.fix, error.fix
    assert rule(good).graph.new_parameter


def test_every_spelling_that_is_advised_is_one() -> None:
    """Each is read as a rule; so is each function of the language, by the name that is advised."""
    known = {name: getattr(sr, name) for name in advice.FUNCTIONS}
    for text in advice.SPELLED.values():

        def spelled(theta, g, m, s, *, lr=0.1, text=choice(text)):
            names = dict.fromkeys("xg", g) | {
                "y": m,
                "a": m,
                "b": s,
                "low": -1.0,
                "high": 1.0,
                "value": lr,
                "weight": lr,
                "p": lr,
            }
            if any(word in text for word in ("transpose", "@", "eigenvectors")):
                square = g @ sr.transpose(g)
                return theta - lr * (eval(text, known | dict.fromkeys("xab", square)) @ g), m, s  # noqa: S307
            return theta - lr * eval(text, known | names), m, s  # noqa: S307

        assert rule(spelled).graph.new_parameter, text
    assert set(advice.FUNCTIONS) - {"clamp"} == {n for n in OPS if hasattr(sr, n) and n != "hyper"}


def test_alternatives_to_missing_functions_are_what_they_say() -> None:
    @rule
    def alternatives(theta, g, m, s, *, lr=1.0):
        return 1 / (1 + sr.exp(-g)), -sr.floor(-g), -sr.max(-g) + 0 * g + sr.numel(g)

    g = np.array([0.5, -2.0, 3.0])
    arrays = dict.fromkeys(("theta", "g", "m", "s"), g)
    (new,) = evaluate(alternatives.graph, [arrays], [{"lr": 1.0}])
    np.testing.assert_allclose(new["theta"], 1 / (1 + np.exp(-g)))
    np.testing.assert_allclose(new["m"], np.ceil(g))
    np.testing.assert_allclose(new["s"], [1.0, 1.0, 1.0])


# Declarations ------------------------------------------------------------------------------------------


def test_what_is_fixed_is_declared_as_the_message_says() -> None:
    def switched(theta, g, *, lr=0.1, maximise=False): ...
    def named(theta, g, *, lr=0.1, mode="fast"): ...
    def among(theta, g, decay=0.1): ...
    def named_among(theta, g, mode="fast"): ...
    def switched_among(theta, g, flag=True): ...

    for function, fix in (
        (switched, "maximise=choice(False, True)"),
        (named, "mode=choice('fast')"),
        (among, "def among(theta, g, *, decay=0.1)"),
        (named_among, "def named_among(theta, g, *, mode=choice('fast'))"),
        (switched_among, "def switched_among(theta, g, *, flag=choice(True, False))"),
    ):
        told = refused(lambda function=function: rule(function)).fix
        assert fix in told
        declared = fix if fix.startswith("def") else f"def changed(theta, g, *, {fix})"
        namespace: dict[str, Any] = {"choice": choice}
        exec(f"{declared}: return theta - 0.1 * g", namespace)  # noqa: S102
        assert rule(namespace[declared[4 : declared.index("(")]]).graph.new_parameter


def test_a_slot_too_small_for_its_value_is_told_of_one_that_fits() -> None:
    values = {"element": lambda g: g, "tensor": sr.norm, "global": sr.global_norm}
    for declared, value, ranks in (
        ("tensor", "element", ["element"]),
        ("host", "element", ["tensor"]),
        ("host", "tensor", ["tensor"]),
        ("host", "global", ["global"]),
        ("global", "element", ["element"]),
        ("global", "tensor", ["tensor"]),
    ):

        def kept(theta, g, k=slot(rank=declared), *, lr=0.1, of=values[value]):
            return theta - lr * g, of(g)

        kept.__kwdefaults__ = {"lr": 0.1, "of": choice(values[value])}
        fix = refused(lambda kept=kept: rule(kept).graph).fix
        (rank,) = ranks
        assert f"slot(rank={rank!r})" in fix
        kept.__defaults__ = (slot(rank=rank),)
        reduced = choice(lambda g, value=value: sr.mean(values[value](g))) if "and" in fix else choice(values[value])
        kept.__kwdefaults__ = {"lr": 0.1, "of": reduced}
        assert rule(kept).graph.new_parameter


def test_the_value_that_a_message_proposes_is_legal() -> None:
    for declared in (hyper(above=1), hyper(above=1, below=1.5), hyper(high=-3), hyper(low=5), hyper(low=0, below=0.01)):

        def needy(theta, g, *, rate):
            return theta - rate * g

        needy.__kwdefaults__ = {"rate": declared}
        program = rule(needy)
        fix = refused(lambda program=program: program.optimizer([a_parameter()]), StepruleError).fix
        proposed = float(fix.split("rate=")[1].split(";")[0])
        assert program.optimizer([a_parameter()], rate=proposed)
    for bounds in ({"low": 2, "high": 1}, {"above": 1, "below": 1}, {"low": 0, "above": 0}, {"low": 1, "below": 1}):
        assert "at most one bound" in refused(lambda bounds=bounds: hyper(**bounds)).fix


def test_a_transform_moves_the_gradient_or_the_parameter() -> None:
    error = refused(lambda: transform(lambda theta, g: g, moves="gradients"))  # type: ignore[call-overload]
    assert 'give moves="gradient", "parameter" or "update"' in error.fix
    assert transform(lambda theta, g: g, moves="parameter")


# Programs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "fix"),
    [
        (lambda: sr.clip_global_norm(1.0), "clip_global_norm(max_norm=1.0)"),
        (lambda: sr.clip_value(0.5), "clip_value(limit=0.5)"),
        (lambda: board.adam(1e-3, 0.9), "adam(lr=0.001, beta1=0.9)"),
        (lambda: board.nesterov("board"), "nesterov(look_ahead='board')"),
    ],
)
def test_values_without_a_name_are_told_with_it(call: Callable[[], Any], fix: str) -> None:
    error = refused(call)
    assert error.fix == f"write {fix}"
    assert eval(fix, {**vars(sr), **vars(board)})  # noqa: S307


def test_a_formula_that_is_called_on_tensors_is_told_how_it_runs() -> None:
    ones = torch.ones(3)
    assert "sgd.optimizer(model.parameters(), ...)" in refused(lambda: board.sgd(ones, ones)).fix
    assert "sgd.optimizer(model.parameters(), ...)" in refused(lambda: board.sgd(iter([ones]), lr=0.1)).fix
    assert "chain(clip_value, board.adam)" in refused(lambda: sr.clip_value(ones, ones)).fix
    assert chain(sr.clip_value, board.adam).optimizer([a_parameter()])


def test_a_rule_inside_another_is_told_its_arguments() -> None:
    for bad, what in (
        (lambda theta, g, *, lr=0.1: board.momentum(theta, g, lr=lr)[0], "takes theta, g, m"),
        (lambda theta, g, m, *, lr=0.1: board.momentum(theta, g, m, rate=lr), "has no `rate`"),
    ):
        error = refused(lambda bad=bad: rule(bad).graph)
        assert what in error.what
        assert "momentum(theta, g, m, lr=lr, beta=beta)" in error.fix
    good = rule(lambda theta, g, m, *, lr=0.1: board.momentum(theta, g, m=m, lr=lr))
    assert len(good.graph.new_slots) == 1


def test_what_is_no_link_of_a_chain_is_told_how_it_becomes_one() -> None:
    assert "decorate" in refused(lambda: chain(lambda theta, g: g, board.sgd)).fix
    for link in (1.0, torch.optim.SGD, "adam", None):
        assert (
            "chain(clip_global_norm(max_norm=1.0), board.adam)" in refused(lambda link=link: chain(link, board.sgd)).fix
        )


def test_a_function_that_is_given_something_else_is_told_what_it_takes() -> None:
    assert "builtins" in refused(lambda: sr.max([1, 2, 3])).fix
    assert "inside a @rule" in refused(lambda: sr.sqrt(torch.ones(3))).fix
    error = refused(lambda: rule(lambda theta, g, *, lr=0.1: theta - lr * norm([g, theta])).graph)
    assert error.fix == "give one array: norm(x)"


def test_importing_everything_hides_no_builtin() -> None:
    namespace: dict[str, Any] = {}
    exec("from steprule import *\nfrom steprule import sum as total", namespace)  # noqa: S102
    assert {"abs", "max", "sum", "min", "pow"}.isdisjoint(namespace)
    assert namespace["total"] is sr.sum
    assert namespace["norm"] is sr.norm


def test_what_makes_an_optimizer_is_typed_so() -> None:
    """A type checker and an editor know what `optimizer` gives, and that a rule stays a rule when it is configured."""
    from steprule.rule import Formula

    assert Formula.optimizer.__annotations__["return"] == "Optimizer"
    assert isinstance(board.sgd(lr=0.5).optimizer([a_parameter()]), sr.Optimizer)
