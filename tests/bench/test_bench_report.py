"""BENCHMARKS.md from records: losses cannot be overlooked, and old records count until there is a new one."""

import importlib.util
import json
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
