"""BENCHMARKS.md from records: losses cannot be overlooked, and old records count until there is a new one."""

import importlib.util
import json
import math
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.cpu


@pytest.fixture(scope="module")
def report():
    spec = importlib.util.spec_from_file_location("benchmarks_report", ROOT / "benchmarks" / "report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OLD = {
    "machine": {"cpu": "old"},
    "cases": {"6 x 64": {"microseconds": {"steprule": 10.0, "torch fused + clip": 9.0, "same bytes": 8.0}}},
    "seconds": {"first step from nothing": 1.0},
}


def test_losses_are_listed_and_marked(report, bench_run, tmp_path):
    record = json.loads(json.dumps(bench_run.record))
    case = next(case for case in record["cases"] if "ratio" in case["arms"].get("torch fused", {}))
    case["load"] = {"cores": 2, "threads": 1, "others": 0.0, "waited": 0.0}
    for arm in ("steprule", "torch fused"):
        case["arms"][arm] |= {"rounds": 9, "microseconds": {"median": 3.0, "p25": 3.0, "p75": 3.0}}
    case["arms"]["torch fused"]["ratio"] = {"median": 0.43, "p25": 0.42, "p75": 0.44}
    (tmp_path / "one.json").write_text(json.dumps(record), encoding="utf-8")
    page = report.page(tmp_path)
    assert f"- {case['name']}: torch fused, **0.43 ▼**" in page
    row = next(line for line in page.splitlines() if line.startswith(f"| {case['name']} |"))
    assert "**0.43 ▼**" in row
    table = [line for line in page.splitlines() if line.startswith("|") and case["name"] not in line]
    assert all(line.endswith("|") for line in table)


def test_every_case_and_the_machine_are_on_the_page(report, bench_run, tmp_path):
    (tmp_path / "one.json").write_text(json.dumps(bench_run.record), encoding="utf-8")
    page = report.page(tmp_path)
    for case in bench_run.record["cases"]:
        assert f"| {case['name']} |" in page
    assert bench_run.record["machine"]["cpu"] in page
    heads = [line for line in page.splitlines() if line.startswith("| case |")]
    assert len(heads) == len({case["suite"] for case in bench_run.record["cases"]})


def test_a_case_that_was_left_out_says_why(report, bench_run, tmp_path):
    record = json.loads(json.dumps(bench_run.record))
    record["cases"][0] |= {"skipped": "it needs 12 GiB, and 3 GiB are free", "arms": {}}
    (tmp_path / "one.json").write_text(json.dumps(record), encoding="utf-8")
    assert "it needs 12 GiB, and 3 GiB are free" in report.page(tmp_path)


def test_old_records_count_until_there_is_a_new_one(report, bench_run, tmp_path):
    (tmp_path / "old.json").write_text(json.dumps(OLD), encoding="utf-8")
    assert "| 6 x 64 | 10.0 | 9.0 | 8.0 | **0.90 ▼** | 0.80 |" in report.page(tmp_path)
    (tmp_path / "new.json").write_text(json.dumps(bench_run.record), encoding="utf-8")
    page = report.page(tmp_path)
    assert "## new" in page
    assert "## old" not in page


def test_ratios_are_worded(report):
    assert report.ratio_of(1.234) == "1.23"
    assert report.ratio_of(12.3) == "12"
    assert report.ratio_of(0.5) == "**0.50 ▼**"
    assert report.ratio_of(0.9996) == "**1.000 ▼**"
    assert report.time_of(12.345) == "12.3 µs"
    assert report.time_of(12345.0) == "12.3 ms"


@pytest.mark.null
def test_the_best_rate_is_where_a_parabola_is_least_and_a_ratio_too_far_is_marked(report):
    """Losses are exact parabolas of the rate's logarithm, each seed's 10 % apart, Muon's best twice AdamW's."""
    rate = report.beside("muon_rate")
    rates, best = [0.001 * 2**place for place in range(6)], {"adamw": 0.0051, "muon": 0.0102}
    runs = {
        name: [
            {"lr": lr, "seed": seed, "phase": phase, "status": "finished"}
            | dict.fromkeys(rate.LOSSES, 1.1**seed * math.exp(math.log(lr / at) ** 2))
            for lr in [*rates, *([0.064] if name == "muon" else [])]  # which AdamW has not tried yet
            for seed, phase in ((1, "tuning"), (0, "tuning"), (100, "report"))
        ]
        for name, at in best.items()
    }
    task = {"name": "a-task", "network": "", "parameters": 1, "budget": {"iterations": 3, "batch_size": 2}}
    made = {
        "command": "steprule compare", "started": "2026-01-01T", "seconds": 1.0, "complete": False, "git": None,
        "versions": dict.fromkeys(("steprule", "torch", "numba"), "1"), "hardware": {"processor": "a CPU"},
        "protocol": {"tuning_seeds": [0, 1]}, "tasks": [task],
        "optimizers": [{"key": f"{name} · x", "name": name, "hyperparameters": {}} for name in best],
        "results": [{"task": "a-task", "optimizer": f"{name} · x", "runs": own} for name, own in runs.items()],
    }  # fmt: skip
    record = rate.reduced([made])
    (found,) = rate.tasks_of(record)
    assert found["rates"] == pytest.approx(rates)
    assert found["arms"]["muon"]["validation_loss"][0][1] == pytest.approx(1.1 * math.exp(math.log(10.2) ** 2))
    told = found["best"]["validation_loss"]
    for name, value in (*best.items(), ("ratio", 2.0)):
        assert [told[name][part] for part in ("middle", "low", "high")] == pytest.approx([value] * 3)
    assert rate.best_rate([1, 2, 4], [[3.0], [2.0], [1.0]]) == 4  # an end of the grid
    for name in best:
        found["arms"][name]["step_lengths"] = [0.2] * 5
    page = rate.section(record)
    assert "**▼ Not within a factor of 1.5 by the validation loss: a-task.**" in page
    assert "| 0.0051 [0.0051, 0.0051] | 0.01 [0.01, 0.01] | **2 [2, 2] ▼** |" in page
    assert "`steprule compare`, not to its end" in page
