"""Timing on a GPU: all that can be tested without one, on tensors in main memory; with one, a whole run."""

import json
import time
from types import SimpleNamespace

import pytest
import torch
from test_bench_cli import FIELDS, MACHINE, TIMED
from tiny_scale import TINY

import steprule as sr
from steprule.__main__ import main
from steprule.bench import arms, cases, conduct, gpu, measure, run
from steprule.bench.arms import COMPILED, COPY, FOREACH, FUSED, ON_GPU, OURS
from steprule.bench.measure import EventArm, Feed
from steprule.bench.roofline import traffic
from steprule.bench.rules import CLIPS, RULES
from steprule.bench.workloads import many

needs_none = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: `-m gpu` runs on it")
needs_one = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Event:
    """A mark on a clock of the test's own, which has no time until somebody has waited for the last one."""

    log: tuple[str, ...] = ()

    def __init__(self):
        self.at = None

    def record(self):
        self.at = time.perf_counter()
        type(self).log += ("record",)

    def synchronize(self):
        assert self.at is not None
        type(self).log += ("wait",)

    def elapsed_time(self, end):
        assert "wait" in self.log
        return 1e3 * (end.at - self.at)


@pytest.fixture
def events(monkeypatch):
    monkeypatch.setattr(Event, "log", ())
    monkeypatch.setattr(measure, "event", Event)
    return Event


@pytest.mark.null
def test_steps_are_timed_between_events_and_the_host_waits_once_a_round(events, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def step():
        events.log += ("step",)
        now[0] += 0.25

    class Slow(arms.Unit):
        def place(self, prepared):
            now[0] += 100.0  # is not counted

    unit = Slow(step, [])
    arm = EventArm("test", [Feed(unit, [[], []], "fresh")])
    assert arm.round(3) == pytest.approx(0.25)
    assert events.log == (*("record", "step", "record") * 3, "wait")
    assert arm.taken == 3


@pytest.mark.null
def test_cases_on_a_gpu_are_those_of_the_suites_without_threads():
    found = cases.cases(cases.GPU_NAMES, cases.FULL, gpu.DEVICE)
    assert len(found) == len(set(found)) < len(cases.cases(cases.GPU_NAMES, cases.FULL))
    assert {case.suite for case in found} == set(cases.GPU_NAMES)
    assert {case.device for case in found} == {"cuda"}
    assert all("on the GPU" in case.name for case in found)
    assert all(case.arms == (ON_GPU if RULES[case.rule].torch else (OURS, COPY)) for case in found)
    sizes = {(case.workload.tensors, case.workload.parameters) for case in found}
    assert {(60, 1_000_020), (1000, 4_096_000), (148, 124_439_808)} <= sizes
    assert {case.device for case in cases.cases(cases.NAMES, cases.FULL)} == {"cpu"}


@pytest.mark.cpu
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
def test_the_copy_moves_the_bytes_of_our_passes(rule, clip):
    tensors = arms.Tensors(many(3, 70), 1.0, sets=0)
    unit = arms.build(COPY, rule, clip, tensors)
    copied = unit.step()
    assert 2 * copied.nbytes == traffic(arms.passes(rule, clip)) * 210
    assert (copied == 0).all()


@pytest.mark.null
def test_a_compiled_step_keeps_its_numbers_on_the_device_where_torch_lets_it():
    away = torch.device("meta")
    told = arms._when_compiled(RULES["AdamW"], away)
    assert (told["capturable"], told["foreach"], told["lr"].device.type) == (True, True, "meta")
    assert arms._when_compiled(RULES["SGD"], away) == {"foreach": True}
    setting = arms.Conditions(RULES["AdamW"], "none", many(61, 4), 1, 1, device="cuda")
    assert "61 tensors" in arms.missing(COMPILED, setting)


@needs_none
@pytest.mark.null
def test_without_a_gpu_the_error_says_what_where_and_what_to_do(tmp_path, capsys):
    out = tmp_path / "there"
    assert main(["bench", "--device", "cuda", "--out", str(out)]) == 2
    what, where, fix = capsys.readouterr().err.splitlines()
    assert what.startswith("steprule: error: there is no GPU to time: torch ")
    assert where == "steprule bench --device cuda"
    assert fix.startswith("help: leave out --device to time the CPU")
    assert not out.exists()


@pytest.mark.null
def test_a_gpu_on_which_our_kernels_cannot_run_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "DEVICE", "meta")
    with pytest.raises(sr.errors.BackendError, match="cannot run here: a parameter is on the meta device") as caught:
        gpu.require()
    assert "steprule[gpu]" in caught.value.fix
    assert caught.value.where == "steprule bench --device cuda"


@pytest.mark.null
def test_the_gpu_is_named_as_torch_tells(monkeypatch):
    pytest.importorskip("triton")
    told = SimpleNamespace(name="Made Up 100", major=9, minor=0, multi_processor_count=4, total_memory=2**34)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: told)
    found = gpu.facts()
    assert set(found) == set(FACTS)
    assert (found["name"], found["capability"], found["memory"], found["cache"]) == ("Made Up 100", "9.0", 2**34, None)
    told.L2_cache_size = 2**25
    assert gpu.cache() == 2**25
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 50)
    assert gpu.available() == 120


FACTS = {"name": "Made Up 100", "capability": "9.0", "multiprocessors": 1, "cache": 2**16, "memory": 2**34,
         "cuda": "12.8", "triton": "3.5.0"}  # fmt: skip


@pytest.mark.cpu
def test_a_whole_run_on_tensors_in_main_memory(events, monkeypatch, tmp_path, capsys):
    """What is timed here says nothing: events are the host's clock, and kernels the CPU's."""

    def here(workload, start, sets, device, precision):
        assert device == "cuda"
        return arms.Tensors(workload, start, sets, "cpu", precision)

    monkeypatch.setattr(run, "QUICK", TINY)
    monkeypatch.setattr(conduct, "Tensors", here)
    monkeypatch.setattr(gpu, "require", lambda: None)
    monkeypatch.setattr(gpu, "facts", lambda: FACTS)
    monkeypatch.setattr(gpu, "cache", lambda: 2**16)
    monkeypatch.setattr(gpu, "available", lambda: 2**40)
    command = f"bench --quick --device cuda --suite small,resnet,clipping --rounds 2 --no-progress --out {tmp_path}"
    monkeypatch.setenv("COLUMNS", "160")
    assert main(command.split()) == 0
    record = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    check(record)
    assert record["machine"]["gpu"] == FACTS
    printed = capsys.readouterr().out
    assert "on the GPU" in " ".join(printed.split())
    assert "of ours" in printed
    assert "Made Up 100, CUDA 12.8" in (tmp_path / "bench.svg").read_text(encoding="utf-8")


def check(record):
    assert record["complete"]
    assert "event" in record["method"]
    assert set(record["machine"]) == MACHINE
    for case in record["cases"]:
        assert set(case) == FIELDS, case["name"]
        assert case["device"] == "cuda"
        timed = {name for name, arm in case["arms"].items() if "skipped" not in arm}
        if case["rule"] in {"SGD", "AdamW", "momentum"}:
            assert timed >= {OURS, FOREACH, FUSED, COPY}, case["name"]
        assert timed >= {OURS, COPY}
        for name in timed:
            assert set(case["arms"][name]) >= TIMED
            assert name == COPY or case["arms"][name]["deviation"] <= 1e-5, (case["name"], name)


@needs_one
@pytest.mark.gpu
def test_a_whole_run_on_the_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "QUICK", TINY)
    command = f"bench --quick --device cuda --rounds 2 --no-progress --out {tmp_path}"
    assert main(command.split()) == 0
    record = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    check(record)
    assert record["machine"]["gpu"]["name"] == torch.cuda.get_device_name()


@needs_one
@pytest.mark.gpu
def test_events_see_the_work_that_the_host_does_not_wait_for():
    size = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(size)
    arm = EventArm("test", [Feed(arms.Unit(lambda: other.copy_(size), []))])
    arm.round(3)
    assert arm.round(10) > 2 * 2**28 / 20e12  # no memory moves 20 TB/s


@needs_one
@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rule", ["AdamW", "SGD", "RMSProp"])
def test_a_compiled_step_on_the_gpu_agrees_with_the_truth(rule):
    from steprule.bench import truth

    own, shapes = RULES[rule], many(3, 70)
    unit = arms.build(COMPILED, own, "global norm", arms.Tensors(shapes, own.start, 0, "cuda"))
    assert truth.Trial(own, "global norm", shapes).of(unit) <= truth.TOLERANCE
