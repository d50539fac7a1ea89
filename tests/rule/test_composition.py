"""Rules compose: chains, configuration, variants, inlining, pickling; and any name will do."""

from __future__ import annotations

import copy
import inspect
import pickle
import pydoc
from typing import Any

import numpy as np
import pytest
import torch

import steprule as sr
from steprule import board, chain, choice, hyper, rule, slot, transform
from steprule.errors import HyperparameterError, RuleError
from steprule.graph.evaluate import evaluate
from steprule.graph.graph import Graph


@rule
def heavy_ball(theta, g, m, *, lr=hyper(0.1, low=0), beta=0.9):
    m = beta * m + g
    return theta - lr * m, m


@transform
def smooth(theta, g, m, *, beta=0.5):
    m = beta * m + (1 - beta) * g
    return m, m


@transform
def scaled(theta, g, *, factor=1.0):
    return g * factor


def once(graph: Graph, theta: Any, g: Any, numbers: dict[str, float], **slots: Any) -> dict[str, np.ndarray]:
    return evaluate(graph, [{"theta": np.array(theta), "g": np.array(g), **slots}], [numbers])[0]


def defaults(program: Any) -> dict[str, float]:
    return {name: declared.value for name, declared in program.hypers.items()}


# Chains ------------------------------------------------------------------------------------------------


@pytest.mark.null
def test_a_chain_keeps_the_rules_names_and_prefixes_the_transforms() -> None:
    both = chain(smooth, heavy_ball)
    assert list(both.hypers) == ["lr", "beta", "smooth_beta"]
    assert [item.name for item in both.graph.slots] == ["m", "smooth_m"]
    assert both.name == "smooth+heavy_ball"
    assert defaults(both) == {"lr": 0.1, "beta": 0.9, "smooth_beta": 0.5}


@pytest.mark.null
def test_a_transform_used_three_times_has_three_sets_of_values() -> None:
    thrice = chain(scaled(factor=2.0), scaled(factor=3.0), scaled, heavy_ball)
    assert defaults(thrice) == {
        "lr": 0.1,
        "beta": 0.9,
        "factor": 2.0,
        "scaled_factor": 3.0,
        "scaled_factor_2": 1.0,
    }
    new = once(thrice.graph, [0.0], [1.0], defaults(thrice), m=np.zeros(1))
    np.testing.assert_allclose(new["theta"], [-0.6])


@pytest.mark.null
def test_one_transform_object_used_twice_keeps_two_states() -> None:
    twice = chain(smooth, smooth, board.sgd(lr=1.0))
    assert [item.name for item in twice.graph.slots] == ["m", "smooth_m"]
    assert list(twice.hypers) == ["lr", "beta", "smooth_beta"]
    numbers = {"lr": 1.0, "beta": 0.5, "smooth_beta": 0.25}
    new = once(twice.graph, [0.0], [8.0], numbers, m=np.array([2.0]), smooth_m=np.array([4.0]))
    assert new["m"] == [5.0]
    assert new["smooth_m"] == [0.25 * 4 + 0.75 * 5]
    assert new["theta"] == [-4.75]


@pytest.mark.cpu
def test_a_host_slot_and_a_hyperparameter_never_share_a_name() -> None:
    """Both are columns of one table, so a shared name would read the wrong one."""

    @transform
    def tripled(theta, g, *, k=3.0):
        return g * k

    @rule
    def growing(theta, g, k=slot(rank="host", init=1.0), *, lr=1.0):
        return theta - lr * k * g, k + 1

    both = chain(tripled, growing)
    assert list(both.hypers) == ["lr", "tripled_k"]
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = sr.Optimizer([parameter], both)
    for _ in range(3):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert parameter.item() == -3.0 * (1 + 2 + 3)
    assert float(optimizer.state[parameter]["k"]) == 4.0


@pytest.mark.null
def test_chains_nest_and_apply_transforms_in_order() -> None:
    flat = chain(sr.clip_value(limit=2.0), scaled(factor=3.0), board.sgd(lr=1.0))
    nested = chain(sr.clip_value(limit=2.0), chain(scaled(factor=3.0), board.sgd(lr=1.0)))
    swapped = chain(scaled(factor=3.0), sr.clip_value(limit=2.0), board.sgd(lr=1.0))
    assert flat.graph.new_parameter is nested.graph.new_parameter
    for program, moved in ((flat, -6.0), (swapped, -2.0)):
        assert once(program.graph, [0.0], [5.0], defaults(program))["theta"] == [moved]


@pytest.mark.null
def test_a_shared_hyperparameter_is_the_rules_own() -> None:
    decayed = chain(sr.weight_decay(0.1), board.adam(lr=0.5))
    assert defaults(decayed)["lr"] == 0.5
    assert "decoupled_weight_decay_lr" not in decayed.hypers

    @rule
    def without_lr(theta, g, *, rate=0.5):
        return theta - rate * g

    assert chain(sr.weight_decay(0.1), without_lr).hypers["lr"].value is None


# Configuring -------------------------------------------------------------------------------------------


@pytest.mark.null
def test_configuring_gives_a_new_rule_and_leaves_the_old() -> None:
    faster = board.adam(lr=0.5, eps=0)
    assert defaults(faster) == {"lr": 0.5, "beta1": 0.9, "beta2": 0.99, "eps": 0.0}
    assert board.adam.hypers["lr"].value == 1e-3
    assert faster(lr=0.25).hypers["lr"].value == 0.25
    assert faster.graph.new_parameter is board.adam.graph.new_parameter
    assert repr(faster) == "adam(lr=0.5, beta1=0.9, beta2=0.99, eps=0)"


@pytest.mark.null
def test_a_rule_shows_its_arguments_and_the_values_it_has() -> None:
    assert str(inspect.signature(board.adam)) == "(theta, g, m, s, *, lr=0.001, beta1=0.9, beta2=0.99, eps=1e-08)"
    assert inspect.signature(board.nesterov(beta=0.5, look_ahead="board")).parameters["beta"].default == 0.5
    shown = inspect.signature(rule(lambda theta, g, k=slot(rank="host"), *, lr, kind=choice("plain", 0), t: theta))
    assert str(shown) == "(theta, g, k, *, lr, kind='plain', t)"
    assert "Adam (Kingma & Ba, 2015)" in pydoc.render_doc(board.adam)


@pytest.mark.null
def test_values_are_never_part_of_a_graph() -> None:
    one, other = (chain(sr.clip_norm(max_norm=x), board.momentum(lr=x, beta=x)).graph for x in (0.0, 1.0))
    assert one.roots == other.roots


@pytest.mark.null
def test_a_choice_is_fixed_when_the_rule_is_traced() -> None:
    @rule
    def either(theta, g, *, lr=0.1, kind=choice("plain", "signed", None)):
        return theta - lr * (sr.sign(g) if kind == "signed" else g if kind == "plain" else 1)

    assert sr.explain(either).formula == "θₜ = θₜ₋₁ − η g"
    assert sr.explain(either(kind="signed")).formula == "θₜ = θₜ₋₁ − η sign(g)"
    assert sr.explain(either(kind=None)).formula == "θₜ = θₜ₋₁ − η 1"
    assert "kind" not in either.hypers


# Inlining ----------------------------------------------------------------------------------------------


@pytest.mark.null
def test_a_rule_inlines_in_another_with_its_defaults_and_with_symbols() -> None:
    @rule
    def lookahead_average(theta, g, m, slow, *, lr=0.1, pull=0.5):
        fast, m = heavy_ball(theta, g, m, lr=lr)
        slow = slow + pull * (fast - slow)
        return fast, m, slow

    graph = lookahead_average.graph
    new = once(graph, [1.0], [2.0], {"lr": 0.1, "pull": 0.5}, m=np.array([1.0]), slow=np.array([0.0]))
    assert new["m"] == [2.9]
    np.testing.assert_allclose(new["theta"], [1 - 0.29])
    np.testing.assert_allclose(new["slow"], [0.355])
    origin = graph.origins[graph.new_slots[0]]
    assert origin.text.strip() == "m = beta * m + g"


@pytest.mark.null
def test_an_inlined_rule_shares_the_step_count_and_its_variants() -> None:
    @rule
    def decaying(theta, g, *, lr=1.0, t, kind=choice(None, "root")):
        return theta - lr / (sr.sqrt(t) if kind else t) * g

    @rule
    def outer(theta, g):
        return decaying(theta, g, kind="root") + decaying(theta, g, lr=2.0)

    assert outer.graph.uses_step
    assert once(outer.graph, [0.0], [1.0], {"t": 4.0})["theta"] == [-0.5 - 0.5]


# Weight decay ------------------------------------------------------------------------------------------


@pytest.mark.cpu
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_coupled_decay_is_torch_sgds_and_decoupled_is_adamws(decay: float) -> None:
    torch.manual_seed(1)
    start, gradients = torch.randn(5, 3, dtype=torch.float64), torch.randn(10, 5, 3, dtype=torch.float64)

    @rule
    def adam_as_in_torch(theta, g, m, s, *, lr=0.1, beta1=0.9, beta2=0.99, eps=1e-8, t):
        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * g**2
        step = lr / (1 - beta1**t)
        return theta - step * m / (sr.sqrt(s / (1 - beta2**t)) + eps), m, s

    ours: list[tuple[Any, type[torch.optim.Optimizer], dict[str, Any]]] = [
        (chain(sr.weight_decay(decay, decoupled=False), heavy_ball), torch.optim.SGD, {"momentum": 0.9}),
        (chain(sr.weight_decay(decay), adam_as_in_torch), torch.optim.AdamW, {"betas": (0.9, 0.99)}),
    ]
    for program, reference, options in ours:
        mine, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
        a, b = sr.Optimizer([mine], program), reference([theirs], lr=0.1, weight_decay=decay, **options)  # type: ignore[call-arg]
        for g in gradients:
            mine.grad, theirs.grad = g.clone(), g.clone()
            a.step()
            b.step()
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-13)


# Copying -----------------------------------------------------------------------------------------------

PROGRAMS = [
    board.adam,
    board.adam(lr=0.5),
    board.nesterov(look_ahead="board"),
    sr.clip_value(limit=3),
    chain(sr.clip_global_norm(max_norm=2), sr.clip_global_norm, sr.weight_decay(0.2), board.momentum(beta=0.5)),
    heavy_ball(lr=2),
]


@pytest.mark.null
@pytest.mark.parametrize("program", PROGRAMS, ids=repr)
def test_programs_survive_pickle_and_copy(program: Any) -> None:
    _ = program.graph  # a cached graph must not get in the way
    for again in (pickle.loads(pickle.dumps(program)), copy.copy(program), copy.deepcopy(program)):  # noqa: S301
        assert type(again) is type(program)
        assert again.graph.roots == program.graph.roots
        assert defaults(again) == defaults(program)
        assert again.name == program.name
        assert repr(again) == repr(program)


@pytest.mark.null
def test_a_rule_that_could_not_be_found_again_is_not_pickled() -> None:
    @rule
    def local(theta, g, *, lr=0.1):
        return theta - lr * g

    for program in (local, chain(sr.clip_norm, local)):
        with pytest.raises(RuleError, match="cannot be pickled"):
            pickle.dumps(program)
    assert copy.deepcopy(local) is local


# Names -------------------------------------------------------------------------------------------------

AWKWARD = [
    "lo",
    "np",
    "row",
    "i",
    "kernel",
    "real",
    "θ",
    "value",
    "chunk",
    "of",
    "host_scalars",
    "pass_0",
    "x",
    "abs",
]
AWKWARD += ["integers", "match", "float32_at", "range", "total", "new_theta", "g_at", "ß", "_", "x" * 10_000]


TEXTS = {
    "hyper": "def awkward(theta, g, *, {defaults}):\n    return theta - ({sum}) * g / norm(g)",
    "slot": "def awkward(theta, g, {names}, *, lr=1.0):\n    return theta - ({sum} + norm(g)) * lr, {steps}",
    "parameter": "def awkward({names}, g, *, lr=1.0):\n    return {names} - lr * norm({names}) * g",
}


@pytest.mark.hostile("R5")
@pytest.mark.cpu
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("hyper", AWKWARD),
        ("slot", AWKWARD),
        ("parameter", ["θ"]),
        ("parameter", ["of"]),
        ("parameter", AWKWARD[-1:]),
    ],
    ids=["hyper", "slot", "θ", "of", "x10000"],
)
def test_any_name_compiles_and_gives_the_right_numbers(kind: str, names: list[str]) -> None:
    """Every awkward name at once, for every kind of thing that has one; a norm makes two passes of it."""
    text = TEXTS[kind].format(
        defaults=", ".join(f"{name}={index + 1.0}" for index, name in enumerate(names)),
        names=", ".join(names),
        sum=" + ".join(names),
        steps=", ".join(f"{name} + g" for name in names),
    )
    namespace: dict[str, Any] = {"norm": sr.norm}
    exec(text, namespace)  # noqa: S102
    program = rule(namespace["awkward"])
    graph = program.graph
    parameter = torch.nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    parameter.grad = torch.tensor([0.5, 2.0], dtype=torch.float64)
    arrays = {graph.parameter: parameter.detach().numpy().copy(), "g": np.array([0.5, 2.0])}
    arrays |= {item.name: np.zeros(2) for item in graph.slots}
    expected = evaluate(graph, [arrays], [defaults(program)])[0]
    optimizer = sr.Optimizer([parameter], program, backend="numba_cpu")
    optimizer.step()
    np.testing.assert_allclose(parameter.detach().numpy(), expected[graph.parameter], rtol=1e-14)
    for name, held in optimizer.state[parameter].items():
        np.testing.assert_allclose(held.numpy(), expected[name], rtol=1e-14)
    assert len(optimizer.state[parameter]) == len(graph.slots)


def test_a_chain_is_configured_under_the_names_that_groups_use() -> None:
    """What two parts share both take; a name that gave way reaches the part it belongs to."""
    program = chain(sr.weight_decay(0.1), sr.sam, sr.clip_value(limit=2.0), board.momentum, sr.ema)
    made = program(lr=0.3, limit=0.5, adaptive=True, decay=0.9, rho=0.2)
    assert {name: hyper.value for name, hyper in made.hypers.items()} == {
        "lr": 0.3, "beta": 0.9, "weight_decay": 0.1, "rho": 0.2, "limit": 0.5, "decay": 0.9
    }  # fmt: skip
    assert made.parts[1].chosen == {"adaptive": True}
    twice = chain(sr.clip_value, sr.clip_value, board.sgd)
    assert [name for name in twice.hypers if "limit" in name] == ["limit", "clip_value_limit"]
    apart = twice(clip_value_limit=0.5)
    assert [part.keywords.get("limit") for part in apart.parts] == [1.0, 0.5, None]
    with pytest.raises(HyperparameterError, match="`clip_value\\+sgd` has no hyperparameter `limits`") as caught:
        chain(sr.clip_value, board.sgd)(limits=1.0)
    assert caught.value.fix == "it has lr, limit"
    with pytest.raises(HyperparameterError, match="outside its legal range"):
        program(rho=-1.0)
    assert sr.clip_value(board.sgd(lr=0.5), limit=0.1).hypers["limit"].value == 0.1
