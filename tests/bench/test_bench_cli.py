"""`steprule bench` on tiny shapes: what it writes, prints and refuses."""

import json
import os
from xml.etree import ElementTree as ET

import pytest
from tiny_scale import TINY

from steprule.__main__ import main
from steprule.bench import conduct as conducting
from steprule.bench import run
from steprule.bench.arms import FUSED, LOOP, OURS, ROOFLINE
from steprule.bench.cases import SUITES
from steprule.bench.machine import machine
from steprule.bench.verdict import noise

pytestmark = pytest.mark.cpu

FIELDS = {"name", "suite", "rule", "clip", "dtype", "workload", "tensors", "parameters", "memory_bound",
          "device", "threads", "gradients", "bytes_per_parameter", "working_sets",
          "seconds", "load", "arms"}  # fmt: skip
OFF = {"float32": 1e-5, "bfloat16": 5e-2, "float16": 1e-2}
TIMED = {"microseconds", "host_microseconds", "rounds", "steps_per_round", "deviation"}
MACHINE = {"cpu", "capability", "cores", "threads", "last_level_cache", "memory", "gpu", "system", "python", "torch",
           "numba", "numpy", "jax", "optax", "steprule", "steps", "git"}  # fmt: skip


def test_record_has_every_field(bench_run):
    record = bench_run.record
    assert bench_run.code == 0, bench_run.noise
    assert set(record) == {"format", "command", "began", "seconds", "complete", "stopped", "begun", "asked", "machine",
                           "method", "gradients", "cases", "start"}  # fmt: skip
    assert record["complete"]
    assert record["asked"] == {"scale": "quick", "device": "cpu", "threads": 1, "rounds": 2, "rehearse": False}
    assert set(record["machine"]["steps"]) == {"checks", "threads", "comparisons", "reasons"}
    assert record["command"].startswith("steprule bench --quick")
    assert set(record["machine"]) == MACHINE
    assert {case["suite"] for case in record["cases"]} == set(SUITES)
    for case in record["cases"]:
        assert set(case) == FIELDS | ({"bars"} if case["suite"] == "half" else set()), case["name"]
        for name, arm in case["arms"].items():
            if "skipped" not in arm:
                assert set(arm) >= TIMED, (case["name"], name)
                assert arm["host_microseconds"] == arm["microseconds"]  # on a CPU a step returns when it is done
                assert arm["microseconds"]["p25"] <= arm["microseconds"]["median"] <= arm["microseconds"]["p75"]
                assert ("ratio" in arm) == (name != OURS)
        assert "microseconds" in case["arms"][OURS]


def test_every_arm_was_checked_and_peers_took_part(bench_run):
    for case in bench_run.record["cases"]:
        for name, arm in case["arms"].items():
            if "skipped" not in arm and name not in {ROOFLINE, "no update"}:
                assert arm["deviation"] <= OFF[case["dtype"]], (case["name"], name)
        if case["rule"] != "Lion":
            assert "microseconds" in case["arms"][LOOP]
        if case["rule"] in {"SGD", "AdamW"}:
            assert "microseconds" in case["arms"][FUSED]


def test_working_sets_are_rotated_where_one_would_stay_in_the_cache(bench_run):
    for case in bench_run.record["cases"]:
        touched = 4 * case["parameters"] * case["working_sets"] * 2
        assert case["working_sets"] == 1 or case["memory_bound"], case["name"]
        assert not case["memory_bound"] or touched >= 2**16 / 3, case["name"]


def test_the_record_says_of_every_ratio_that_is_noise_why(bench_run):
    for case in bench_run.record["cases"]:
        assert set(case["load"]) == {"cores", "threads", "others", "waited"}
        for name, arm in case["arms"].items():
            if "ratio" in arm:  # the run has two rounds
                assert arm["noise"] == noise(case, name)
                assert arm["noise"].startswith(("2 rounds", "the machine was busy"))
    assert "▼" not in bench_run.said.replace("below 1 (▼)", "")


def test_picture_is_an_svg_with_both_panels(bench_run):
    text = (bench_run.out / "bench.svg").read_text(encoding="utf-8")
    ET.fromstring(text)  # noqa: S314
    for label in ("GB/s", "time of a step (µs)", "tensors of 64 numbers", "steprule", "roofline"):
        assert label in text


def test_table_and_progress_are_printed(bench_run):
    assert "quickest" in bench_run.said
    assert f"Written: {bench_run.out / 'bench.json'}, {bench_run.out / 'bench.svg'}" in bench_run.said
    assert "pieces" in bench_run.noise
    assert "about" in bench_run.noise


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "QUICK", TINY)
    monkeypatch.setattr("steprule.bench.machine.last_level_cache", lambda: 2**16)
    monkeypatch.chdir(tmp_path)
    return tmp_path


FEW = "bench --quick --suite training --threads 1 --rounds 1 --no-progress"


def test_json_is_the_record_and_goes_to_both_files(tiny, capsys):
    assert main([*FEW.split(), "--json", "--out", "there", "--record", "records/mine.json"]) == 0
    printed = capsys.readouterr()
    assert printed.out == (tiny / "there" / "bench.json").read_text(encoding="utf-8")
    assert printed.out == (tiny / "records" / "mine.json").read_text(encoding="utf-8")
    assert "Written" in printed.err
    assert json.loads(printed.out)["format"] == 3


def test_files_are_replaced_in_one_step(tiny, monkeypatch):
    """Whoever opened the old record keeps reading it; no half-written file is ever in its place."""
    target = tiny / "there" / "bench.json"
    target.parent.mkdir()
    target.write_text("the old one", encoding="utf-8")
    with target.open(encoding="utf-8") as before:
        assert main([*FEW.split(), "--out", "there"]) == 0
        assert before.read() == "the old one"
        assert os.fstat(before.fileno()).st_ino != target.stat().st_ino
    assert json.loads(target.read_text(encoding="utf-8"))["complete"]
    assert sorted(path.name for path in target.parent.iterdir()) == ["bench.1.json", "bench.json"]
    assert target.with_name("bench.1.json").read_text(encoding="utf-8") == "the old one"


def test_an_interrupted_run_keeps_what_is_done(tiny, monkeypatch, capsys):
    done = []

    def conduct(case, options):
        if done:
            raise KeyboardInterrupt
        done.append(case)
        return conducting.conduct(case, options)

    monkeypatch.setattr(run, "conduct", conduct)
    assert main(FEW.split()) == 130
    record = json.loads((tiny / "results" / "bench.json").read_text(encoding="utf-8"))
    assert not record["complete"]
    assert len(record["cases"]) == 1


def test_a_wrong_arm_is_told_and_the_exit_code_says_so(tiny, monkeypatch, capsys):
    from steprule.bench import arms

    def wrong(rule, clip, tensors):
        return arms.fused(rule, "none", tensors)

    monkeypatch.setitem(arms.BUILDERS, FUSED, wrong)
    assert main([*FEW.replace("training", "resnet").split()]) == 1
    assert "Wrong: AdamW + clip global norm" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [("--suite large,huge", "'huge' is none of large, rules"), ("--threads 0", "1<=x"), ("--rounds none", "integer"),
     ("--out file/below", "cannot write to"), ("--device cuda --suite small,start", "has no suite start")],
)  # fmt: skip
def test_wrong_arguments_are_answered_in_one_line(arguments, told, tiny, capsys):
    (tiny / "file").write_text("", encoding="utf-8")
    assert main(["bench", *arguments.split()]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert told in err


def test_machine_is_named():
    told = machine(3)
    assert told["threads"] == 3
    assert told["cpu"]
    assert told["cores"] >= 1
    assert all(told[name] for name in ("python", "torch", "numba", "numpy", "steprule"))
