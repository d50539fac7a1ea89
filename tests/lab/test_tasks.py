"""Every task: its three sets, its networks, that it can be learnt, and how the command line speaks of it."""

import json

import pytest
import torch

from steprule.__main__ import main
from steprule.lab import data
from steprule.lab.budget import Budget
from steprule.lab.methods import Method
from steprule.lab.runs import RunSpec
from steprule.lab.tasks import TASKS, TaskSpec
from steprule.lab.training import train

# A learning rate of plain SGD and the test accuracy that twelve epochs reach with room to spare.
LEARNT = {"digits-mlp": (0.3, 0.85), "digits-cnn": (0.1, 0.85), "cancer-logreg": (0.1, 0.93)}

# Examples to train on, to validate and to test.
SIZES = {"digits-mlp": (1077, 360, 360), "digits-cnn": (1077, 360, 360), "cancer-logreg": (341, 114, 114)}


def spec(name):
    return TaskSpec(name)


def sets(name):
    found = spec(name).build().data
    return found.train, found.validation, found.test


@pytest.mark.parametrize("name", TASKS)
def test_the_three_sets_share_no_example_and_leave_none_out(name):
    rows = [tuple(row) for part in sets(name) for row in part.inputs.tolist()]
    assert tuple(map(len, sets(name))) == SIZES[name]
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("name", TASKS)
def test_the_sets_have_equal_class_shares(name):
    shares = [part.labels.bincount() / len(part) for part in sets(name)]
    for share in shares[1:]:
        torch.testing.assert_close(share, shares[0], atol=0.01, rtol=0)


@pytest.mark.parametrize("load", [data.digits, data.cancer])
def test_loading_again_gives_the_same_split(load):
    first, second = load(), load.__wrapped__()
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(first, part).inputs, getattr(second, part).inputs)
        assert torch.equal(getattr(first, part).labels, getattr(second, part).labels)


def test_measurements_are_scaled_by_the_training_set_alone():
    train_set, validation, test = sets("cancer-logreg")
    torch.testing.assert_close(train_set.inputs.mean(dim=0), torch.zeros(30), atol=1e-5, rtol=0)
    torch.testing.assert_close(train_set.inputs.std(dim=0, correction=0), torch.ones(30), atol=1e-5, rtol=0)
    for other in (validation, test):
        assert other.inputs.mean(dim=0).abs().max() > 0.01


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_draws_one_model_and_leaves_torchs_generator_alone(name):
    task, before = spec(name).build(), torch.get_rng_state()
    one, again, other = (list(task.model(seed).parameters()) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, one, again))
    assert not any(map(torch.equal, one, other))


@pytest.mark.parametrize("name", TASKS)
def test_a_short_run_learns_the_task(name):
    lr, accuracy = LEARNT[name]
    result = train(RunSpec(spec(name), Method("sgd"), lr, 0, Budget(12)))
    assert result.status == "finished"
    assert result.test_score >= accuracy


def test_every_task_is_listed_for_programs(capsys):
    assert main(["tasks", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(listed) == list(TASKS)
    assert {name: row["parameters"] for name, row in listed.items()} == {
        "digits-mlp": 4810,
        "digits-cnn": 38282,
        "cancer-logreg": 62,
    }
    assert [name for name, row in listed.items() if "hidden" in row["takes"]] == ["digits-mlp"]


@pytest.mark.parametrize("width", [60, 100, 200])
def test_every_task_is_listed_for_people(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["tasks"]) == 0
    out = capsys.readouterr().out
    assert all(len(line) <= width for line in out.splitlines())
    assert "…" not in out
    if width == 200:
        assert all(name in out for name in TASKS)


@pytest.mark.parametrize("command", ["train --optimizer sgd --lr 1", "compare"])
@pytest.mark.parametrize(
    ("wrong", "allowed"),
    [
        ("--task mnist2", "'digits-mlp', 'digits-cnn', 'cancer-logreg'"),
        ("--task digits-cnn --hidden 64", "allowed with: digits-mlp"),
        ("--task cancer-logreg --hidden 8", "allowed with: digits-mlp"),
        ("--task cancer-logreg --batch-size 342", "at most 341"),
    ],
)
def test_a_wrong_choice_is_answered_with_what_is_allowed(command, wrong, allowed, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*command.split(), *wrong.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert allowed in err


@pytest.mark.parametrize("name", TASKS)
def test_the_report_shows_digits_only_where_there_are_some(name, tmp_path, capsys):
    command = f"train --task {name} --optimizer adam --lr 0.01 --iterations 5 --no-progress --out {tmp_path}"
    assert main(command.split()) == 0
    task = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["task"]
    assert task["name"] == name
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ('class="strip"' in report) == (name != "cancer-logreg")
    assert spec(name).build().title in report
