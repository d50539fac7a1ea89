import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from steprule.__main__ import main
from steprule.lab.report.reading import read

pytestmark = pytest.mark.cpu


def test_compare_leaves_results_that_this_version_reads(small_study):
    assert small_study.code == 0
    results = read(small_study.out)
    assert results == small_study.results
    keys = [f"{name} · clip_value 5" for name in ("gd", "sgd", "adam")]
    assert [arm["key"] for arm in results["optimizers"]] == keys
    assert [row["optimizer"] for row in results["results"]] == keys
    assert [arm["state_bytes_per_parameter"] for arm in results["optimizers"]] == [0, 0, 8]
    assert results["complete"]
    assert not results["interrupted"]


def test_compare_records_how_to_repeat_it(small_study):
    results = small_study.results
    assert results["command"] == f"steprule {small_study.command}"
    assert results["versions"].keys() >= {"steprule", "torch", "python"}
    assert results["hardware"]["threads_per_worker"] == 1
    assert results["protocol"]["tuning_seeds"] == [0]
    assert results["protocol"]["report_seeds"] == [100, 101, 102]


def test_every_method_gets_the_same_trials(small_study):
    trials = [
        sorted((run["lr"], run["seed"]) for run in row["runs"] if run["phase"] == "tuning")
        for row in small_study.results["results"]
    ]
    assert trials[0] == trials[1] == trials[2]
    assert len(trials[0]) == 4


def test_only_the_kept_learning_rate_meets_the_test_set_and_once_a_seed(small_study):
    for row in small_study.results["results"]:
        tuning = [run for run in row["runs"] if run["phase"] == "tuning"]
        report = [run for run in row["runs"] if run["phase"] == "report"]
        assert all(run["test_score"] is None for run in tuning)
        assert Counter(run["seed"] for run in report) == {100: 1, 101: 1, 102: 1}
        assert {run["lr"] for run in report} == {row["lr"]}


def test_the_kept_learning_rate_has_the_lowest_validation_loss(small_study):
    for row in small_study.results["results"]:
        tuning = [run for run in row["runs"] if run["phase"] == "tuning" and run["status"] == "finished"]
        assert row["lr"] == min(tuning, key=lambda run: run["validation_loss"])["lr"]


def test_the_same_seed_starts_every_method_from_the_same_loss(small_study):
    starts = {
        (run["seed"], run["initial_training_loss"]) for row in small_study.results["results"] for run in row["runs"]
    }
    assert len(starts) == len({seed for seed, _ in starts})


def test_the_table_and_its_footnotes_are_printed(small_study):
    for name in ("gd", "sgd", "adam"):
        assert re.search(rf"^{name}\b", small_study.said, re.MULTILINE)
    said = " ".join(small_study.said.split())
    assert "gd · clip_value 5 made at most 40 iterations" in said
    assert "A run has diverged when" in said


def test_progress_goes_to_standard_error_with_an_estimate(small_study):
    assert "21 runs on 2 workers" in small_study.noise
    assert "about" in small_study.noise
    assert "runs" not in small_study.said.splitlines()[0]


def test_a_worker_gives_what_train_gives_in_its_own_process(small_study, capsys):
    row = small_study.results["results"][1]
    run = next(run for run in row["runs"] if run["phase"] == "report" and run["seed"] == 101)
    command = f"train --optimizer sgd --lr {row['lr']} --seed 101 --iterations 40 --hidden 16 --clip-value=5 --json"
    assert main([*command.split(), "--no-progress"]) == 0
    alone = json.loads(capsys.readouterr().out)["results"][0]
    assert deterministic(alone["runs"][0]) == deterministic(run)
    assert alone["tuned"]["test_score"]["middle"] == run["test_score"]


def deterministic(run):
    """Return the curve without what a clock decided."""
    return {name: column for name, column in run["curve"].items() if name != "seconds"}


def test_schedules_and_clippings_are_arms_of_one_plan_that_is_fitted_to_the_time(tmp_path, capsys):
    command = (
        "compare --task cancer-logreg --optimizers sgd,adam --schedules constant,cosine --clip none,0.5 --seeds 2 "
        f"--workers 1 --no-extend --no-defaults --budget 5s --no-progress --json --out {tmp_path}"
    )
    assert main(command.split()) == 0
    made = json.loads(capsys.readouterr().out)
    (told,) = (text for text in made["protocol"]["text"] if text.startswith("The plan was "))
    for given_up in (
        "5s",
        "1 tuning seed instead of 2",
        "5 learning rates instead of 9",
        "runs of 5 % of their length",
    ):
        assert given_up in told
    assert [(row["schedule"], [clip["bound"] for clip in row["clips"]]) for row in made["optimizers"]] == [
        (schedule, bounds) for _ in range(2) for schedule in ("constant", "cosine") for bounds in ([], [0.5])
    ]
    tried = [{(run["lr"], run["seed"]) for run in row["runs"] if run["phase"] == "tuning"} for row in made["results"]]
    assert len(tried) == 8
    assert all(trials == tried[0] for trials in tried)


@pytest.mark.hostile("L3")
def test_ctrl_c_keeps_what_is_done(tmp_path):
    command = (
        "compare --optimizers sgd --lrs 1 --lr-range 0.1 1 --tuning-seeds 1 --seeds 200 --iterations 400 "
        f"--hidden 8 --workers 2 --out {tmp_path}"
    )
    study = subprocess.Popen(
        [sys.executable, "-m", "steprule", *command.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    results, journal = tmp_path / "results.json", tmp_path / "study.journal"
    while study.poll() is None:
        time.sleep(0.05)
        if journal.exists() and journal.read_text(encoding="utf-8").count('"record"') > 3:  # the plan, and runs
            break
    # As a terminal does it: to the whole group, workers included.
    os.killpg(study.pid, signal.SIGINT)
    _, noise = study.communicate()
    assert study.returncode == 130
    assert "Traceback" not in noise
    written = json.loads(results.read_text(encoding="utf-8"))
    assert written["interrupted"]
    assert not written["complete"]
    assert 1 <= len(written["results"][0]["runs"]) < 201
    assert "Interrupted" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "curves.csv",
        "report.html",
        "results.json",
        "runs.csv",
        "study.journal",
    ]
