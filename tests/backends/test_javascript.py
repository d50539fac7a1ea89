"""JavaScript means what the interpreter means: every operation, and 1,000 random rules, in V8."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from javascript_operations import holds, units_off
from roundings import UNITS
from steprule.backends.javascript import PARTS, SPELLING
from steprule.backends.javascript_dialect import JavaScript
from steprule.backends.javascript_words import called, chance_functions
from steprule.graph import chance
from steprule.graph.evaluate import words
from steprule.graph.graph import Graph, Slot
from steprule.graph.node import Rank, drawn, make, read
from steprule.graph.ops import DRAWN
from steprule.graph.verify import verify
from steprule.plan.program import lowered
from steprule.plan.schedule import schedule
from strategies import HYPERS, graphs, problem
from v8 import agrees, spelled, v8, value

pytestmark = pytest.mark.null

SHAPES = [(5,), (), (3, 4), (0,), (1,), (33,)]
MANY = 1000
"""Random rules."""


def _script(graph: Graph) -> tuple[str, bool]:
    """Return the functions of a step, and whether they ask for shapes."""
    own = JavaScript(lowered(schedule(replace(graph, evaluate_at=None, gauges=()), literal=True), "float64"))
    text = own.function("step")
    return "\n".join([*called(text), text]), own.shaped


@pytest.mark.parametrize("name", SPELLING)
def test_every_operation_means_what_the_interpreter_says(name: str) -> None:
    holds(name)


@pytest.mark.parametrize("op", DRAWN)
def test_what_a_rule_draws_are_the_numbers_of_the_interpreter(op: str) -> None:
    """For a small seed and a large one, the last step that has a number, and elements of two tensors."""
    v8().eval("\n".join(chance_functions().values()))
    for seed, parameter, t in ((0, 0, 1), (2**63 + 2**40 + 17, 3, 2**31)):
        node = drawn(op, 2)
        truth = vars(chance)[f"{op}_float64"](words(node, (3000,), t, parameter, seed).ravel())
        own = f"{{ length: 3000 }}, (_, i) => {op}(draw(0, i, key))"
        found = value(f"((key) => Array.from({own}))(key_of({seed}n, {parameter}, {t}, {node.site}))")
        assert units_off(np.array(found), truth).max() <= (16 if op == "normal" else 0)


def test_a_sum_is_as_near_as_can_be() -> None:
    """Where NumPy's own is nearer than a naive one; infinity and NaN stay what they are."""
    rng = np.random.default_rng(3)
    v8().eval(PARTS["Sum"].replace("class Sum", "var Sum = class"))
    cases = [rng.normal(size=20_000) * 10.0 ** rng.integers(-8, 8, 20_000), np.array([1.0, 1e100, 1.0, -1e100]),
             np.full(30_000, 0.1)]  # fmt: skip
    for case in cases:
        (found,) = value(f"((x) => {{ const sum = new Sum(); x.forEach((y) => sum.add(y)); return [sum.value]; }})"
                         f"(inward({spelled(case)}))")  # fmt: skip
        assert abs(found - math.fsum(case)) <= np.spacing(abs(math.fsum(case)))
        assert abs(found - case.sum()) <= UNITS * np.spacing(np.abs(case).sum())
    for odd, truth in (([np.inf, 1.0], np.inf), ([np.inf, -np.inf], np.nan), ([1.7e308, 1.7e308, -1.7e308], np.inf)):
        (found,) = value(f"((x) => {{ const sum = new Sum(); x.forEach((y) => sum.add(y)); return [sum.value]; }})"
                         f"(inward({spelled(odd)}))")  # fmt: skip
        assert np.array_equal(found, truth, equal_nan=True)


def test_what_tensors_and_all_of_them_reduce_of_the_same_stay_apart() -> None:
    g, slots = read("g"), tuple(Slot(name, Rank.TENSOR) for name in ("a", "b", "c"))
    new = tuple(make(op, g) for op in ("sum", "mean", "norm"))
    own = make("add", make("global_sum", g), make("global_norm", g))
    graph = verify(Graph("sums", "theta", "g", slots, (), make("sub", read("theta"), own), new))
    arrays = [{"theta": np.ones(n), "g": np.arange(1.0, n + 1), "a": 0.0, "b": 0.0, "c": 0.0} for n in (3, 1, 4)]
    text, shaped = _script(graph)
    after = agrees(text, graph, arrays, {}, 1, shaped=shaped)
    assert [float(item["a"]) for item in after] == [6.0, 1.0, 10.0]
    assert after[0]["theta"][0] == 1 - (17 + np.sqrt(14 + 1 + 30))


def _spoilt(data: Any, seed: int) -> list[dict[str, Any]]:
    """Put NaN or infinity into the last element of one gradient, of every third problem."""
    if seed % 3 == 0:
        data.arrays[-1]["g"].ravel()[-1] = (np.nan, np.inf)[seed % 2]
    return data.arrays


def test_random_rules_agree_with_the_interpreter() -> None:
    """All but those with functions of matrices: of a third, the last element of a gradient is not finite."""
    seen = {"numbers": 0, "exact": 0, "near": 0}

    def tell(result: Any, bound: Any) -> None:
        seen["numbers"] += bound.size
        seen["exact"] += int((bound == 0).sum())
        seen["near"] += int((bound <= 1e-12 * (1 + np.abs(np.nan_to_num(result)))).sum())

    @settings(max_examples=MANY, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(graph=graphs(), seed=st.integers(0, 2**16))
    def agree(graph: Graph, seed: int) -> None:
        assume(not any(node.whole or node.rank.apart for node in graph.nodes))
        text, shaped = _script(graph)
        arrays, hyper = _spoilt(problem(seed, SHAPES), seed), {**HYPERS}
        agrees(text, graph, arrays, hyper, 3, shaped=shaped, tell=tell)

    agree()
    assert seen["exact"] > 0.5 * seen["numbers"]
    assert seen["near"] > 0.9 * seen["numbers"], "bounds that say nothing"
