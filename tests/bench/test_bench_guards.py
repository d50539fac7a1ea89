"""Speed that no machine's mood can change: passes, bytes, launches, compilations and allocations are counted."""

import sys
import tracemalloc

import pytest
import torch

from steprule.backends.cache import counts
from steprule.backends.numba_cpu import CpuBatch
from steprule.bench import arms, cases, start
from steprule.bench.cases import FULL
from steprule.bench.roofline import traffic
from steprule.bench.rules import CLIPS, GLOBAL_NORM, NO_CLIP, RULES, TENSOR_NORM, VALUE
from steprule.bench.workloads import many

FLOOR = {"SGD": 12, "momentum": 20, "Nesterov": 20, "Adagrad": 20, "RMSProp": 20, "RMSProp centred": 28,
         "RMSProp momentum": 28, "Adam": 28, "AdamW": 28, "NAdam": 28, "Lion": 20}  # fmt: skip
"""Bytes a parameter in float32: the gradient read, the parameter and every slot read and written, once each."""
READS = {NO_CLIP: 0, VALUE: 0, GLOBAL_NORM: 1, TENSOR_NORM: 1}
"""How often the gradient must be read before its norm is known."""

everywhere = [pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name),
              pytest.mark.parametrize("clip", CLIPS)]  # fmt: skip


def each_rule_and_clip(test):
    for mark in everywhere:
        test = mark(test)
    return test


@pytest.mark.null
@each_rule_and_clip
def test_passes_and_bytes_are_the_fewest_possible(rule, clip):
    passes = arms.passes(rule, clip)
    assert len(passes) == 1 + READS[clip]
    assert traffic(passes) == FLOOR[rule.name] + 4 * READS[clip]
    assert rule.state_bytes == (FLOOR[rule.name] - 12) // 2


@pytest.mark.null
def test_every_case_is_one_of_those():
    told = {(case.rule, case.clip) for case in cases.cases(cases.NAMES, FULL)}
    assert {rule for rule, _ in told} == set(FLOOR)
    assert {clip for _, clip in told} == set(READS)


@pytest.mark.cpu
@each_rule_and_clip
def test_a_serial_step_is_one_launch(rule, clip, monkeypatch):
    """One call into machine code, however many tensors, passes and clippings."""
    tensors = arms.Tensors(many(20, 64), rule.start, sets=1)
    optimizer = rule.make(list(tensors.parameters), clip)
    unit = arms.Unit(optimizer.step, tensors.parameters)
    unit.place(tensors.gradients[0])
    unit.step()
    launches = []
    (batch,) = batches(optimizer)
    kernel = batch._function
    monkeypatch.setattr(batch, "_function", lambda *given: launches.append(batch._directory[-1]) or kernel(*given))
    unit.step()
    unit.step()
    assert launches == [-1, -1]


@pytest.mark.cpu
def test_a_step_makes_few_python_calls_however_many_tensors():
    """Each takes a twentieth of a microsecond or more, of ten that a small step has."""

    def calls(count):
        parameters = [torch.nn.Parameter(torch.zeros(64)) for _ in range(count)]
        optimizer = RULES["AdamW"].make(parameters, GLOBAL_NORM)
        made = []
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = torch.ones(64)
            made.clear()
            sys.setprofile(lambda frame, event, _: made.append(frame.f_code.co_name) if event == "call" else None)
            try:
                optimizer.step()
            finally:
                sys.setprofile(None)
        if optimizer._binding.why_slow:
            pytest.skip(optimizer._binding.why_slow)
        return made

    few = calls(2)
    assert len(few) <= 21, few  # 18, and what an older torch wraps
    assert len(calls(60)) <= len(few) + 1  # `fetch`


def batches(optimizer):
    found = [bucket.batch for bucket in optimizer._binding.buckets]
    assert all(isinstance(batch, CpuBatch) for batch in found)
    return found


@pytest.mark.cpu
def test_nothing_compiles_when_something_changes():
    """Learning rate, betas, bound, shapes, number of tensors, groups and threads are data."""
    rule = RULES["AdamW"]
    tensors = arms.Tensors(many(6, 64), 1.0, sets=0).parameters
    optimizer = rule.make(tensors[:4], GLOBAL_NORM)
    group = optimizer.param_groups[0]

    def step():
        for each in optimizer.param_groups:
            for parameter in each["params"]:
                parameter.grad = torch.randn_like(parameter)
        optimizer.step()

    def reshape():
        tensors[0].data = torch.randn(700, 500)
        optimizer.state.pop(tensors[0])

    step()
    before = counts.compiled, counts.loaded
    for change in (
        lambda: group.update(lr=0.7),
        lambda: group.update(lr=torch.tensor(0.3)),
        lambda: group.update(betas=(0.5, 0.6)),
        lambda: group.update(eps=1e-5, weight_decay=0.3),
        lambda: group.update(max_norm=0.01),
        reshape,
        lambda: optimizer.add_param_group({"params": tensors[4:5], "lr": 0.1}),
        lambda: optimizer.add_param_group({"params": tensors[5:], "weight_decay": 0.2}),
        lambda: torch.set_num_threads(2),
        lambda: group["params"].pop(),
    ):
        change()
        step()
    assert (counts.compiled, counts.loaded) == before


@pytest.mark.cpu
@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events:UserWarning")  # torch 2.10's
@each_rule_and_clip
def test_a_step_allocates_nothing_that_grows_with_parameters(rule, clip):
    tensors = arms.Tensors(many(2, 1_000_000), rule.start, sets=1)
    unit = arms.ours(rule, clip, tensors)
    unit.place(tensors.gradients[0])
    unit.step()
    unit.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        unit.step()
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in seen.events())
    tracemalloc.start()
    try:
        unit.step()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert allocated < 1000, "bytes of tensors"
    assert peak < 20_000, "bytes of Python objects and NumPy arrays"


@pytest.mark.cpu
@pytest.mark.slow
def test_fresh_processes_compile_once_and_take_no_memory_besides_state():
    compiled = start.changes()
    # The rule's kernel, and the loop that looks before every launch.
    assert compiled == {key: 2 * (key == "the first step") for key in compiled}
    found = {}
    for key, part in start.parts(FULL, quick=True):
        if key == f"memory: {arms.OURS}":
            start.collect(found, key, part)
    assert abs(found["extra_bytes_per_parameter"][arms.OURS]) < 0.5


@pytest.mark.null
def test_what_fails_in_a_fresh_process_is_told():
    found = {}
    start.collect(found, "import_seconds", lambda: start._run(["-c", "raise SystemExit('no such thing')"]))
    assert "no such thing" in found["import_seconds"]["skipped"]
