"""The word `watch`: what it may be given, how it prints, and that every backend tells what the interpreter says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from told import pointed, refused

import steprule as sr
from steprule import chain, rule, slot, transform, watch
from steprule.errors import RuleError
from steprule.graph.evaluate import evaluate_gauges
from steprule.graph.show import formula, latex

pytestmark = pytest.mark.null


@rule
def seen(theta, g, m, k=slot(rank="tensor", init=1.0), n=slot(rank="host"), *, lr=0.1, beta=0.9, t):
    """Watch numbers of every rank, old and new."""
    m = beta * m + (1 - beta) * g
    new = k + sr.mean(m * m)
    watch("largest", sr.max(sr.abs(g)))
    watch("before", k)
    watch("after", new)
    watch("count", 2 * n)
    watch("eta", lr / (1 - beta**t))
    trust = watch("trust ratio", sr.norm(theta) / sr.norm(m))
    watch("all", sr.global_norm(g) + sr.global_sum(m))
    return theta - lr * m / k * sr.minimum(1, trust), m, new, n + 1


@transform
def halved(theta, g, *, share=0.5):
    watch("length", sr.norm(g))
    return share * g


@pytest.mark.parametrize("backend", ["eager", pytest.param("numba_cpu", marks=pytest.mark.cpu),
                                     pytest.param("triton_gpu", marks=pytest.mark.interp)])  # fmt: skip
def test_what_a_rule_watches_is_what_the_interpreter_says(backend: str) -> None:
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(size, dtype=torch.float64)) for size in (7, 30)]
    optimizer = seen.optimizer(parameters, backend=backend)
    for t in (1, 2, 3):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        states = [dict(optimizer.state[p]) or {"m": torch.zeros(p.shape), "k": 1.0, "n": 0.0} for p in parameters]
        arrays = [{"theta": p.detach().numpy().copy(), "g": p.grad.numpy(),
                   **{name: _numbers(own[name]) for name in ("m", "k", "n")}}
                  for p, own in zip(parameters, states, strict=True)]  # fmt: skip
        expected = evaluate_gauges(seen.graph, arrays, [{"lr": 0.1, "beta": 0.9, "t": t}] * 2)
        optimizer.step()
    found = optimizer.gauges()
    for own, right in zip(found.parameters.values(), expected, strict=True):
        assert own == pytest.approx(right, rel=1e-6)
    g = torch.cat([p.grad for p in parameters])
    assert found["largest"] == pytest.approx(float(g.abs().max()))
    assert found["eta"] == pytest.approx(0.1 / (1 - 0.9**3))
    assert "differs" in found.lacking["before"]


def _numbers(value: Any) -> Any:
    return value.numpy().copy() if isinstance(value, torch.Tensor) else value


def test_gauges_are_printed_below_the_formula_and_are_in_the_graph() -> None:
    assert formula(seen.graph).splitlines()[-2:] == ["trust ratio = ‖θₜ₋₁‖_tensor / ‖mₜ‖_tensor",
                                                     "all = ‖g‖ + sum over all(mₜ)"]  # fmt: skip
    assert r"\mathrm{trust\ ratio} &= \frac" in latex(seen.graph)
    assert [item.name for item in seen.graph.gauges][:2] == ["largest", "before"]
    twice = chain(halved, halved, sr.board.sgd)
    assert [item.name for item in twice.graph.gauges] == ["length", "halved_length"]


def test_false_watches_nothing_and_a_list_what_it_names() -> None:
    plain = seen.optimizer([torch.nn.Parameter(torch.zeros(3))], backend="eager", watch=False)
    some = seen.optimizer([torch.nn.Parameter(torch.zeros(3))], backend="eager", watch=["largest"])
    assert [item.name for item in plain._rules.own.kernels.plan.graph.gauges] == []
    assert [item.name for item in some._rules.own.kernels.plan.graph.gauges] == ["largest"]
    assert len(some._rules.own.kernels.plan.passes) == len(plain._rules.own.kernels.plan.passes)


WRONG = {
    "value for every element": lambda g: watch("x", g),
    "comparison": lambda g: watch("x", sr.norm(g) < 1),
    "every rule has": lambda g: watch("update_norm", sr.norm(g)),
    "called 'stalled_m'": lambda g: watch("stalled_m", sr.norm(g)),
    "cannot be called <symbol": lambda g: watch(sr.norm(g), "x"),  # type: ignore[arg-type]
    "cannot be called ''": lambda g: watch("", sr.norm(g)),
    "cannot be called 'a\\nb'": lambda g: watch("a\nb", sr.norm(g)),
    "nothing to watch": lambda g: watch("x", 3),
    "two gauges": lambda g: watch("x", sr.sum(g)) + watch("x", sr.norm(g)),
}


@pytest.mark.parametrize("word", WRONG)
def test_what_cannot_be_watched_is_refused_at_the_authors_words(word: str) -> None:
    @rule
    def wrong(theta, g, *, lr=0.1):
        WRONG[word](g)
        return theta - lr * g

    error = refused(lambda: wrong.graph)
    assert word in error.what
    assert pointed(error).startswith("watch(")


def test_a_gauge_that_needs_a_pass_of_its_own_is_refused_at_its_line() -> None:
    @rule
    def longer(theta, g, *, lr=0.1):
        new = theta - lr * g
        watch("spread", sr.norm(new - sr.mean(new)))
        return new

    with pytest.raises(RuleError, match="one more walk") as caught:
        longer.optimizer([torch.nn.Parameter(torch.zeros(3))])
    assert 'watch("spread", sr.norm(new - sr.mean(new)))' in str(caught.value)
