"""How a run of the bench ends: whatever fails ends nothing else, time that is bounded is kept to, and one can go on."""

import json
import time

import pytest

from steprule.__main__ import main
from steprule.bench import arms, command, conduct, limits, measure, run
from steprule.bench.arms import COMPILED, FUSED, LOOP, OURS
from steprule.bench.cases import ALL, FRESH, GPU, RANKED, Case, cases, tiny
from steprule.bench.gpu import Gpu
from steprule.bench.limits import OutOfTime, limit
from steprule.bench.measure import spread
from steprule.bench.record import Record, errors
from steprule.bench.rehearsal import HostEvent, Rehearsal
from steprule.bench.rules import GLOBAL_NORM
from steprule.bench.workloads import many

SMALL = Case("small", "AdamW", GLOBAL_NORM, many(3, 64), ALL, FRESH, (LOOP, FUSED, OURS), 0.01)
OPTIONS = conduct.BenchOptions(threads=1, rounds=3)


def compilation_error():
    """Triton's own, which is a plain exception: its first line says where, its last what."""
    module = pytest.importorskip("triton.compiler.errors")
    import ast

    return module.CompilationError("def f():\n  oops", ast.parse("oops").body[0], "oops is not defined")


def out_of_resources():
    module = pytest.importorskip("triton.runtime.errors")
    return module.OutOfResources(300_000, 232_448, "shared memory")


class PTXASError(Exception):
    """As Triton's: no RuntimeError."""


FAULTS = {
    "CompilationError": (compilation_error, "CompilationError: oops is not defined"),
    "OutOfResources": (out_of_resources, "OutOfResources: out of resource: shared memory, Required: 300000"),
    "PTXASError": (lambda: PTXASError("PTXAS error: ptxas died"), "PTXASError: PTXAS error: ptxas died"),
}


def failing(name, at, error, monkeypatch):
    """Let an arm's step of this number raise an error, and every later one."""
    build, taken = arms.BUILDERS[name], []

    def broken(rule, clip, tensors):
        if not at:
            raise error
        unit = build(rule, clip, tensors)
        step = unit.step

        def counted():
            taken.append(1)
            if len(taken) >= at:
                raise error
            step()

        unit.step = counted
        return unit

    monkeypatch.setitem(arms.BUILDERS, name, broken)


def failing_later(name, monkeypatch):
    """Let an arm fail in its second counted round."""
    timed = measure.Arm.timed

    def broken(self, turn):
        if self.name == name and turn == 2:
            raise PTXASError("no room")
        return timed(self, turn)

    monkeypatch.setattr(measure.Arm, "timed", broken)


@pytest.mark.cpu
@pytest.mark.parametrize("at", [0, 2, 5, None], ids=["when built", "in its trial", "in its first steps", "while timed"])
def test_an_arm_that_fails_is_recorded_and_the_others_are_timed(at, monkeypatch):
    if at is None:
        failing_later(FUSED, monkeypatch)
    else:
        failing(FUSED, at, PTXASError("no room"), monkeypatch)
    result = conduct.conduct(SMALL, OPTIONS)
    assert not result.failed
    assert result.arms[FUSED].skipped == "it failed: PTXASError: no room"
    assert result.median(OURS)
    assert result.median(LOOP)
    assert errors(document(result)) == [f"Failed: {SMALL.name}: {FUSED}: it failed: PTXASError: no room"]


@pytest.mark.cpu
@pytest.mark.parametrize("name", FAULTS)
def test_a_kernel_of_ours_that_does_not_compile_fails_its_case_with_what_the_compiler_said(name, monkeypatch):
    make, told = FAULTS[name]
    failing(OURS, 2, make(), monkeypatch)
    result = conduct.conduct(SMALL, OPTIONS)
    assert result.failed
    assert told in result.skipped
    (line,) = errors(document(result))
    assert told in line


def document(*results):
    record = Record("steprule bench", {"cpu": "made up"})
    record.results = list(results)
    return json.loads(record.text())


class Here(Gpu):
    """Main memory that is no rehearsal."""

    place = "cpu"
    cache, available = (lambda _: 2**16), (lambda _: 2**40)
    event = staticmethod(HostEvent)
    lost = sweep = lambda _: None


ON_GPU = Case("small", "AdamW", GLOBAL_NORM, many(3, 64), GPU, FRESH, (OURS, LOOP, COMPILED), 0.01)


@pytest.mark.cpu
def test_a_compiler_that_takes_too_long_is_left_out_and_the_others_are_timed(monkeypatch):
    def endless(rule, clip, tensors):
        while True:
            pass

    monkeypatch.setattr(conduct, "COMPILING", 0.05)
    monkeypatch.setitem(arms.BUILDERS, COMPILED, endless)
    result = conduct.conduct(ON_GPU, conduct.BenchOptions(1, rounds=3, device="cuda", gpu=Here()))
    assert "it compiled for more than" in result.arms[COMPILED].skipped
    assert result.median(OURS)
    assert errors(document(result)) == []


@pytest.mark.cpu
def test_after_an_error_that_leaves_no_gpu_nothing_more_is_tried(monkeypatch):
    class Dying(Here):
        lost = staticmethod(lambda: "CUDA error: an illegal memory access")

    failing(LOOP, 2, RuntimeError("CUDA error: an illegal memory access\nmore"), monkeypatch)
    result = conduct.conduct(ON_GPU, conduct.BenchOptions(1, rounds=3, device="cuda", gpu=Dying()))
    assert result.failed
    assert LOOP in result.lost
    assert "answers no more" in result.lost
    assert COMPILED not in result.arms


# Limits -----------------------------------------------------------------------------------------------


def work():
    """Work for twenty seconds, and take no exception for a reason to stop."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            while time.monotonic() < until:
                pass
        except Exception:  # noqa: BLE001, S110
            pass


def ticking():
    return limits.signal.getitimer(limits.signal.ITIMER_REAL)[0]


def ended_by(outer, inner):
    """Work within two limits; return both and the one that ended it."""
    with limit(outer) as first:
        try:
            with limit(inner) as second:
                work()
        except OutOfTime as caught:
            return first, second, caught
    return None


@pytest.mark.null
@pytest.mark.parametrize(("outer", "inner", "which"), [(0.02, 1000.0, 0), (1000.0, 0.02, 1), (None, 0.02, 1)])
def test_of_two_limits_the_shorter_ends_what_takes_longer(outer, inner, which):
    *both, caught = ended_by(outer, inner)
    assert caught is both[which]
    assert not ticking()


@pytest.mark.null
def test_a_limit_goes_on_after_one_within_it_and_ends_with_its_work():
    with limit(1000.0):
        with limit(900.0):
            assert 800 < ticking() <= 900
        assert 900 < ticking() <= 1000
    assert not ticking()


# The command ------------------------------------------------------------------------------------------

NAMES = [case.name for case in cases(("large", "small"), tiny(RANKED), "cuda")]
STILL = {"threads": 2, "torch": "2.0", "steprule": "1.0", "gpu": {"name": "Made Up", "cuda": "12", "triton": "3"}}


def timed(case, *_):
    """Return a result of made-up numbers."""
    seen = spread([1e-6] * 3)
    return conduct.Result(case, 1, 28, arms={OURS: conduct.Outcome(seen, None, 1, 0.0, host=seen)})


class Bench:
    """The command on cases that take no time, of which `fault` says what happens instead."""

    def __init__(self, monkeypatch, out):
        self.out, self.done, self.fault, self.machine = out, [], lambda case: None, dict(STILL)
        monkeypatch.setattr(run, "conduct", self.conduct)
        monkeypatch.setattr(command.machine, "machine", lambda *_: {**self.machine, "gpu": dict(self.machine["gpu"])})
        monkeypatch.setattr(Rehearsal, "state", lambda _: {"celsius": 41.0})
        monkeypatch.setattr(command, "_picture", lambda _: None)

    def conduct(self, case, options):
        self.done.append(case.name)
        return self.fault(case) or timed(case)

    def __call__(self, *flags):
        self.done.clear()
        line = [
            "bench",
            "--scale",
            "gpu",
            "--suite",
            "large,small",
            "--rehearse",
            "--threads",
            "2",
            "--no-progress",
            "--out",
            str(self.out),
        ]
        code = main([*line, *flags])
        return code, self.record

    @property
    def record(self):
        return json.loads((self.out / "bench.json").read_text(encoding="utf-8"))

    @property
    def names(self):
        return [case["name"] for case in self.record["cases"]]


@pytest.fixture
def bench(monkeypatch, tmp_path):
    return Bench(monkeypatch, tmp_path)


def fails(name, **how):
    """Let the case of this name fail."""
    result = lambda case: conduct.Result(case, 1, 28, skipped="it failed: X: y", failed=True, **how)  # noqa: E731
    return lambda case: result(case) if case.name == name else None


@pytest.mark.null
def test_a_case_that_fails_ends_no_run_and_the_exit_code_says_so(bench, capsys):
    bench.fault = fails(NAMES[1])
    code, record = bench()
    assert code == 1
    assert bench.names == NAMES
    assert record["complete"]
    assert [case["name"] for case in record["cases"] if case.get("failed")] == [NAMES[1]]
    assert record["machine"]["gpu"]["at_end"] == {"celsius": 41.0}
    assert f"Failed: {NAMES[1]}: it failed: X: y" in capsys.readouterr().err


@pytest.mark.null
def test_a_run_that_loses_its_gpu_stops_with_what_there_is_and_says_why(bench, capsys):
    bench.fault = fails(NAMES[2], lost="LOOP failed, and the GPU answers no more")
    code, record = bench()
    assert code == 1
    assert bench.names == NAMES[:3]
    assert not record["complete"]
    assert record["stopped"] == "LOOP failed, and the GPU answers no more"
    assert "Stopped: LOOP failed, and the GPU answers no more" in capsys.readouterr().err


@pytest.mark.null
def test_cases_for_which_no_time_is_left_are_recorded_as_left_out(bench, monkeypatch):
    now, guess = [0.0], dict.fromkeys(NAMES, 10.0) | {NAMES[3]: 60.0}
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(run, "_seconds", lambda case, _: guess[case.name])
    monkeypatch.setattr(run, "limit", lambda _: limit(None))

    def passes(case):
        now[0] += guess[case.name]

    bench.fault = passes
    code, record = bench("--seconds", "55")
    assert code == 0
    assert bench.done == [*NAMES[:3], *NAMES[4:6]]
    left = {case["name"]: case["skipped"] for case in record["cases"] if case.get("left_out")}
    assert [*left] == [NAMES[3], *NAMES[6:]]
    assert left[NAMES[3]] == "left out: it takes about 60 s, and 25 of 55 s are left"
    assert not record["complete"]
    now[0] = 0.0
    code, record = bench("--seconds", "500", "--resume")
    assert bench.done == [NAMES[3], *NAMES[6:]]
    assert record["complete"]


@pytest.mark.null
def test_a_case_that_is_under_way_when_the_time_is_over_is_cut(bench, monkeypatch):
    def endless(case):
        until = time.monotonic() + 20
        while case.name == NAMES[1] and time.monotonic() < until:
            pass

    monkeypatch.setattr(run, "_seconds", lambda case, _: 0.0)
    bench.fault = endless
    began = time.monotonic()
    code, record = bench("--seconds", "0.2")
    assert code == 0
    assert time.monotonic() - began < 10
    assert bench.done == NAMES[:2]
    assert record["cases"][1]["skipped"] == "left out: the 0 s were over in its midst"
    assert all(case["left_out"] for case in record["cases"][1:])


@pytest.mark.null
def test_fresh_processes_for_which_no_time_is_left_are_begun_by_the_run_that_goes_on(monkeypatch):
    record, options = Record("steprule bench", {}), conduct.BenchOptions(1, quick=True)
    monkeypatch.setattr(run.start, "collect", lambda found, key, part: found.update({key: 1.0}))
    first, *rest = run.works(record, ("start",), options)
    assert not any(run.Allowance(1.0, time.monotonic()).take(work) for work in (first, *rest))
    assert record.start is None
    assert run.Allowance(None, time.monotonic()).take(first)
    assert [work.name for work in run.works(record, ("start",), options)] == [work.name for work in rest]


def interrupts(name):
    def fault(case):
        if case.name == name:
            raise KeyboardInterrupt

    return fault


@pytest.mark.null
def test_a_run_that_was_interrupted_goes_on_and_does_nothing_twice(bench, capsys):
    bench.fault = interrupts(NAMES[3])
    assert bench()[0] == 130
    assert bench.names == NAMES[:3]
    bench.fault = lambda case: None
    code, record = bench("--resume")
    assert code == 0
    assert bench.done == NAMES[3:]
    assert bench.names == NAMES
    assert record["complete"]
    assert "has 3 cases, which are not done again" in " ".join(capsys.readouterr().err.split())
    assert bench("--resume")[0] == 0
    assert bench.done == []
    assert [path.name for path in bench.out.iterdir()] == ["bench.json"]


@pytest.mark.null
def test_what_a_run_was_killed_at_is_done_last_by_the_one_that_goes_on(bench):
    class Killed(BaseException):
        pass

    def kill(case):
        if case.name == NAMES[2]:
            assert bench.record["begun"].endswith(NAMES[2])
            assert bench.names == NAMES[:2]  # what is done is on disk
            (bench.out / "then.json").write_text(json.dumps(bench.record))
            raise Killed

    bench.fault = kill
    with pytest.raises(Killed):
        bench("--resume")
    (bench.out / "then.json").replace(bench.out / "bench.json")
    bench.fault = lambda case: None
    bench("--resume")
    assert bench.done == [*NAMES[3:], NAMES[2]]
    assert bench.record["begun"] is None


@pytest.mark.null
@pytest.mark.parametrize("other", ["flags", "machine", "no record"])
def test_a_record_of_another_run_is_not_gone_on_with_but_kept(other, bench, capsys):
    bench()
    flags, told = ["--resume"], "it is no record of a benchmark"
    if other == "flags":
        flags, told = ["--resume", "--rounds", "9"], "its --rounds was None, and now is 9"
    elif other == "machine":
        bench.machine["gpu"] = {**STILL["gpu"], "name": "Another"}
        told = "its GPU's name was Made Up, and now is Another"
    else:
        (bench.out / "bench.json").write_text("[1, 2")
    assert bench(*flags)[0] == 0
    assert bench.done == NAMES
    assert (bench.out / "bench.1.json").exists()
    assert told in " ".join(capsys.readouterr().err.split())


@pytest.mark.null
def test_going_on_with_nothing_is_a_run_from_the_beginning(bench):
    assert bench("--resume")[0] == 0
    assert bench.done == NAMES


@pytest.mark.null
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--scale gpu --device cpu", "--scale gpu is for --device cuda"),
        ("--rehearse --device cpu", "--rehearse is for --device cuda"),
        ("--quick --scale gpu", "--quick is --scale quick"),
        ("--scale gpu --rehearse --suite clipping", "--scale gpu has no suite clipping"),
        ("--scale huge", "'huge'"),
        ("--seconds 0", "greater than 0"),
        ("--seconds x", "greater than 0"),
    ],
)
def test_flags_that_exclude_each_other_are_refused_in_one_line(flags, told, tmp_path, capsys):
    assert main(["bench", *flags.split(), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert told in err
    assert not (tmp_path / "out").exists()
