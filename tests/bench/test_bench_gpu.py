"""Timing on a GPU: all that can be tested without one, on tensors in main memory; with one, a whole run."""

import importlib.util
import io
import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from test_bench_cli import FIELDS, MACHINE, TIMED
from tiny_scale import TINY

import steprule as sr
from steprule.__main__ import main
from steprule.bench import arms, cases, gpu, graphs, run, truth
from steprule.bench.arms import (
    COMPILED,
    COMPILERS,
    COPY,
    FOREACH,
    FUSED,
    FUSED_GRAPHED,
    FUSED_WIDE,
    GRAPHED,
    ON_GPU,
    OURS,
    PEERS,
    REDUCED,
    SCALED,
    STORAGE,
)
from steprule.bench.conduct import BenchOptions, copies
from steprule.bench.gpu import Gpu
from steprule.bench.gpu_table import gpu_table
from steprule.bench.measure import Effort, EventArm, Feed, interleave
from steprule.bench.picture import picture
from steprule.bench.roofline import traffic
from steprule.bench.rules import CLIPS, GLOBAL_NORM, RULES
from steprule.bench.units import drawn_on
from steprule.bench.workloads import many

ROOT = Path(__file__).parents[2]

needs_none = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: `-m gpu` runs on it")
needs_one = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Event:
    """A mark on a clock of the test's own, which has no time until somebody has waited for the last one."""

    log: tuple[str, ...] = ()
    clock = staticmethod(time.perf_counter)

    def __init__(self):
        self.at = None

    def record(self):
        self.at = self.clock()
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
    return Event


@pytest.mark.null
def test_steps_are_timed_between_events_and_the_host_waits_once_a_round(events, monkeypatch):
    now, there = [0.0], [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(events, "clock", staticmethod(lambda: there[0]))

    def step():
        events.log += ("step",)
        now[0] += 0.25  # until it has returned
        there[0] += 1.5  # until the GPU has done it

    class Slow(arms.Unit):
        def place(self, prepared):
            now[0] += 100.0  # is not counted
            there[0] += 100.0

    unit = Slow(step, [])
    arm = EventArm("test", [Feed(unit, [[], []], "fresh")], events)
    assert arm.round(3) == pytest.approx(1.5)
    assert arm.returned == pytest.approx(0.25)
    assert events.log == (*("record", "step", "record") * 3, "wait")
    assert arm.taken == 3
    assert arm.host == []
    arm.timed(1)
    assert arm.host == pytest.approx([0.25])


# The cases --------------------------------------------------------------------------------------------


@pytest.mark.null
def test_cases_on_a_gpu_are_those_of_the_suites_without_threads():
    found = cases.cases(cases.GPU_NAMES, cases.FULL, gpu.DEVICE)
    assert len(found) == len(set(found)) < len(cases.cases(cases.GPU_NAMES, cases.FULL))
    assert {case.suite for case in found} == set(cases.GPU_NAMES)
    assert {case.device for case in found} == {"cuda"}
    assert all("on the GPU" in case.name for case in found)
    wide = [case for case in found if case.suite != "half"]
    assert all(case.arms == (ON_GPU if RULES[case.rule].torch else (OURS, COPY)) for case in wide)
    assert {case.arms for case in found if case.suite == "half"} == {cases.HALF_ON_GPU}
    sizes = {(case.workload.tensors, case.workload.parameters) for case in found}
    assert {(60, 1_000_020), (1000, 4_096_000), (148, 124_439_808)} <= sizes
    assert {case.device for case in cases.cases(cases.NAMES, cases.FULL)} == {"cpu"}


@pytest.mark.null
def test_the_scale_of_a_gpu_has_what_matters_first_and_fits_its_time():
    found = cases.cases(cases.RANKED_NAMES, cases.RANKED, gpu.DEVICE)
    assert len({case.name for case in found}) == len(found)
    assert {case.device for case in found} == {"cuda"}
    assert {case.suite for case in found} == set(cases.RANKED_NAMES)
    first = found[0]
    assert (first.rule, first.clip, first.workload.name) == ("AdamW", GLOBAL_NORM, "GPT-2 124M")
    assert {OURS, GRAPHED, FOREACH, FUSED, SCALED, FUSED_GRAPHED, COPY} <= set(first.arms)
    sizes = {(case.workload.tensors, case.workload.parameters) for case in found}
    assert {(148, 124_439_808), (1, 10**8), (62, 11_689_512), (60, 3840), (1000, 64_000), (1000, 4_096_000)} <= sizes
    assert {case.rule for case in found if case.workload.parameters > 124e6} == set(RULES)
    compiling = [case for case in found if COMPILERS & set(case.arms)]
    assert {case.workload.tensors for case in compiling} == {1, 6, 60}  # few: there it is a fair peer
    (half,) = (case for case in found if case.precision.bytes == 2)
    assert {OURS, *STORAGE, FUSED, FUSED_WIDE} <= set(half.arms)
    within, options = 0.0, BenchOptions(1, device="cuda", scale="gpu")
    for case in found:
        within += run._seconds(case, options)
        assert within <= 190 or case.suite != "rules"  # what a command that also runs tests has left
    assert 120 < run.estimate(cases.RANKED_NAMES, options) <= 300
    assert [case.name for case in cases.cases(("resnet",), cases.RANKED, gpu.DEVICE)] == [
        case.name for case in found if case.suite == "resnet"
    ]


@pytest.mark.null
def test_working_sets_on_a_gpu_are_four_times_its_cache():
    cache = 50 * 2**20
    for case in cases.cases(cases.RANKED_NAMES, cases.RANKED, gpu.DEVICE):
        held = copies(case, 2, cache) * case.workload.parameters * 4 * case.precision.bytes
        assert held >= 4 * cache or not case.workload.memory_bound
        assert case.workload.memory_bound == (case.workload.parameters > 2**21)


@pytest.mark.null
def test_only_what_no_truth_is_known_of_is_drawn_on_the_gpu():
    for case in cases.cases(cases.GPU_NAMES, cases.FULL, "cuda"):
        assert drawn_on(case.workload, "cuda") == ("cuda" if case.workload.memory_bound else "cpu")
        assert drawn_on(case.workload.thin(), "cuda") == "cpu"


# The arms ---------------------------------------------------------------------------------------------


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


def conditions(rule="AdamW", tensors=6, **more):
    return arms.Conditions(RULES[rule], GLOBAL_NORM, many(tensors, 4), 1, 1, device="cuda", **more)


@pytest.mark.null
@pytest.mark.parametrize("name", sorted(COMPILERS))
def test_compilers_take_part_where_they_are_done_in_time(name):
    assert arms.missing(name, conditions()) is None
    assert "61 tensors" in arms.missing(name, conditions(tensors=61))
    assert "each of 3 working sets" in arms.missing(name, conditions(copies=3))
    assert "rehearsal" in arms.missing(name, conditions(rehearsed=True))


@pytest.mark.null
def test_a_peer_that_torch_has_not_on_a_gpu_is_left_out_with_the_reason(monkeypatch):
    assert arms.missing(FUSED, conditions("RMSProp")) == "torch has no fused RMSprop on a GPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    there = SimpleNamespace(_dispatch_has_kernel_for_dispatch_key=lambda name, _: name == "aten::_fused_adamw_")
    monkeypatch.setattr(arms, "import_module", lambda _: there)
    assert arms.missing(FUSED, conditions()) is None
    assert arms.missing(FUSED_GRAPHED, conditions("Adagrad")) == "torch has no fused Adagrad on a GPU"
    assert "no capturable" in arms.missing(GRAPHED, conditions("SGD"))
    assert arms.missing(GRAPHED, conditions()) is None


@pytest.fixture
def recorded(monkeypatch):
    """Let graphs be recorded as on a GPU: the step is not taken, and a replay does what it did then."""
    log = []

    def record(step, device):
        log.append("record")
        return lambda: (log.append("replay"), step())[1]

    monkeypatch.setattr(graphs, "record", record)
    return log


@pytest.mark.cpu
@pytest.mark.parametrize("name", [GRAPHED, FUSED_GRAPHED])
def test_a_graphed_arm_is_recorded_at_its_second_step_and_agrees_with_the_truth(name, recorded):
    rule, shapes = RULES["AdamW"], many(3, 70)
    unit = arms.build(name, rule, GLOBAL_NORM, arms.Tensors(shapes, rule.start, 0))
    assert truth.Trial(rule, GLOBAL_NORM, shapes).of(unit) <= truth.TOLERANCE
    assert recorded == ["record", "replay", "replay"]


@pytest.mark.cpu
def test_a_graph_that_does_not_count_its_steps_is_found_out(monkeypatch):
    rule, shapes = RULES["AdamW"], many(3, 70)
    tensors = arms.Tensors(shapes, rule.start, 0)
    optimizer = torch.optim.AdamW(tensors.parameters, lr=rule.lr, fused=True, **rule.options)

    def record(step, device):
        count = next(iter(optimizer.state.values()))["step"].clone()

        def replay():
            for state in optimizer.state.values():
                state["step"].copy_(count)
            step()

        return replay

    monkeypatch.setattr(graphs, "record", record)
    unit = graphs.GraphedUnit(arms.Unit(optimizer.step, tensors.parameters))
    assert truth.Trial(rule, "none", shapes).of(unit) > 10 * truth.TOLERANCE


@pytest.mark.null
@pytest.mark.parametrize("spoils", [False, True])
def test_a_recording_that_fails_raises_what_the_step_raised_and_leaves_the_stream(spoils, monkeypatch):
    streams, replay = ["first"], lambda: None

    @contextmanager
    def graph(_):
        streams.append("the recording's")
        try:
            yield
        finally:
            if spoils:
                raise RuntimeError("operation failed due to a previous error during capture")
            streams.append("first")

    def fails():
        raise NotImplementedError("no such kernel")

    cuda = {"CUDAGraph": lambda: SimpleNamespace(replay=replay), "graph": graph, "set_stream": streams.append}
    for name, fake in {**cuda, "current_stream": lambda _: streams[-1]}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    with pytest.raises(NotImplementedError, match="no such kernel"):
        graphs.record(fails, torch.device("cuda"))
    assert streams[-1] == "first"
    if not spoils:
        assert graphs.record(lambda: None, torch.device("cuda")) is replay


@pytest.mark.null
def test_gradients_of_a_graph_stay_the_same_tensors_and_hold_each_rounds_values(recorded, monkeypatch):
    tensors, seen = arms.Tensors(many(2, 3), 1.0, sets=2), []
    first = tensors.parameters[0]
    inner = arms.Unit(lambda: seen.append((first.grad.data_ptr(), first.grad[0].item())), tensors.parameters)
    arm, begun = EventArm("test", [Feed(graphs.GraphedUnit(inner), tensors.gradients, "fresh")], Event), []
    refill = graphs.GraphedUnit.refill
    monkeypatch.setattr(
        graphs.GraphedUnit, "refill", lambda self, given: (begun.append(len(seen)), refill(self, given))
    )
    interleave([arm], Effort(0.1, rounds=3), pause=0.0)
    assert len(begun) == 2 + 3 < len(seen)  # at the beginning of a round, where a step that copied would be waited for
    assert len({place for place, _ in seen}) == 1
    assert {value for _, value in seen} == {given[0][0].item() for given in tensors.gradients}
    assert seen[0][0] not in {given[0].data_ptr() for given in tensors.gradients}


@pytest.mark.null
def test_a_reduced_arm_compiles_in_its_mode_and_tells_that_its_gradients_stay(monkeypatch):
    modes, marked = [], []
    monkeypatch.setattr(torch, "compile", lambda **how: modes.append(how) or (lambda step: step))
    told = SimpleNamespace(mark_static_address=lambda tensor: marked.append(tensor.data_ptr()))
    monkeypatch.setattr(graphs, "import_module", lambda _: told)
    tensors = arms.Tensors(many(2, 3), 1.0, sets=1)
    unit = arms.build(REDUCED, RULES["AdamW"], GLOBAL_NORM, tensors)
    for _ in range(2):
        unit.place(tensors.gradients[0])
        unit.step()
    assert modes == [{"dynamic": False, "mode": "reduce-overhead"}]
    assert marked == [parameter.grad.data_ptr() for parameter in tensors.parameters]


# The GPU ----------------------------------------------------------------------------------------------


@needs_none
@pytest.mark.null
@pytest.mark.parametrize("flag", ["--device cuda", "--scale gpu"])
def test_without_a_gpu_the_error_says_what_where_and_what_to_do(flag, tmp_path, capsys):
    out = tmp_path / "there"
    assert main(["bench", *flag.split(), "--out", str(out)]) == 2
    what, where, fix = capsys.readouterr().err.splitlines()
    assert what.startswith("steprule: error: there is no GPU to time: torch ")
    assert where == f"steprule bench {flag}"
    assert fix.startswith(f"help: leave out {flag.split()[0]} to time the CPU")
    assert not out.exists()


@pytest.mark.null
def test_a_gpu_on_which_our_kernels_cannot_run_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Gpu, "place", "meta")
    with pytest.raises(sr.errors.BackendError, match="cannot run here: a parameter is on the meta device") as caught:
        Gpu().require()
    assert "steprule[gpu]" in caught.value.fix
    assert caught.value.where == "steprule bench --device cuda"


STATE = {"driver", "sm_megahertz", "sm_megahertz_at_most", "memory_megahertz", "power_limit_watts", "celsius"}
FACTS = {"name", "capability", "multiprocessors", "cache", "memory", "cuda", "triton"} | STATE


@pytest.mark.null
def test_the_gpu_is_named_as_torch_tells(monkeypatch):
    pytest.importorskip("triton")
    told = SimpleNamespace(name="Made Up 100", major=9, minor=0, multi_processor_count=4, total_memory=2**34)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: told)
    monkeypatch.setattr(gpu, "smi", lambda uuid: dict.fromkeys(STATE, f"of {uuid}"))
    found = Gpu().facts()
    assert set(found) == FACTS
    assert (found["name"], found["capability"], found["memory"]) == ("Made Up 100", "9.0", 2**34)
    assert found["cache"] == gpu.ASSUMED_CACHE
    told.L2_cache_size, told.uuid = 2**25, "1-2-3"
    assert (Gpu().cache(), Gpu().facts()["driver"]) == (2**25, "of 1-2-3")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 50)
    assert Gpu().available() == 120


@pytest.mark.null
def test_driver_clocks_power_and_temperature_are_those_that_nvidia_smi_tells(monkeypatch):
    asked = []

    def answer(line, timeout, **_):
        asked.append((line, timeout))
        return SimpleNamespace(stdout="575.57.08, 1980, [N/A], 2619, 700.00, 41\n")

    monkeypatch.setattr(subprocess, "run", answer)
    assert gpu.smi("1-2") == {
        "driver": "575.57.08",
        "sm_megahertz": 1980.0,
        "sm_megahertz_at_most": "unknown",
        "memory_megahertz": 2619.0,
        "power_limit_watts": 700.0,
        "celsius": 41.0,
    }
    ((line, timeout),) = asked
    assert line[-2:] == ["-i", "GPU-1-2"]
    assert timeout <= 10


@pytest.mark.null
@pytest.mark.parametrize(
    "fault",
    [
        FileNotFoundError("no nvidia-smi"),
        subprocess.TimeoutExpired("nvidia-smi", 10),
        "",
        "No devices found",
        "[N/A]" + 5 * ", [N/A]",
    ],
)
def test_what_nvidia_smi_does_not_tell_is_unknown(fault, monkeypatch):
    def answer(*_, **__):
        if isinstance(fault, str):
            return SimpleNamespace(stdout=fault)
        raise fault

    monkeypatch.setattr(subprocess, "run", answer)
    assert gpu.smi() == dict.fromkeys(STATE, "unknown")


@pytest.mark.null
def test_a_gpu_is_lost_when_its_next_calls_fail_too(monkeypatch):
    monkeypatch.setattr(Gpu, "place", "cpu")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    assert Gpu().lost() is None

    def fails(_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    monkeypatch.setattr(torch.cuda, "synchronize", fails)
    assert Gpu().lost() == "RuntimeError: CUDA error: an illegal memory access was encountered"


# A whole run ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """Rehearse a part of the scale `gpu`, one round a case; give what was written and printed."""
    out, said = tmp_path_factory.mktemp("rehearsed"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", said)
        patch.setenv("COLUMNS", "100")
        patch.setattr(gpu, "smi", lambda *_: dict.fromkeys(STATE, "unknown"))
        command = f"bench --scale gpu --rehearse --suite small,resnet --rounds 3 --no-progress --out {out}"
        code = main(command.split())
    record = json.loads((out / "bench.json").read_text(encoding="utf-8"))
    return SimpleNamespace(out=out, code=code, said=said.getvalue(), record=record)


@pytest.mark.cpu
def test_a_rehearsal_is_a_whole_run_on_tensors_in_main_memory(rehearsed):
    """What is timed says nothing: events are the host's clock, and kernels the CPU's."""
    assert rehearsed.code == 0
    check(rehearsed.record)
    assert rehearsed.record["machine"]["gpu"]["name"] == "no GPU: a rehearsal"
    assert rehearsed.record["asked"]["rehearse"]
    assert "no GPU: a rehearsal" in (rehearsed.out / "bench.svg").read_text(encoding="utf-8")
    for case in rehearsed.record["cases"]:
        assert "tiny" in case["workload"] or case["suite"] == "small"
        for arm in COMPILERS & case["arms"].keys():
            assert "rehearsal" in case["arms"][arm]["skipped"]


@pytest.mark.cpu
def test_the_table_of_a_gpu_comes_last_and_fits_a_terminal(rehearsed):
    lines = rehearsed.said.split("Written:")[0].rstrip().splitlines()
    assert max(map(len, lines)) <= 100
    head = next(place for place, line in enumerate(lines) if line.startswith("case "))
    assert lines[head].split()[:5] == ["case", "µs", "µs", "GB/s", "copy"]
    table = lines[head + 1 :]
    assert sum("graphed" in line for line in table) >= 5
    assert any("momentum, ResNet-18" in line for line in table)


@pytest.mark.cpu
def test_the_page_has_the_hosts_time_and_how_the_gpu_was_run(rehearsed, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("benchmarks_report", ROOT / "benchmarks" / "report.py")
    report = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(report)
    record = json.loads(json.dumps(rehearsed.record))
    record["machine"]["gpu"] |= {"driver": "575.57", "at_end": {"sm_megahertz": 1755.0, "celsius": 61.0, "driver": "x"}}
    record["cases"][0] |= {"skipped": "left out: no time", "left_out": True, "arms": {}}
    record |= {"complete": False, "stopped": "the GPU answers no more"}
    (tmp_path / "one.json").write_text(json.dumps(record), encoding="utf-8")
    page = report.page(tmp_path)
    assert "driver 575.57, 1755 MHz, 61 °C" in page
    assert "This run stopped: the GPU answers no more." in page
    rows = [line for line in page.splitlines() if line.startswith("| ") and "on the GPU" in line]
    heads = [line for line in page.splitlines() if line.startswith("| case |")]
    assert all(head.startswith("| case | steprule (quartiles) | host | quickest peer |") for head in heads)
    assert {line.count("|") for line in rows} == {head.count("|") for head in heads}
    own = record["cases"][1]["arms"][OURS]["host_microseconds"]["median"]
    assert any(f"| {report.time_of(own)} |" in line for line in rows)


def check(record):
    assert record["complete"]
    assert "event" in record["method"]
    assert set(record["machine"]) == MACHINE
    assert set(record["machine"]["gpu"]) == FACTS | {"at_end"}
    assert set(record["machine"]["gpu"]["at_end"]) == STATE
    for case in record["cases"]:
        assert set(case) == FIELDS, case["name"]
        assert case["device"] == "cuda"
        timed = {name for name, arm in case["arms"].items() if "skipped" not in arm}
        if case["rule"] in {"SGD", "AdamW", "momentum"}:
            assert timed >= {OURS, FOREACH, FUSED, COPY}, case["name"]
        assert timed >= {OURS, COPY}
        for name in timed:
            assert set(case["arms"][name]) >= TIMED
            wide = name == COPY or case["dtype"] != "float32"
            assert wide or case["arms"][name]["deviation"] <= 1e-5, (case["name"], name)


def told(case, **times):
    """Return a case of made-up microseconds on a GPU, an arm and a number each."""
    made = {}
    for name, value in times.items():
        spread = {"median": value, "p25": value, "p75": value}
        made[name] = {"microseconds": spread, "host_microseconds": spread | {"median": 7.0}, "rounds": 9,
                      "deviation": 0.0, "gigabytes_per_second": 1e5 / value}  # fmt: skip
        if name != OURS:
            made[name]["ratio"] = dict.fromkeys(("median", "p25", "p75"), value / times[OURS])
    return {"name": "one", "suite": "small", "rule": "AdamW", "clip": "global norm", "dtype": "float32", "tensors": 6,
            "workload": "6 x 64", "parameters": 384, "memory_bound": False, "device": "cuda", "threads": 1,
            "gradients": "fresh", "arms": made, **case}  # fmt: skip


MADE_UP = [
    told({}, **{OURS: 100.0, GRAPHED: 50.0, COPY: 95.0, FUSED: 150.0, **dict.fromkeys(PEERS[3:8], 200.0)}),
    told({"name": "two", "dtype": "bfloat16", "workload": "60 x 64", "tensors": 60},
         **{OURS: 100.0, **dict.fromkeys(STORAGE, 300.0), COPY: 100.0, FUSED: 150.0}),
    told({"name": "three", "skipped": "left out: no time", "arms": {}}, **{OURS: 1.0}),
]  # fmt: skip


@pytest.mark.null
def test_the_table_shows_host_time_bytes_the_copy_and_each_peer():
    console = Console(file=io.StringIO(), width=100)
    console.print(gpu_table(MADE_UP))
    lines = console.file.getvalue().splitlines()
    rows = [line.rstrip() for line in lines[3:]]
    assert " ".join(rows[0].split()) == f"AdamW clipped, 6 x 64 100 7.00 1,000 95 % 1.50{5 * ' 2.00'}"
    assert " ".join(rows[1].split()).startswith("graphed 50.0 7.00 2,000 190 % 3.00 4.00")
    assert rows[2].startswith("bfloat16 AdamW clipped")
    narrow = [line for line in rows if line.lstrip().startswith("compensated")]
    assert "0.50 ▼" in narrow[0]
    assert "(left out)" in " ".join(rows)
    assert max(map(len, rows)) <= 100


@pytest.mark.null
def test_the_picture_has_the_hosts_time():
    machine = {"gpu": {"name": "Made Up", "cuda": "12", "triton": "3"}, "torch": "2", "steprule": "1"}
    record = {"cases": [{**case, "dtype": "float32"} for case in MADE_UP[:2]], "machine": machine}
    assert ">host<" in picture(record)
    for case in record["cases"]:
        case["device"] = "cpu"
    assert ">host<" not in picture(record)


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
    arm = EventArm("test", [Feed(arms.Unit(lambda: other.copy_(size), []))], Gpu().event)
    arm.round(3)
    assert arm.round(10) > 2 * 2**28 / 20e12  # no memory moves 20 TB/s


@needs_one
@pytest.mark.gpu
@pytest.mark.parametrize("name", [GRAPHED, FUSED_GRAPHED])
def test_a_graphed_step_on_the_gpu_agrees_with_the_truth(name):
    own, shapes = RULES["AdamW"], many(3, 70)
    unit = arms.build(name, own, "global norm", arms.Tensors(shapes, own.start, 0, "cuda"))
    assert truth.Trial(own, "global norm", shapes).of(unit) <= truth.TOLERANCE


@needs_one
@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rule", ["AdamW", "SGD", "RMSProp"])
def test_a_compiled_step_on_the_gpu_agrees_with_the_truth(rule):
    own, shapes = RULES[rule], many(3, 70)
    unit = arms.build(COMPILED, own, "global norm", arms.Tensors(shapes, own.start, 0, "cuda"))
    assert truth.Trial(own, "global norm", shapes).of(unit) <= truth.TOLERANCE
