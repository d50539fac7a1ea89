"""The suite of 16-bit parameters: every way to keep them agrees with float64, and what it must be worth is told."""

import json

import pytest
import torch

from steprule.bench import arms, bars, conduct, truth
from steprule.bench.arms import FOREACH, FUSED, FUSED_WIDE, LOOP, ON_HALF, OURS, SCALED, STOCHASTIC_WIDE, STORAGE, WIDE
from steprule.bench.cases import ALL, FRESH, FULL, LIST, LORA, NAMES, ONE, Case, cases
from steprule.bench.measure import spread
from steprule.bench.precision import BFLOAT16, FLOAT16, FLOAT32
from steprule.bench.record import Record
from steprule.bench.record import case as told_of
from steprule.bench.rules import GLOBAL_NORM, NO_CLIP, RULES
from steprule.bench.units import Tensors
from steprule.bench.workloads import Workload, many

SHAPES = Workload("a few", ((40, 30), (7,), (3, 5, 2), (1,)))
RULE = RULES["AdamW"]
CHECKED = [
    pytest.param(name, precision, id=f"{name}, {precision.name}")
    for precision, names in ((BFLOAT16, ON_HALF), (FLOAT16, (OURS, WIDE, LOOP, FOREACH, FUSED, SCALED, FUSED_WIDE)))
    for name in names
    if name != arms.ROOFLINE
]
"""A kernel takes a second to compile; what differs in float16 is tested where the kernels are."""
TYPES = pytest.mark.parametrize("precision", [BFLOAT16, FLOAT16], ids=lambda precision: precision.name)


def off(unit, precision):
    return truth.Trial(RULE, GLOBAL_NORM, SHAPES, precision).of(unit)


@pytest.mark.cpu
@pytest.mark.parametrize(("name", "precision"), CHECKED)
def test_arm_agrees_with_the_truth(name, precision):
    unit = arms.build(name, RULE, GLOBAL_NORM, Tensors(SHAPES, RULE.start, sets=0, precision=precision))
    assert off(unit, precision) <= (FLOAT32 if name == FUSED_WIDE else precision).tolerance


@pytest.mark.cpu
@TYPES
def test_narrow_types_hide_neither_a_missing_clipping_nor_a_wrong_rate(precision):
    for bound, rate in ((1.0, 1.02), (1e6, 1.0)):
        tensors = Tensors(SHAPES, RULE.start, sets=0, precision=precision)
        optimizer = RULE.make(list(tensors.parameters), GLOBAL_NORM, bound * tensors.bound)
        optimizer.param_groups[0]["lr"] *= rate
        assert off(arms.Unit(optimizer.step, tensors.parameters), precision) > precision.tolerance


@pytest.mark.null
def test_parameters_and_gradients_are_narrow_and_the_yardstick_has_the_same_numbers():
    tensors = Tensors(many(3, 64), 1.0, sets=1, precision=FLOAT16)
    assert {tensor.dtype for group in tensors.everything() for tensor in group} == {torch.float16}
    assert tensors.bound == 0.5 * (3 * 64) ** 0.5
    unit = arms.build(FUSED_WIDE, RULE, GLOBAL_NORM, tensors)
    prepared = unit.prepare(tensors.gradients[0])
    assert {gradient.dtype for gradient in prepared} == {torch.float32}
    for own, given in zip(unit.values(), tensors.parameters, strict=True):
        assert torch.equal(torch.from_numpy(own).half(), given)
    assert tensors.widened().bound == tensors.bound
    assert Tensors(many(3, 64), 1.0, sets=0).bound == 1.0


@pytest.mark.null
def test_the_suite_has_every_shape_type_clipping_and_thread_count():
    found = cases(("half",), FULL)
    assert len(found) == len(set(found)) == 2 * 5 * 2 * 2
    assert {(case.precision.name, case.clip, case.threads) for case in found} == {
        (name, clip, threads) for name in ("bfloat16", "float16") for clip in (GLOBAL_NORM, NO_CLIP)
        for threads in (ONE, ALL)
    }  # fmt: skip
    sizes = {(case.workload.tensors, case.workload.parameters) for case in found}
    assert sizes == {(17, 17 * 2**22), (62, 11_689_512), (6, 384), (60, 245_760), (64, 2**18)}
    assert {case.precision for case in cases(NAMES, FULL) if case.suite != "half"} == {FLOAT32}
    assert found[0].name == "bfloat16 AdamW + clip global norm, list 71M, one thread"


@pytest.mark.null
def test_a_run_fits_into_the_memory_of_a_small_machine():
    case = cases(("half",), FULL)[0]
    names = [name for name in case.arms if name != SCALED]
    size = case.workload.parameters
    assert 2**32 < conduct.need(case, names, slots=2, count=1) < 8 * 2**30
    assert conduct.need(case, [OURS], 2, 1) == 2 * size * (1 + 2 + 2)
    assert conduct.need(case, [STOCHASTIC_WIDE], 2, 1) == size * (2 * 3 + 8)
    assert conduct.need(case, [FUSED_WIDE], 2, 1) == size * (2 * 3 + 8 + 4 * 3)


# What it must be worth --------------------------------------------------------------------------------


@pytest.mark.null
def test_every_bar_is_about_a_case_that_is_run_and_arms_that_take_part():
    named = {(case.precision.name, case.workload.name, case.threads): case for case in cases(("half",), FULL)}
    assert set(bars._CLIPPED) <= set(named)
    for case in cases(("half",), FULL):
        own = bars.bars(case)
        assert {bar.own for bar in own} | {bar.peer for bar in own} <= set(case.arms)
        assert len(set(own)) == len(own)
        never = {(bar.own, bar.peer) for bar in own if bar.least == 1}
        assert never == {(name, peer) for name in (OURS, *STORAGE) for peer in (LOOP, FOREACH)}
    assert sum(bar.least > 1 for case in cases(("half",), FULL) for bar in bars.bars(case)) == 5 + 2 + 10
    assert not any(bars.bars(case) for case in cases(NAMES, FULL) if case.suite != "half")


CASE = Case("half", "AdamW", GLOBAL_NORM, LIST, ALL, FRESH, (OURS, FUSED, FUSED_WIDE, LOOP), 1.0, precision=BFLOAT16)


def made_up(seconds, busy=0.0):
    """Return the record's case of made-up seconds, an arm and a number each, the same in three rounds."""
    result = conduct.Result(CASE, threads=2, bytes_per_parameter=16)
    times = {name: [value] * 3 for name, value in seconds.items()}
    for name, values in times.items():
        result.arms[name] = conduct.Outcome(spread(values), spread([1.0]), 1, 0.01)
    result.bars = bars.measured(CASE, times)
    told = json.loads(json.dumps(told_of(result)))
    return told | {"load": {"cores": 2, "threads": 2, "others": busy, "waited": 0.0}}


SECONDS = {OURS: 1.0, STOCHASTIC_WIDE: 1.0, FUSED: 2.0, FUSED_WIDE: 1.75, LOOP: 5.0, FOREACH: 0.5}


@pytest.mark.null
def test_a_bar_is_met_or_missed_by_the_medians_and_a_busy_machine_says_nothing():
    told = made_up(SECONDS)
    found = {(bar["own"], bar["peer"]): (bar["least"], bars.verdict(told, bar)) for bar in told["bars"]}
    assert found == {
        (STOCHASTIC_WIDE, FUSED_WIDE): (1.7, "met"),
        (OURS, LOOP): (1.0, "met"),
        (OURS, FOREACH): (1.0, "**missed**"),
        (STOCHASTIC_WIDE, LOOP): (1.0, "met"),
        (STOCHASTIC_WIDE, FOREACH): (1.0, "**missed**"),
    }
    slow = made_up(SECONDS | {FUSED_WIDE: 1.69})
    assert next(bars.verdict(slow, bar) for bar in slow["bars"]) == "**missed**"
    noisy = made_up(SECONDS, busy=1.5)
    assert {bars.verdict(noisy, bar) for bar in noisy["bars"]} == {"?"}


@pytest.mark.null
def test_the_page_shows_each_bar_and_of_the_never_slower_those_that_are():
    lines = bars.bar_lines([made_up(SECONDS)])
    assert f"| {CASE.name} | {STOCHASTIC_WIDE} | {FUSED_WIDE} | 1.7 | 1.75 (1.75 – 1.75) | met |" in lines
    assert f"| {CASE.name} | {OURS} | {FOREACH} | 1 | 0.50 (0.50 – 0.50) | **missed** |" in lines
    assert not any(f"| {LOOP} |" in line for line in lines)
    assert lines[-1].endswith("2 of 4 comparisons; the least ratio is 0.50.")
    assert bars.bar_lines([{"name": "an older record"}]) == []
    assert list(bars.missed({"cases": [made_up(SECONDS)]})) == [
        f"{name} against {FOREACH}, {CASE.name}: 0.50 of 1" for name in (OURS, STOCHASTIC_WIDE)
    ]


@pytest.mark.cpu
def test_a_case_is_timed_and_recorded_with_its_type_and_bars():
    case = Case("half", "AdamW", GLOBAL_NORM, LORA, ONE, FRESH, (OURS, LOOP, FUSED_WIDE), 0.01, precision=BFLOAT16)
    record = Record("steprule bench", {"cpu": "made up"})
    record.results = [conduct.conduct(case, conduct.BenchOptions(threads=1, rounds=1))]
    (told,) = json.loads(record.text())["cases"]
    assert told["dtype"] == "bfloat16"
    assert told["bytes_per_parameter"] == 16
    assert [(bar["own"], bar["peer"], bar["least"]) for bar in told["bars"]] == [(OURS, LOOP, 1.0)]
    ratio = told["arms"][LOOP]["microseconds"]["median"] / told["arms"][OURS]["microseconds"]["median"]
    assert told["bars"][0]["ratio"]["median"] == pytest.approx(ratio, rel=1e-3)
    assert "gigabytes_per_second" not in told["arms"][FUSED_WIDE]
    assert "bfloat16" in json.loads(record.text())["method"]
