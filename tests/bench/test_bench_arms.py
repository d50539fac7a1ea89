"""Every arm computes the same update, and one that does not is found out and not timed."""

import shutil
from itertools import pairwise

import pytest
import torch

from steprule.bench import arms, conduct, stage, truth
from steprule.bench.cases import ALL, FRESH, SAME, Case
from steprule.bench.measure import Arm, Feed
from steprule.bench.models import MODELS
from steprule.bench.roofline import roofline, traffic
from steprule.bench.rules import CLIPS, GLOBAL_NORM, NO_CLIP, RULES
from steprule.bench.training import NOTHING, training_unit
from steprule.bench.workloads import Workload, gpt2, resnet18

SHAPES = Workload("a few", ((40, 30), (7,), (3, 5, 2), (1,)))
CASE = Case("test", "AdamW", GLOBAL_NORM, SHAPES, ALL, FRESH, (arms.OURS, arms.LOOP, arms.FUSED), 0.01)
OPTIONS = conduct.BenchOptions(threads=1, rounds=2)


def able(name, rule, clip):
    setting = arms.Conditions(rule, clip, SHAPES, threads=1, cores=1, quick=True)
    return arms.applies(name, rule, clip) and arms.missing(name, setting) is None


ALL_ABLE = [
    pytest.param(name, rule, clip, id=f"{name}, {rule.name}, {clip}")
    for name in (arms.OURS, *arms.PEERS)
    for rule in RULES.values()
    for clip in CLIPS
    if able(name, rule, clip)
]


@pytest.mark.cpu
@pytest.mark.parametrize(("name", "rule", "clip"), ALL_ABLE)
def test_arm_agrees_with_the_truth(name, rule, clip):
    unit = arms.build(name, rule, clip, arms.Tensors(SHAPES, rule.start, sets=0))
    assert truth.Trial(rule, clip, SHAPES).of(unit) <= truth.TOLERANCE


@pytest.mark.cpu
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_arm_agrees_with_the_truth():
    rule = RULES["AdamW"]
    unit = arms.build(arms.COMPILED, rule, GLOBAL_NORM, arms.Tensors(SHAPES, rule.start, sets=0))
    assert truth.Trial(rule, GLOBAL_NORM, SHAPES).of(unit) <= truth.TOLERANCE


@pytest.mark.cpu
@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
def test_a_missing_clipping_is_no_small_deviation(rule):
    """The truth tells apart what differs: clipped or not, a per cent of the rate, a rule's own coefficients."""
    trial = truth.Trial(rule, GLOBAL_NORM, SHAPES)
    unclipped = arms.build(arms.OURS, rule, NO_CLIP, arms.Tensors(SHAPES, rule.start, sets=0))
    assert trial.of(unclipped) > 100 * truth.TOLERANCE or rule.name == "Lion"
    tensors = arms.Tensors(SHAPES, rule.start, sets=0)
    optimizer = rule.make(list(tensors.parameters), GLOBAL_NORM)
    optimizer.param_groups[0]["lr"] *= 1.001
    assert trial.of(arms.Unit(optimizer.step, tensors.parameters)) > 50 * truth.TOLERANCE


@pytest.mark.cpu
def test_a_wrong_peer_is_refused_and_the_others_are_timed(monkeypatch):
    def wrong(rule, clip, tensors):
        return arms.fused(rule, NO_CLIP, tensors)

    monkeypatch.setitem(arms.BUILDERS, arms.FUSED, wrong)
    result = conduct.conduct(CASE, OPTIONS)
    refused = result.arms[arms.FUSED]
    assert refused.wrong
    assert refused.times is None
    assert "computes something else" in refused.skipped
    assert result.median(arms.OURS)
    assert result.median(arms.LOOP)
    assert result.wrong == [f"{arms.FUSED}: {refused.skipped}"]


@pytest.mark.cpu
def test_nothing_is_timed_when_we_are_wrong(monkeypatch):
    monkeypatch.setitem(arms.BUILDERS, arms.OURS, lambda rule, clip, tensors: arms.ours(rule, NO_CLIP, tensors))
    result = conduct.conduct(CASE, OPTIONS)
    assert result.median(arms.LOOP) is None
    assert "computes something else" in result.skipped


@pytest.mark.cpu
def test_a_peer_that_fails_is_left_out_with_its_reason(monkeypatch):
    def broken(rule, clip, tensors):
        raise RuntimeError("no such kernel\nand a long story")

    monkeypatch.setitem(arms.BUILDERS, arms.FUSED, broken)
    result = conduct.conduct(CASE, OPTIONS)
    assert result.arms[arms.FUSED].skipped == "it failed: RuntimeError: no such kernel"
    assert result.arms[arms.FUSED].failed
    assert result.median(arms.LOOP)
    assert not result.wrong


@pytest.mark.cpu
def test_a_case_without_memory_is_left_out_with_its_reason(monkeypatch):
    monkeypatch.setattr("steprule.bench.machine.available", lambda: 2**20)
    result = conduct.conduct(CASE, OPTIONS)
    assert result.skipped == "it needs 1 GiB, and 0 GiB are free"
    assert not result.arms


@pytest.mark.cpu
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
def test_roofline_moves_our_bytes(rule, clip):
    import steprule as sr

    passes = arms.passes(rule, clip)
    assert traffic(sr.explain(roofline(passes)).passes) == traffic(passes)


@pytest.mark.cpu
def test_gradients_are_new_tensors_or_stay_as_the_case_says():
    def seen(mode):
        tensors = arms.Tensors(SHAPES, 1.0, sets=3)
        first = tensors.parameters[0]
        found = []
        unit = arms.Unit(lambda: found.append((id(first.grad), first.grad[0, 0].item())), tensors.parameters)
        arm = Arm("test", [Feed(unit, tensors.gradients, mode)])
        for turn in range(3):
            arm.begin(turn)
            arm.round(2)
        return found

    same, fresh = seen(SAME), seen(FRESH)
    assert len({tensor for tensor, _ in same}) == 1
    assert [value for _, value in same][0::2] == [value for _, value in same][1::2]
    assert len({value for _, value in same}) == 3
    assert all(a[0] != b[0] and a[1] != b[1] for a, b in pairwise(fresh))


@pytest.mark.cpu
@pytest.mark.parametrize("model", MODELS)
def test_training_steps_train(model):
    """Every arm takes the same training steps; in float32 they stay together for a while."""
    rule = RULES["momentum"]
    ends = {}
    for name in (arms.OURS, arms.LOOP, arms.FUSED, NOTHING):
        unit = training_unit(name, model, rule, GLOBAL_NORM)
        start = [value.copy() for value in unit.values()]
        for _ in range(3):
            unit.step()
        ends[name] = unit.values()
    for name in (arms.OURS, arms.FUSED):
        assert truth.deviation(ends[name], ends[arms.LOOP], start) < 1e-3, name
    assert all((a == b).all() for a, b in zip(ends[NOTHING], start, strict=True))


@pytest.mark.null
def test_shapes_are_those_of_the_models():
    language_model, network = Workload("", gpt2()), Workload("", resnet18())
    assert (language_model.tensors, language_model.parameters) == (148, 124_439_808)
    assert (network.tensors, network.parameters) == (62, 11_689_512)


@pytest.mark.null
@pytest.mark.parametrize("shapes", [gpt2(), resnet18(), ((100_000_000,),)])
def test_thinned_shapes_are_few_numbers_but_enough_for_threads(shapes):
    thinned = Workload("", shapes).thin()
    assert thinned.tensors == len(shapes)
    assert 262_144 < thinned.parameters <= 800_000 or len(shapes) == 62
    assert all(len(a) == len(b) and all(map(int.__le__, a, b)) for a, b in zip(thinned.shapes, shapes, strict=True))


@pytest.mark.cpu
def test_large_tensors_are_made_anew_once_an_arm_has_blown_them_up():
    pool = stage.TensorPool()
    (first,) = pool.get(SHAPES, 1, 1)
    assert pool.get(SHAPES, 1, 1) == [first]
    first.gradients[0][0].fill_(float("nan"))
    (second,) = pool.get(SHAPES, 1, 1)
    assert second is not first
    assert torch.isfinite(second.gradients[0][0]).all()
