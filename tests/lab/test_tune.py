"""steprule tune: a search repeats itself, survives kills, is shared by processes, and refuses what cannot work."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import optuna
import pytest

from steprule.__main__ import main
from steprule.lab.store.owner import Owner

pytestmark = pytest.mark.cpu

SMALL = "tune --optimizer momentum --task cancer-logreg --iterations 5 --tuning-seeds 1 --no-progress --json"


def tuned(capsys, out, rest="", code=0):
    """Run the command; return the document that it printed."""
    assert main(f"{SMALL} --out {out} {rest}".split()) == code
    return json.loads(capsys.readouterr().out)


def refused(capsys, rest, command="tune --optimizer adam"):
    """Run a command that is wrong; return what it says."""
    assert main(f"{command} --task cancer-logreg --no-progress {rest}".split()) == 2
    return capsys.readouterr().err


def tried(document):
    return [(trial["params"], trial["losses"]) for trial in document["trials"]]


def process(out, rest):
    command = [sys.executable, "-m", "steprule", *f"{SMALL} --workers 1 --out {out} {rest}".split()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A search with one worker that nothing disturbed: its folder and its document."""
    out = tmp_path_factory.mktemp("whole")
    assert main(f"{SMALL} --workers 1 --trials 14 --search beta=0.5:0.99 --out {out}".split()) == 0
    return out, json.loads((out / "tuning.json").read_text(encoding="utf-8"))


def test_it_finds_better_than_the_worst_half_and_tells_how(whole):
    _, document = whole
    losses = [float("inf") if trial["loss"] is None else trial["loss"] for trial in document["trials"]]
    best = document["best"]
    assert len(losses) == document["trials_wanted"] == 14
    assert document["complete"]
    assert best["loss"] == min(losses) < sorted(losses)[7]
    assert [step["trials"] for step in document["best_after"]] == [1, 2, 5, 10, 14]
    assert document["best_after"][-1]["loss"] == best["loss"]
    assert set(document["importance"]) == {"lr", "beta"}
    assert sum(document["importance"].values()) == pytest.approx(1)
    assert {one["name"]: one["log"] for one in document["search"]} == {"lr": True, "beta": False}
    assert all(0.5 <= trial["params"]["beta"] <= 0.99 for trial in document["trials"])
    fields = {"trial", "params", "loss", "losses", "status", "reason", "seconds"}
    assert all(set(trial) == fields for trial in document["trials"])


def test_the_command_it_prints_gives_the_loss_that_it_found(whole, tmp_path, capsys):
    best = whole[1]["best"]
    line = best["train"].split()[1:-1]  # less the fresh seed: the default one is that of the search
    assert main([*line, "--json", "--no-progress", "--out", str(tmp_path)]) == 0
    (run,) = json.loads(capsys.readouterr().out)["results"][0]["runs"]
    assert run["validation_loss"] == pytest.approx(best["loss"], rel=1e-5)
    assert "--set=momentum.beta=" in best["compare"]


def test_it_repeats_itself_also_when_it_was_killed_and_gone_on_with(whole, tmp_path, capsys):
    rest = "--trials 14 --search beta=0.5:0.99"
    one = process(tmp_path, rest)
    journal = tmp_path / "tuning.journal"
    while not journal.exists() or journal.read_text(encoding="utf-8").count('"record"') < 3:
        assert one.poll() is None
        time.sleep(0.005)
    os.killpg(one.pid, signal.SIGKILL)
    one.communicate()
    assert not (tmp_path / "tuning.json").exists()
    assert tried(tuned(capsys, tmp_path, f"{rest} --workers 1 --resume")) == tried(whole[1])


def test_processes_that_share_a_storage_do_each_trial_once(tmp_path):
    rest = f"--trials 9 --storage sqlite:///{tmp_path}/study.db"
    both = [process(tmp_path / name, rest) for name in "ab"]
    said = [one.communicate()[0] for one in both]
    assert [one.returncode for one in both] == [0, 0]
    documents = [json.loads(text) for text in said]
    assert tried(documents[0]) == tried(documents[1])
    assert len({trial["params"]["lr"] for trial in documents[0]["trials"]}) == 9


def test_another_plan_is_refused(whole, capsys):
    said = refused(capsys, f"--resume --iterations 6 --tuning-seeds 1 --out {whole[0]}", "tune --optimizer momentum")
    for words in ("another plan", "iterations=5", "beta=0.5:0.99", "--storage"):
        assert words in said


def test_an_optimiser_that_was_edited_is_refused(tmp_path, capsys):
    mine = tmp_path / "mine.py"
    mine.write_text("import torch\nclass Mine(torch.optim.SGD): pass", encoding="utf-8")
    rest = f"tune --optimizer {mine}:Mine --iterations 2 --tuning-seeds 1 --trials 1 --workers 1 --out {tmp_path}"
    assert main(f"{rest} --task cancer-logreg --no-progress".split()) == 0
    mine.write_text("import torch\nclass Mine(torch.optim.Adam): pass", encoding="utf-8")
    assert f"formula of {mine}:Mine" in refused(capsys, "--resume", rest)


def abandoned(out, folder):
    """Return a trial of a process that is gone, in a copy of a study."""
    journal = shutil.copy(out / "tuning.journal", folder)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    trial = optuna.load_study(study_name="steprule tune", storage=storage).ask()
    trial.set_user_attr("owner", f"{replace(Owner.here(), started='1')}/0")
    return trial


def test_what_was_suggested_in_part_is_suggested_anew_as_if_nothing_had_happened(whole, tmp_path, capsys):
    out, document = whole
    low, high = (document["search"][0][end] for end in ("low", "high"))
    for name in ("disturbed", "alone"):
        (tmp_path / name).mkdir()
    shutil.copy(out / "tuning.journal", tmp_path / "alone")
    half = abandoned(out, tmp_path / "disturbed").suggest_float("lr", low, high, log=True)
    rest = "--workers 1 --trials 16 --search beta=0.5:0.99 --resume"
    found = [tuned(capsys, tmp_path / name, rest) for name in ("disturbed", "alone")]
    assert tried(found[0]) == tried(found[1])
    assert half not in [trial["params"]["lr"] for trial in found[0]["trials"]]


def test_more_trials_go_on_and_what_a_process_that_is_gone_tried_is_tried_again(whole, tmp_path, capsys):
    out, document = whole
    trial = abandoned(out, tmp_path)
    low, high = (document["search"][0][end] for end in ("low", "high"))
    params = {"lr": trial.suggest_float("lr", low, high, log=True), "beta": trial.suggest_float("beta", 0.5, 0.99)}
    more = tuned(capsys, tmp_path, "--workers 1 --trials 16 --search beta=0.5:0.99 --resume")
    assert len(more["trials"]) == 16
    assert tried(more)[:14] == tried(document)
    assert params == more["trials"][14]["params"] != more["trials"][15]["params"]


def test_a_trial_that_diverges_is_kept_with_its_reason(tmp_path, capsys):
    document = tuned(capsys, tmp_path, "--workers 1 --trials 2 --lr-range 1e6 1e8", code=1)
    assert document["best"] is None
    assert document["importance"] == {}
    assert [trial["status"] for trial in document["trials"]] == ["diverged", "diverged"]
    assert "training loss went from" in document["trials"][0]["reason"]


def test_time_that_is_up_ends_it_after_a_whole_trial(tmp_path, capsys):
    document = tuned(capsys, tmp_path, "--workers 1 --trials 500 --budget 1s")
    assert 1 <= len(document["trials"]) < 500
    assert not document["complete"]
    assert not document["interrupted"]


@pytest.mark.hostile("L3")
def test_ctrl_c_keeps_the_trials_that_are_done(tmp_path):
    one = process(tmp_path, "--trials 5000")
    journal = tmp_path / "tuning.journal"
    while not journal.exists() or journal.read_text(encoding="utf-8").count('"record"') < 3:
        assert one.poll() is None
        time.sleep(0.005)
    os.killpg(one.pid, signal.SIGINT)  # as a terminal does it: to the workers, too
    said, noise = one.communicate()
    assert one.returncode == 130
    assert "Traceback" not in noise
    assert json.loads(said) == json.loads((tmp_path / "tuning.json").read_text(encoding="utf-8"))
    assert json.loads(said)["interrupted"]
    assert 1 <= len(json.loads(said)["trials"]) < 5000


def test_tensorboard_finds_every_run(tmp_path, capsys):
    document = tuned(capsys, tmp_path, f"--workers 1 --trials 2 --tensorboard {tmp_path / 'events'}")
    runs = {path.parent for path in (tmp_path / "events").rglob("events.out.tfevents.*")}
    assert len(document["trials"]) == len(runs) == 2


def test_the_table_says_what_is_best(whole, capsys):
    line = SMALL.replace(" --json", "")
    assert main(f"{line} --workers 1 --trials 14 --search beta=0.5:0.99 --out {whole[0]} --resume".split()) == 0
    said = capsys.readouterr().out
    for words in ("the best of 1", "Lowest loss after so many trials: 1:", "fANOVA", "Best: lr", "steprule train"):
        assert words in said


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("--search gamma=0:1", "adam has no such number to search; allowed: beta1, beta2, eps"),
        ("--search lr=0.1:1", "over --lr-range"),
        ("--search beta1=0.9", "NAME=LOW:HIGH:log"),
        ("--search beta1=0.9:0.8", "LOW below HIGH"),
        ("--search eps=0:1:log", "LOW above 0"),
        ("--search eps=1e-9:nan", "NAME=LOW:HIGH"),
        ("--search beta1=0.8:0.9 --search beta1=0.8:0.9", "given twice"),
        ("--search beta1=0.8:0.9 --beta1 0.9", "it is fixed at 0.9"),
        ("--lr-range 1 0.1", "LOW below HIGH"),
        ("--trials 0", "1<=x<=100000"),
        ("--batch-size 100000", "--batch-size is at most"),
        ("--hidden 3", "does not apply"),
    ],
)
def test_wrong_arguments_are_told_what_is_allowed(rest, words, capsys, tmp_path):
    assert words in refused(capsys, f"{rest} --out {tmp_path / 'none'}")
    assert not (tmp_path / "none" / "tuning.journal").exists()
