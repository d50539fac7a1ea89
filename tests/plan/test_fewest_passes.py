"""The fewest passes and bytes: what feeds no element costs no pass, whoever runs it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import steprule as sr
from steprule import chain, rule, slot
from steprule.errors import RuleError
from steprule.graph.evaluate import evaluate
from steprule.graph.node import Rank
from steprule.plan.program import lowered
from steprule.plan.schedule import schedule
from steprule.zoo import papers


@rule
def prodigal(
    theta,
    g,
    m,
    v,
    s,
    start=slot(init="theta"),
    d=slot(rank="tensor", init=1e-3),
    r=slot(rank="tensor"),
    *,
    lr=1.0,
    beta=0.9,
):
    """Like Prodigy (Mishchenko & Defazio, 2023), with an estimate for each tensor; it acts at the next step."""
    m = beta * m + (1 - beta) * d * g
    v = beta * v + (1 - beta) * d * d * g * g
    s = beta * s + (1 - beta) * d * g
    r = beta * r + (1 - beta) * d * sr.sum(g * (start - theta))
    better = sr.maximum(d, r / (sr.sum(abs(s)) + 1e-12))
    return theta - lr * d * m / (sr.sqrt(v) + d * 1e-8), m, v, s, start, better, r


@rule
def watching(theta, g, k=slot(rank="tensor"), a=slot(rank="tensor"), *, lr=0.1):
    """Keep what is summed over all tensors, and the largest of what was written; neither moves an element."""
    new = theta - lr * g
    return new, sr.global_sum(g * g) + k, sr.max(new)


@rule
def ratio(theta, g, k=slot(rank="tensor"), *, lr=0.1):
    """Need one reduction for elements, and one of its result for the slot."""
    scaled = g / (sr.norm(g) + 1)
    return theta - lr * scaled, sr.sum(scaled * theta)


@rule
def dog(theta, g, start=slot(init="theta"), reach=slot(rank="tensor", init=1e-3), total=slot(rank="tensor"), *, lr=1.0):
    """DoG (Ivgi, Hinder & Carmon, 2023): the step is the distance from the start over the root of all gradients."""
    reach = sr.maximum(reach, sr.norm(theta - start))
    total = total + sr.sum(g * g)
    return theta - lr * reach / sr.sqrt(total + 1e-8) * g, start, reach, total


clipped_lars = chain(sr.clip_global_norm, papers.lars)


@pytest.mark.null
@pytest.mark.parametrize(
    ("program", "passes", "streams"),
    [
        (prodigal, 1, 10),
        (watching, 1, 3),
        (dog, 2, 6),
        (ratio, 2, 4),
        (chain(sr.clip_global_norm, prodigal), 2, 11),
        (chain(sr.clip_global_norm, papers.lamb), 3, 1 + 4 + 7),
        (clipped_lars, 2, 2 + 5),
        (chain(sr.clip_norm, papers.lars), 2, 2 + 5),
    ],
    ids=lambda item: getattr(item, "name", ""),
)
def test_a_reduction_that_moves_no_element_costs_no_pass_and_others_read_nothing_twice_in_vain(
    program: Any, passes: int, streams: int
) -> None:
    plan = schedule(program.graph)
    assert len(plan.passes) == passes
    assert lowered(plan).bytes_per_parameter == 4 * streams
    assert sum(len(item.reductions) for item in plan.passes) == len(set(plan.reductions))


@pytest.mark.null
def test_a_guarded_rule_still_knows_of_bad_gradients_before_it_writes() -> None:
    plan = schedule(watching.graph, guarded=True)
    assert [item.writes == () for item in plan.passes] == [True, False]
    assert plan.guard in plan.passes[0].reductions


def told(program: Any, parameters: list[torch.nn.Parameter], steps: int) -> list[dict[str, Any]]:
    """Return what the interpreter makes of some steps with the gradients that the parameters have."""
    arrays = [{"theta": p.detach().double().numpy(), "g": p.grad.double().numpy()} for p in parameters]
    for own, parameter in zip(arrays, parameters, strict=True):
        for each in program.graph.slots:
            fresh = np.full(parameter.shape if each.rank is Rank.ELEMENT else (), 0.0)
            own[each.name] = fresh + (own["theta"] if each.init == "theta" else each.init)
    numbers = [{hyper.name: hyper.value for hyper in program.graph.hypers}] * len(arrays)
    for _ in range(steps):
        arrays = [own | new for own, new in zip(arrays, evaluate(program.graph, arrays, numbers), strict=True)]
    return arrays


@pytest.mark.interp
@pytest.mark.cpu
@pytest.mark.parametrize(
    ("program", "backend"),
    [
        (watching, "numba_cpu"),
        (dog, "numba_cpu"),
        *((p, name) for p in (watching, ratio, prodigal, dog, clipped_lars) for name in ("eager", "triton_gpu")),
    ],
    ids=lambda item: getattr(item, "name", item),
)
def test_slots_that_wait_for_the_last_pass_are_right_on_every_backend(program: Any, backend: str) -> None:
    """With two dtypes, so that sums over all tensors are shared between batches after the last pass."""
    shapes = [((7,), torch.float64), ((2, 3), torch.float32), ((0,), torch.float64), ((40_000,), torch.float32)]
    parameters = [
        torch.nn.Parameter(torch.randn(shape, dtype=dtype))
        for shape, dtype in shapes[: 3 if backend == "triton_gpu" else 4]
    ]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    expected = told(program, parameters, 3)
    optimizer = program.optimizer(parameters, backend=backend)
    for _ in range(3):
        optimizer.step()
    for parameter, new in zip(parameters, expected, strict=True):
        np.testing.assert_allclose(parameter.detach().double().numpy(), new["theta"], rtol=2e-5, atol=1e-6)
        for name, held in optimizer.state[parameter].items():
            np.testing.assert_allclose(held.double().numpy(), new[name], rtol=2e-5, atol=1e-6, err_msg=name)


# A slot that starts as the parameter --------------------------------------------------------------------


@pytest.mark.null
def test_a_slot_that_starts_as_the_parameter_is_a_copy_of_it_at_the_first_step_and_in_checkpoints() -> None:
    """Whatever the rule calls its parameter, and whatever changed between construction and that step."""

    @rule
    def pulled(w, grad, anchor=slot(init="theta"), *, lr=0.1):
        return w - lr * (grad + w - anchor), anchor

    parameter = torch.nn.Parameter(torch.randn(4, 3).t().to(torch.bfloat16))
    optimizer = pulled.optimizer([parameter])
    with torch.no_grad():
        parameter.mul_(2)
    first = parameter.detach().clone()
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    anchor = optimizer.state[parameter]["anchor"]
    assert anchor.dtype is torch.bfloat16
    assert anchor.stride() == parameter.stride()
    assert torch.equal(anchor, first)
    again = torch.nn.Parameter(parameter.detach().clone())
    resumed = pulled.optimizer([again])
    resumed.load_state_dict(optimizer.state_dict())
    for own, stepping in ((parameter, optimizer), (again, resumed)):
        own.grad = torch.ones_like(own)
        stepping.step()
    assert torch.equal(parameter, again)
    assert torch.equal(resumed.state[again]["anchor"], first)


@pytest.mark.null
@pytest.mark.parametrize(
    ("declared", "what", "fix"),
    [
        ({"init": "w"}, "cannot start from 'w'", 'init="theta"'),
        ({"init": "zeros"}, "cannot start from 'zeros'", "a number"),
        ({"init": "theta", "rank": "tensor"}, "is one number", "leave out rank="),
        ({"init": "theta", "rank": "host"}, "is one number", "leave out rank="),
    ],
)
def test_a_slot_that_starts_from_what_it_cannot_hold_is_refused(declared: dict[str, Any], what: str, fix: str) -> None:
    with pytest.raises(RuleError) as caught:
        slot(**declared)
    assert what in caught.value.what
    assert fix in caught.value.fix
