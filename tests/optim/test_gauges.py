"""Gauges of a step against plain torch computations, on every backend; what they cost; where there are none, and why.

The rule below is unknown to the package: nothing in it speaks of gauges.
"""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from truth import bits

import steprule as sr
from steprule import rule
from steprule.errors import HyperparameterError, NonFiniteError
from steprule.graph.evaluate import evaluate_gauges
from steprule.graph.gauges import MEANINGS, first_moment, watched
from steprule.plan import groups
from steprule.plan.schedule import schedule

pytestmark = pytest.mark.cpu

BACKENDS = ["numba_cpu", "eager", pytest.param("triton_gpu", marks=pytest.mark.interp)]
NAMES = ("first", "second")
SIZES = (50, 700)


@rule
def unknown(theta, g, trail, *, lr=1e-2, keep=0.8):
    """Average the gradient, and step by the root of what that amounts to."""
    trail = trail + (1 - keep) * (g - trail)
    return theta - lr * sr.sign(trail) * sr.sqrt(sr.abs(trail)), trail


def models(dtype: torch.dtype = torch.float32, sizes: tuple[int, ...] = SIZES) -> list[torch.nn.Parameter]:
    torch.manual_seed(3)
    return [torch.nn.Parameter(torch.randn(size).to(dtype)) for size in sizes]


def made(formula: Any = unknown, parameters: Any = None, **options: Any) -> sr.Optimizer:
    own = models() if parameters is None else parameters
    return sr.Optimizer(list(zip(NAMES, own, strict=False)), formula, **options)


def fill(optimizer: Any, scale: float = 1.0) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = (scale * torch.randn(parameter.shape)).to(parameter.dtype)


def flat(tensors: Any) -> torch.Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def measured(optimizer: Any, slot: str, bound: float) -> dict[str, float]:
    """Step, and return what plain torch operations tell of the step."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    before, g = flat(parameters), flat(p.grad for p in parameters)
    optimizer.step()
    after, m = flat(parameters), flat(optimizer.state[p][slot] for p in parameters)
    coefficient = min(1.0, bound / (float(g.norm()) + 1e-6))
    return {
        "gradient_norm": float(g.norm()),
        "clip_coefficient": coefficient,
        "clipped": float(coefficient != 1),
        "update_norm": float((after - before).norm()),
        "parameter_norm": float(after.norm()),
        "update_ratio": float((after - before).norm() / after.norm()),
        "cosine": float(torch.nn.functional.cosine_similarity(g, m, dim=0)),
        "nonfinite": 0.0,
        "stalled": float((after == before).double().mean()),
        "skipped": 0.0,
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bound", [0.5, 1e6])
def test_gauges_of_a_rule_that_the_package_does_not_know_are_those_of_plain_torch(backend: str, bound: float) -> None:
    optimizer = made(clip=bound, watch=True, backend=backend)
    for _ in range(3):
        fill(optimizer)
        expected = measured(optimizer, "trail", bound)
    found = optimizer.gauges()
    assert list(found) == [*MEANINGS, "skipped"] == list(expected)
    assert dict(found) == pytest.approx(expected, rel=1e-5, abs=1e-12)
    assert list(found.parameters) == list(NAMES)
    for parameter, own in zip(optimizer.param_groups[0]["params"], found.parameters.values(), strict=True):
        assert own["parameter_norm"] == pytest.approx(float(parameter.detach().double().norm()), rel=1e-5)
        assert own["gradient_norm"] == pytest.approx(float(parameter.grad.double().norm()), rel=1e-5)
    assert found.lacking == {}


@pytest.mark.parametrize("backend", BACKENDS)
def test_watching_changes_no_bit_of_a_step(backend: str) -> None:
    plain, watching = (made(clip=1.0, backend=backend, watch=watch) for watch in (None, True))
    for optimizer in (plain, watching):
        torch.manual_seed(4)
        for _ in range(3):
            fill(optimizer)
            optimizer.step()
    for one, other in zip(plain.param_groups[0]["params"], watching.param_groups[0]["params"], strict=True):
        assert torch.equal(one, other)
        assert torch.equal(plain.state[one]["trail"], watching.state[other]["trail"])


@pytest.mark.null
@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("clip", [None, sr.clip_global_norm, sr.clip_norm, sr.clip_value])
def test_the_plan_has_as_many_passes_and_moves_as_many_bytes_as_without(clip: Any, guarded: bool) -> None:
    formula = unknown if clip is None else sr.chain(clip, unknown)
    plain, watching = (schedule(graph, guarded=guarded) for graph in (formula.graph, watched(formula.graph, True)))
    moved = [[(set(item.reads), item.writes) for item in plan.passes] for plan in (plain, watching)]
    assert moved[0] == moved[1]
    assert set(plain.reductions) <= set(watching.reductions)


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_what_clipping_needs_and_the_count_of_skipped_steps_are_there_without_asking(backend: str) -> None:
    optimizer = made(clip=2.0, nonfinite="skip", backend=backend)
    assert dict(optimizer.gauges()) == {"skipped": 0}
    fill(optimizer)
    optimizer.step()
    norm = float(flat(p.grad for p in optimizer.param_groups[0]["params"]).norm())
    assert dict(optimizer.gauges()) == pytest.approx(
        {"gradient_norm": norm, "clip_coefficient": 2 / norm, "clipped": 1.0, "skipped": 0.0}, rel=1e-5
    )
    assert "gradient_norm" not in optimizer.gauges().parameters["first"]  # only that of all has been computed
    with pytest.raises(KeyError, match="watch=True"):
        optimizer.gauges()["update_norm"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_that_is_left_out_counts_and_tells_what_it_has_seen(backend: str) -> None:
    optimizer = made(clip=2.0, nonfinite="skip", backend=backend, watch=True)
    fill(optimizer)
    optimizer.step()
    optimizer.param_groups[0]["params"][1].grad[:3] = math.nan
    optimizer.step()
    found = optimizer.gauges()
    assert (found["nonfinite"], found["skipped"]) == (3, 1)
    assert found.parameters["first"]["nonfinite"] == 0
    assert math.isnan(found["update_norm"])
    fill(optimizer)
    optimizer.step()
    assert math.isfinite(optimizer.gauges()["update_norm"])
    assert optimizer.gauges()["skipped"] == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_however_often_tensors_are_bound_anew_steps_left_out_are_counted_in_two_places_at_most(backend: str) -> None:
    optimizer = sr.board.sgd.optimizer([torch.nn.Parameter(torch.ones(3))], lr=0.1, nonfinite="skip", backend=backend)
    for number in range(5):
        optimizer.param_groups[0]["params"][0].grad = torch.full((3,), math.nan if number % 4 else 1.0)
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.gauges()["skipped"] == 3
    assert len(optimizer._skipped_there) <= 2


def test_a_step_that_raises_tells_what_it_has_seen() -> None:
    optimizer = made(nonfinite="raise", watch=["nonfinite"], backend="eager")
    fill(optimizer)
    optimizer.param_groups[0]["params"][0].grad[7] = math.inf
    with pytest.raises(NonFiniteError):
        optimizer.step()
    assert dict(optimizer.gauges()) == {"nonfinite": 1, "skipped": 1}


@pytest.mark.parametrize(
    ("dtype", "backend"), [(torch.bfloat16, "numba_cpu"), (torch.bfloat16, "eager"), (torch.float16, "eager"),
                           pytest.param(torch.float16, "triton_gpu", marks=pytest.mark.interp)],
)  # fmt: skip
def test_stalling_of_16_bits_is_found_within_20_steps(dtype: torch.dtype, backend: str) -> None:
    optimizer = made(sr.board.adam(lr=1e-4), models(dtype, (300,)), backend=backend, watch=["stalled"])
    for _ in range(20):
        fill(optimizer)
        old = {key: flat(values) for key, values in _stored(optimizer).items() if values}
        optimizer.step()
    same = {key: float((flat(values) == old[key]).double().mean()) for key, values in _stored(optimizer).items()}
    found = optimizer.gauges()
    assert found["stalled"] == pytest.approx(same["theta"])
    assert same["theta"] > 0.4
    assert found["stalled_m"] == pytest.approx(same["m"])
    assert found["stalled_s"] == pytest.approx(same["s"])


@pytest.mark.parametrize("backend", ["numba_cpu", "eager", pytest.param("triton_gpu", marks=pytest.mark.interp)])
def test_stalling_of_8_bits_is_what_codes_tell_and_changes_none(backend: str, monkeypatch: Any) -> None:
    """In blocks of 16, 3 and 8 groups; beside them torch operations, which watch nothing."""
    monkeypatch.setattr(groups, "LEAST", 30)
    shapes, ends = [(2, 600), (2, 512), (1, 256)], []
    for watch, runs in ((True, backend), (None, "eager")):
        torch.manual_seed(2)
        parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
        optimizer = sr.board.adam.optimizer(parameters, lr=1e-4, state="8bit", watch=watch, backend=runs)
        for _ in range(2):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape)
            before = [optimizer.state_dict(format="float32")["state"].get(place) for place in range(3)]
            optimizer.step()
        ends.append([pair for pair in bits(optimizer) if pair[0] != "parameter"])
        if watch:
            after = [optimizer.state_dict(format="float32")["state"][place] for place in range(3)]
            for slot in ("m", "s"):
                same = [old[slot] == new[slot] for old, new in zip(before, after, strict=True)]
                share = float(torch.cat([one.reshape(-1) for one in same]).double().mean())
                assert 0 < share < 0.3
                assert optimizer.gauges()[f"stalled_{slot}"] == pytest.approx(share)
                told = [own[f"stalled_{slot}"] for own in optimizer.gauges().parameters.values()]
                assert told == pytest.approx([float(one.double().mean()) for one in same])
    assert ends[0] == ends[1]


def _stored(optimizer: sr.Optimizer) -> dict[str, list[torch.Tensor]]:
    parameters = optimizer.param_groups[0]["params"]
    return {"theta": parameters} | {name: [optimizer.state[p][name] for p in parameters if optimizer.state[p]]
                                         for name in ("m", "s")}  # fmt: skip


def test_float32_stalls_where_steps_are_far_smaller_and_other_roundings_are_compared_as_they_store() -> None:
    tiny = made(sr.board.sgd(lr=1e-12), watch=["stalled"])
    decayed = sr.chain(sr.weight_decay(1e-3), sr.board.sgd(lr=1e-12))
    tiny_decayed = made(decayed, watch=["stalled"], backend="eager")
    still = made(sr.board.sgd(lr=0), watch=["stalled"])
    for optimizer, expected in ((tiny, 1.0), (tiny_decayed, 1.0), (still, 0.0)):
        fill(optimizer)
        optimizer.step()
        assert optimizer.gauges()["stalled"] == pytest.approx(expected, abs=0.01)
    for rounding in ("stochastic", "compensated"):
        backend = "numba_cpu" if rounding == "stochastic" else "eager"
        formula = sr.board.adam(lr=1e-4)
        optimizer = made(formula, models(torch.bfloat16), rounding=rounding, watch=True, backend=backend)
        fill(optimizer)
        before = flat(optimizer.param_groups[0]["params"])
        optimizer.step()
        same = float((flat(optimizer.param_groups[0]["params"]) == before).double().mean())
        assert optimizer.gauges()["stalled"] == pytest.approx(same if rounding == "stochastic" else 0)
        assert same > 0.5


def test_gauges_of_several_groups_types_and_absent_gradients_are_of_what_was_stepped() -> None:
    a, b, c = models(sizes=(40, 17, 33))
    b.data = b.data.double()
    groups = [{"params": [a, c]}, {"params": [b], "lr": 0.3, "weight_decay": 0.1}]
    optimizer = sr.optim.AdamW(groups, lr=1e-2, weight_decay=0.0, clip=1.0, watch=True, backend="eager")
    fill(optimizer)
    optimizer.step()
    c.grad = None
    before = flat([a, b])
    optimizer.step()
    found = optimizer.gauges()
    assert found["update_norm"] == pytest.approx(float((flat([a, b]) - before).norm()), rel=1e-5)
    assert found["parameter_norm"] == pytest.approx(float(flat([a, b]).norm()), rel=1e-5)
    assert list(found.parameters) == ["parameter 0 of group 0", "parameter 0 of group 1"]
    moments = flat(optimizer.state[p]["exp_avg"] for p in (a, b))
    cosine = torch.nn.functional.cosine_similarity(flat([a.grad, b.grad]), moments, dim=0)
    assert found["cosine"] == pytest.approx(float(cosine), rel=1e-5)


@pytest.mark.parametrize(("clip", "changed"), [(sr.clip_norm(max_norm=5.0), None), (sr.clip_value(limit=0.5), 0.5)])
def test_clipping_by_tensors_and_by_elements_is_told_as_a_whole(clip: Any, changed: float | None) -> None:
    optimizer = made(clip=clip, watch=["clip_coefficient", "clipped"], backend="eager")
    fill(optimizer)
    gradients = [p.grad.double() for p in optimizer.param_groups[0]["params"]]
    own = [g.clamp(-0.5, 0.5) if changed else g * min(1, 5 / (float(g.norm()) + 1e-6)) for g in gradients]
    optimizer.step()
    found = optimizer.gauges()
    assert found["clip_coefficient"] == pytest.approx(float(flat(own).norm() / flat(gradients).norm()), rel=1e-5)
    assert found["clipped"] == pytest.approx(float((flat(own) != flat(gradients)).double().mean()), rel=1e-5)


def test_a_gauge_that_a_rule_does_not_have_is_left_out_with_the_reason() -> None:
    optimizer = made(sr.board.sgd, watch=True, backend="eager")
    fill(optimizer)
    optimizer.step()
    told = optimizer.gauges().lacking
    assert set(told) == {"cosine", "clip_coefficient", "clipped"}
    assert "moving average" in told["cosine"]
    with pytest.raises(KeyError, match="moving average"):
        optimizer.gauges()["cosine"]


@pytest.mark.null
def test_the_first_moment_is_found_by_the_formula_and_else_by_name() -> None:
    found = {one.name: first_moment(one.graph) for one in (unknown, sr.board.adam, sr.board.momentum, sr.board.rmsprop)}
    assert {name: slot and slot.name for name, slot in found.items()} == {
        "unknown": "trail", "adam": "m", "momentum": "m", "rmsprop": None,
    }  # fmt: skip


@pytest.mark.null
def test_the_interpreter_defines_gauges() -> None:
    graph = watched(unknown.graph, ["update_norm", "cosine", "stalled"])
    theta, g = [1.0, -2.0], [3.0, 4.0]
    (found,) = evaluate_gauges(graph, [{"theta": theta, "g": g, "trail": [0.0, 0.0]}], [{"lr": 1.0, "keep": 0.0}])
    assert found == pytest.approx({"update_norm": math.sqrt(7), "cosine": 1.0, "stalled": 0.0, "stalled_trail": 0.0})


def test_the_option_is_checked_copied_and_can_be_set_later() -> None:
    with pytest.raises(HyperparameterError, match="no gauge 'update_nrm'"):
        made(watch=["update_nrm"])
    with pytest.raises(HyperparameterError, match="watch is 'update_norm'"):
        made(watch="update_norm")
    optimizer = made(sr.board.momentum, clip=1.0, backend="eager")
    fill(optimizer)
    optimizer.step()
    before = optimizer.state_dict()
    optimizer.watch = ["update_norm"]
    optimizer.step()
    assert set(optimizer.gauges()) == {"gradient_norm", "clip_coefficient", "clipped", "update_norm", "skipped"}
    assert optimizer.state_dict().keys() == before.keys()
    assert [own.keys() for own in optimizer.state_dict()["state"].values()] == [{"m"}] * 2
    assert copy.deepcopy(optimizer).watch == pickle.loads(pickle.dumps(optimizer)).watch == ("update_norm",)  # noqa: S301


def test_a_hook_gets_the_gauges_of_every_so_many_steps_until_it_is_removed() -> None:
    optimizer, seen = made(watch=["update_norm"], backend="eager"), list[sr.Gauges]()
    handle = optimizer.register_gauges_hook(seen.append, every=2)
    for _ in range(5):
        fill(optimizer)
        optimizer.step()
    assert [gauges.step for gauges in seen] == [2, 4]
    handle.remove()
    optimizer.step()
    assert len(seen) == 2
    with pytest.raises(HyperparameterError, match="every is 0"):
        optimizer.register_gauges_hook(seen.append, every=0)


def test_tensorboard_gets_what_was_measured_and_a_line_shows_trouble() -> None:
    class Writer(list[tuple[str, float, int]]):
        def add_scalar(self, tag: str, value: float, step: int) -> None:
            self.append((tag, value, step))

    writer, gauges = Writer(), sr.Gauges({"nonfinite": 2.0, "update_norm": math.nan}, {"a": {"nonfinite": 2.0}})
    write = sr.TensorBoardGauges(writer, first=7, parameters=True)
    write(gauges)
    write(sr.Gauges({"skipped": 1.0}, step=5))
    assert writer == [("gauges/nonfinite", 2.0, 8), ("nonfinite/a", 2.0, 8), ("gauges/skipped", 1.0, 12)]
    assert str(gauges) == "nonfinite 2  update_norm nan"
    assert gauges.__rich__().count("red") == 2
    assert "red" not in sr.Gauges({"nonfinite": 0.0, "stalled": 0.1}).__rich__()
