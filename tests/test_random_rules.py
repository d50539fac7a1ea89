"""Random rules mean the same everywhere: interpreter, eager backend, compiled and uncompiled kernel, GPU kernels."""

from __future__ import annotations

from dataclasses import replace

import hypothesis
import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from steprule.graph.evaluate import evaluate
from steprule.graph.graph import Graph, Slot
from steprule.graph.node import read, substitute
from steprule.graph.show import formula
from steprule.graph.simplify import simplify
from steprule.graph.twice import Twice, paths
from steprule.graph.verify import verify
from steprule.plan.schedule import schedule
from strategies import HYPERS, Problem, graphs, problem, run

pytestmark = pytest.mark.usefixtures("small_chunks")

SHAPES = [(5,), (), (3, 4), (0,), (33,)]
RULES, SHARDS = 120, 4


def _differs(a: list[dict[str, np.ndarray]], b: list[dict[str, np.ndarray]], tolerance: float) -> list[str]:
    worst: list[str] = []
    for index, (one, other) in enumerate(zip(a, b, strict=True)):
        for name in one:
            x, y = np.asarray(one[name], float), np.asarray(other[name], float)
            if not np.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True):
                far = np.argmax(np.abs(x - y).ravel()) if x.size else 0
                worst.append(f"tensor {index}, {name}[{far}]: {x.ravel()[far]} against {y.ravel()[far]}")
    return worst


def _well_conditioned(graph: Graph, data: Problem, truth: list[dict[str, np.ndarray]], noise: float) -> bool:
    """Whether the truth barely moves when inputs do: only then does rounding not decide a comparison."""
    for sign in (1, -1):
        moved = [
            {name: value * (1 + sign * noise) + sign * noise / 7 for name, value in a.items()} for a in data.arrays
        ]
        numbers = [{name: value * (1 - sign * noise) for name, value in n.items()} for n in data.numbers]
        if _differs(truth, evaluate(graph, moved, numbers), 1e3 * noise):
            return False
    return True


def _without_host_slots(truth: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    return [{name: value for name, value in item.items() if name != "h"} for item in truth]


def _agree(graph: Graph, seed: int) -> None:
    data = problem(seed, SHAPES)
    truth = evaluate(graph, data.arrays, data.numbers)
    assume(_well_conditioned(graph, data, truth, 1e-11))
    simple = evaluate(simplify(graph), data.arrays, data.numbers)
    assert not _differs(truth, simple, 1e-8), f"simplification of\n{formula(graph)}"
    plan, kept = schedule(graph), _without_host_slots(truth)
    for kind in ("eager", "plain", "compiled"):
        assert not _differs(kept, run(plan, data, kind), 1e-8), f"{kind}\n{formula(graph)}"


@pytest.mark.hostile("R7")
@pytest.mark.cpu
@pytest.mark.parametrize("shard", range(SHARDS))
def test_backends_agree_with_the_interpreter_on_random_rules(shard: int) -> None:
    """Four shards of 30 rules: the interpreter, eager, and the kernel's source run with and without a compiler."""

    @hypothesis.seed(shard)
    @settings(max_examples=RULES // SHARDS, derandomize=False, phases=[Phase.generate])  # shrinking would compile more
    @given(graph=graphs(), seed=st.integers(0, 2**16))
    def agree(graph: Graph, seed: int) -> None:
        _agree(graph, seed)

    agree()


@pytest.mark.hostile("R7")
@pytest.mark.null
def test_eager_and_uncompiled_source_agree_on_more_random_rules() -> None:
    """The same without compiling, so eight times as many."""

    @settings(max_examples=1000, phases=[Phase.generate])
    @given(graph=graphs(), seed=st.integers(0, 2**16))
    def agree(graph: Graph, seed: int) -> None:
        data = problem(seed, SHAPES)
        truth = evaluate(graph, data.arrays, data.numbers)
        assume(_well_conditioned(graph, data, truth, 1e-11))
        plan, kept = schedule(graph), _without_host_slots(truth)
        for kind in ("eager", "plain"):
            assert not _differs(kept, run(plan, data, kind), 1e-8), f"{kind}\n{formula(graph)}"

    agree()


@pytest.mark.hostile("R7")
@pytest.mark.interp
@pytest.mark.parametrize("shard", range(2))
def test_gpu_kernels_agree_with_the_interpreter_on_random_rules(shard: int) -> None:
    """The kernels' source as it stands; on a GPU it is compiled, which takes longer, without one interpreted."""

    @hypothesis.seed(100 + shard)
    @settings(max_examples=50, derandomize=False, phases=[Phase.generate])
    @given(graph=graphs(), seed=st.integers(0, 2**16))
    def agree(graph: Graph, seed: int) -> None:
        data = problem(seed, SHAPES)
        truth = evaluate(graph, data.arrays, data.numbers)
        assume(_well_conditioned(graph, data, truth, 1e-11))
        found = run(schedule(graph), data, "triton")
        assert not _differs(_without_host_slots(truth), found, 1e-8), formula(graph)

    agree()


@pytest.mark.hostile("R7")
@pytest.mark.null
def test_points_of_random_formulas_and_their_first_gradients_are_as_written() -> None:
    """A drawn formula is where the second gradient is taken, and, of the first one, what the update is made of."""

    @settings(max_examples=25, phases=[Phase.generate])
    @given(graph=graphs(), seed=st.integers(0, 2**16))
    def agree(graph: Graph, seed: int) -> None:
        first = Slot("g_theta", wide=True)
        image = substitute(graph.roots, {read("g"): read("g_theta")})
        point, *new = [image[node] for node in graph.roots]
        slots = {"slots": (*graph.slots, first), "new_slots": (*new, read("g_theta"))}
        ruled = verify(replace(graph, first="g_theta", evaluate_at=point, new_parameter=point, **slots))
        data = problem(seed, SHAPES)
        truth = evaluate(graph, data.arrays, data.numbers)
        assume(_well_conditioned(graph, data, truth, 1e-11))
        for own in data.arrays:
            own["g_theta"], own["g"] = own["g"], own["g"] + 1
        ways = paths(simplify(ruled))
        assert isinstance(ways, Twice)
        assert (ways.given, ruled.implicit, ruled.looks_ahead) == ("g_theta", False, False)
        (moved, stepped) = (run(schedule(one), data, "eager") for one in (ways.to_point, ways.exact))
        points = [{"theta": own["theta"]} for own in truth]
        assert not _differs(points, moved, 1e-8), formula(ruled)
        assert not _differs(_without_host_slots(truth), stepped, 1e-8), formula(ruled)

    agree()


@pytest.mark.null
def test_random_rules_cover_the_op_table() -> None:
    """What the strategy can draw is the whole table; rare operations need many draws."""
    from steprule.graph.ops import OPS

    seen: set[str] = set()

    @settings(max_examples=2000, phases=[Phase.generate])
    @given(graph=graphs())
    def collect(graph: Graph) -> None:
        seen.update(node.op for node in graph.nodes)

    collect()
    assert seen == {name for name, row in OPS.items() if row.kind != "stored"}
    assert set(HYPERS) == {"lr", "beta", "gamma"}
