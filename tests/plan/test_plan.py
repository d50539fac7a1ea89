"""Plans: as few passes as the mathematics allows, and nothing moved twice."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch

import steprule as sr
from steprule import board, chain, rule, slot, transform
from steprule.errors import GraphError, RuleError
from steprule.graph.look_ahead import look_ahead
from steprule.graph.node import read
from steprule.plan.program import lowered
from steprule.plan.schedule import Plan, schedule

pytestmark = pytest.mark.null

BOARD: dict[str, tuple[Any, list[str], list[str]]] = {
    "gd": (board.gd, ["theta", "g"], ["theta"]),
    "sgd": (board.sgd, ["theta", "g"], ["theta"]),
    "momentum": (board.momentum, ["theta", "g", "m"], ["theta", "m"]),
    "nesterov": (board.nesterov, ["theta", "g", "m"], ["theta", "m"]),
    "nesterov, literal": (board.nesterov(look_ahead="board"), ["theta", "g", "m"], ["theta", "m"]),
    "adagrad": (board.adagrad, ["theta", "g", "s"], ["theta", "s"]),
    "rmsprop": (board.rmsprop, ["theta", "g", "s"], ["theta", "s"]),
    "adam": (board.adam, ["theta", "g", "m", "s"], ["theta", "m", "s"]),
}
CLIPPINGS = {"usual": sr.clip_global_norm, "literal": board.clip_norm}


def plan_of(program: Any) -> Plan:
    """Plan a rule as the optimiser does: a rule with a look-ahead in its closure-free form."""
    paths = look_ahead(program.graph)
    return schedule(paths.closure_free if paths else program.graph)


@pytest.mark.parametrize("name", BOARD)
def test_a_board_rule_is_one_pass_that_moves_each_array_once(name: str) -> None:
    program, reads, writes = BOARD[name]
    plan = plan_of(program)
    assert len(plan.passes) == 1
    assert sorted(plan.passes[0].reads) == sorted(reads)
    assert sorted(array for array, _ in plan.passes[0].writes) == sorted(writes)
    assert plan.passes[0].reductions == ()
    for dtype, size in (("float32", 4), ("float64", 8)):
        assert lowered(plan, dtype).bytes_per_parameter == size * (len(reads) + len(writes))
        assert lowered(plan, dtype).state_bytes_per_parameter == size * (len(reads) - 2)
    assert plan.reductions == ()


@pytest.mark.parametrize("clipping", CLIPPINGS)
@pytest.mark.parametrize("name", BOARD)
def test_global_clipping_costs_exactly_one_read_of_the_gradient(name: str, clipping: str) -> None:
    program, reads, writes = BOARD[name]
    plan = plan_of(chain(CLIPPINGS[clipping], program))
    first, second = plan.passes
    assert first.reads == ("g",)
    assert first.writes == ()
    assert lowered(plan).loops[0].bytes_per_parameter == 4
    assert [node.op for node in first.reductions] == ["global_norm"]
    assert lowered(plan).bytes_per_parameter == 4 + 4 * (len(reads) + len(writes))
    assert sorted(second.reads) == sorted(reads)
    assert second.reductions == ()


@pytest.mark.parametrize("name", BOARD)
def test_clipping_by_component_costs_nothing(name: str) -> None:
    program = BOARD[name][0]
    both = chain(sr.clip_value, board.clip_component, program)
    assert lowered(plan_of(both)).bytes_per_parameter == lowered(plan_of(program)).bytes_per_parameter
    assert len(plan_of(both).passes) == 1


def test_coupled_decay_before_a_clipping_reads_the_parameter_in_both_passes() -> None:
    plan = schedule(chain(sr.weight_decay(0.1, decoupled=False), sr.clip_global_norm, board.sgd).graph)
    assert [sorted(item.reads) for item in plan.passes] == [["g", "theta"], ["g", "theta"]]
    after = schedule(chain(sr.clip_global_norm, sr.weight_decay(0.1, decoupled=False), board.sgd).graph)
    assert after.passes[0].reads == ("g",)


# How many passes ---------------------------------------------------------------------------------------


@rule
def normalised(theta, g, *, lr=0.1):
    return theta - lr * g / sr.norm(g)


@rule
def variance(theta, g, *, lr=0.1):
    centred = g - sr.mean(g)
    return theta - lr * centred / sr.sqrt(sr.mean(centred**2))


@rule
def three_reductions_at_once(theta, g, *, lr=0.1):
    return theta - lr * g * (sr.norm(g) + sr.max(g) + sr.global_sum(theta))


@rule
def counting(theta, g, k=slot(rank="tensor"), n=slot(rank="host", init=1), *, lr=0.1):
    k = k + sr.sum(g)
    return theta - lr * g * n, k, n + 1


@rule
def reducing_what_it_writes(theta, g, m, k=slot(rank="tensor"), *, lr=0.1):
    m = m + g
    return theta - lr * m, m, sr.norm(m)


@pytest.mark.parametrize(
    ("program", "passes"),
    [
        (board.adam, 1),
        (normalised, 2),
        (variance, 3),
        (three_reductions_at_once, 2),
        (chain(sr.clip_global_norm, normalised), 2),
        (chain(sr.clip_global_norm, variance), 3),
        (chain(sr.clip_norm, sr.clip_norm, board.sgd), 2),
        (chain(sr.clip_value, sr.clip_norm, normalised), 2),
        (chain(board.clip_norm, normalised), 3),
        (counting, 1),
        (reducing_what_it_writes, 1),
    ],
    ids=lambda item: getattr(item, "name", ""),
)
def test_passes_are_one_more_than_the_longest_row_of_reductions(program: Any, passes: int) -> None:
    plan = schedule(program.graph)
    assert len(plan.passes) == passes
    assert [item.index for item in plan.passes] == list(range(passes))
    assert all(item.writes == () for item in plan.passes[:-1])
    assert all(item.reductions for item in plan.passes[:-1])
    assert [loop.index for loop in lowered(plan).loops] == list(range(passes))


def test_two_level_reductions_end_in_the_pass_before_their_use() -> None:
    plan = schedule(variance.graph)
    assert [[node.op for node in item.reductions] for item in plan.passes] == [["mean"], ["mean"], []]
    assert [sorted(item.reads) for item in plan.passes] == [["g"], ["g"], ["g", "theta"]]
    assert lowered(plan).bytes_per_parameter == 4 * (1 + 1 + 3)


def test_reductions_of_one_level_share_a_pass() -> None:
    first = schedule(three_reductions_at_once.graph).passes[0]
    assert {node.op for node in first.reductions} == {"norm", "max", "global_sum"}
    assert sorted(first.reads) == ["g", "theta"]


def test_small_slots_are_no_part_of_a_pass() -> None:
    plan = schedule(counting.graph)
    assert [name for name, _ in plan.tensor_writes] == ["k"]
    assert [name for name, _ in plan.host_writes] == ["n"]
    assert lowered(plan).state_bytes_per_parameter == 0
    assert [name for item in plan.passes for name, _ in item.writes] == ["theta"]


def test_what_does_not_change_is_not_written_and_what_is_not_used_is_not_read() -> None:
    @rule
    def lazy(theta, g, kept, unused, *, lr=0.1):
        return theta - lr * kept * g, kept, 0 * lr

    plan = schedule(lazy.graph)
    assert sorted(plan.passes[0].reads) == ["g", "kept", "theta"]
    assert sorted(name for name, _ in plan.passes[0].writes) == ["theta", "unused"]

    @rule
    def frozen(theta, g, *, lr=0.1):
        return theta

    assert lowered(schedule(frozen.graph)).bytes_per_parameter == 0


def test_scalars_are_computed_outside_the_loop() -> None:
    """Of the board's Adam, an element sees twelve operations; 1 − β and the like are not among them."""
    assert schedule(board.sgd.graph).passes[0].flops == 2
    assert schedule(board.momentum.graph).passes[0].flops == 5
    assert schedule(board.adam.graph).passes[0].flops == 12
    decayed = chain(sr.weight_decay(0.1), board.sgd)
    assert schedule(decayed.graph).passes[0].flops == 3
    host = {repr(node) for node in schedule(board.momentum.graph).host}
    assert "sub(const(1.0), hyper('beta'))" in host


def test_a_plan_out_of_order_is_refused() -> None:
    plan = schedule(chain(sr.clip_global_norm, board.sgd).graph)
    swapped = dataclasses.replace(plan, passes=plan.passes[::-1])
    with pytest.raises(GraphError, match="before it has ended"):
        lowered(swapped)
    early = dataclasses.replace(plan.passes[0], writes=(("theta", read("g")),))
    with pytest.raises(GraphError, match="only the last loop may"):
        lowered(dataclasses.replace(plan, passes=(early, plan.passes[1])))


# Explain -----------------------------------------------------------------------------------------------


def test_explain_tells_the_plan_as_plain_data() -> None:
    told = sr.explain(chain(sr.clip_global_norm(max_norm=1.0), board.adam(lr=1e-3)))
    assert told.name == "clip_global_norm+adam"
    facts = {
        "index": 0,
        "reads": ["g"],
        "writes": [],
        "reductions": ["‖g‖"],
        "bytes_per_parameter": 4,
        "flops_per_parameter": 2,
    }
    assert facts.items() <= told.passes[0].items()
    assert (told.bytes_per_parameter, told.state_bytes_per_parameter) == (32, 8)
    assert (told.backend, told.dtype) == ("numba_cpu", "float32")
    assert told.source.startswith('"""clip_global_norm+adam, float32')
    compile(told.source, "kernel.py", "exec")
    assert "# m = (1 - beta1) * g + beta1 * m" in told.source
    data = told.as_json()
    assert set(data) == {
        *("formula", "latex", "passes", "bytes_per_parameter", "state_bytes_per_parameter", "state_bytes_in"),
        *("backend", "reason", "source"),
    }
    assert json.loads(json.dumps(data))["passes"] == list(told.passes)


def test_explain_prints_for_people() -> None:
    lines = str(sr.explain(chain(sr.clip_norm, board.momentum))).splitlines()
    assert lines[0] == "clip_norm+momentum"
    assert "    θₜ = θₜ₋₁ − η mₜ" in lines
    assert "pass 0: reads g; ends in ‖g‖_tensor (4 bytes, 2 flops a parameter)" in lines
    assert "2 passes, 24 bytes a parameter in float32; state: 4 bytes a parameter" in lines
    assert "state may take 2 in bfloat16, 1.03125 in 8bit" in lines
    assert "may take" not in str(sr.explain(board.sgd))
    assert lines[-1].startswith("backend: numba_cpu (")
    assert "1 pass, 12 bytes" in str(sr.explain(board.sgd))


def test_explain_of_an_optimizer_tells_its_dtype_and_backend() -> None:
    def told(dtype: torch.dtype, **options: Any) -> sr.Explanation:
        return sr.explain(board.adam.optimizer([torch.nn.Parameter(torch.ones(2, dtype=dtype))], **options))

    assert told(torch.float64).bytes_per_parameter == 56
    assert told(torch.float64).dtype == "float64"
    assert "float64" in told(torch.float64).source
    assert (told(torch.float32, backend="eager").backend, told(torch.float32, backend="eager").reason) == (
        "eager",
        "asked for",
    )
    half = told(torch.bfloat16)
    assert (half.backend, half.bytes_per_parameter, half.storage) == (
        "numba_cpu",
        14,
        "bfloat16, rounded to the nearest",
    )
    assert "nearest_bfloat16" in half.source


def test_explain_of_a_transform_says_that_it_does_not_run_alone() -> None:
    told = sr.explain(sr.clip_value)
    assert (told.backend, told.passes, told.source) == ("none", (), "")
    assert "chain" in told.reason
    assert told.formula == "g* = min(max(g, −L_g), L_g)"

    @transform
    def nothing(theta, g):
        return g

    assert sr.explain(nothing).bytes_per_parameter == 0


def test_explain_refuses_what_is_no_rule() -> None:
    with pytest.raises(RuleError, match="is no rule"):
        sr.explain(torch.optim.SGD)  # type: ignore[arg-type]
