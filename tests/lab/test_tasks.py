"""Every task: its three sets, its networks, that it can be learnt, and how the command line speaks of it."""

import io
import json
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image

from steprule import errors
from steprule.__main__ import main
from steprule.lab import data
from steprule.lab.methods import Method
from steprule.lab.network import accumulate, evaluate
from steprule.lab.runs import RunSpec
from steprule.lab.tasks import TASKS, TaskSpec, several, takes
from steprule.lab.training import train

# A learning rate of Adam, how many epochs, and the test score that a run reaches with room to spare.
LEARNT = {
    "digits-mlp": (0.01, 6, 0.9),
    "digits-cnn": (0.003, 4, 0.9),
    "digits-logreg": (0.03, 6, 0.9),
    "digits-autoencoder": (0.003, 20, 2.8),
    "cancer-logreg": (0.02, 20, 0.95),
    "image-coords": (0.01, 6, 25.0),
    "pydocs-gpt": (0.003, None, 5.5),
    "quadratic": (0.03, 100, 0.02),
}

# Those that need nothing to be given.
BUNDLED = several("all")

# Examples to train on, to validate and to test.
SIZES = {
    "digits-mlp": (1077, 360, 360),
    "digits-cnn": (1077, 360, 360),
    "digits-logreg": (1077, 360, 360),
    "digits-autoencoder": (1077, 360, 360),
    "cancer-logreg": (341, 114, 114),
    "image-coords": (3072, 1536, 1536),
}

CLASSES = ("digits-mlp", "digits-cnn", "digits-logreg", "cancer-logreg")

# The pictures of each task: the reference's and the exhibits' sizes.
PICTURES = {
    "digits-mlp": ((260, 10), None),
    "digits-autoencoder": ((160, 10), (160, 10)),
    "image-coords": ((96, 64), (96, 64)),
}


def sets(name):
    found = TaskSpec(name).build().data
    return found.train, found.validation, found.test


def short(name, seed=0):
    """A run that takes a second or two."""
    lr, epochs, _ = LEARNT[name]
    budget = replace(TaskSpec(name).build().budget, epochs=epochs, iterations=None if epochs else 30)
    return train(RunSpec(TaskSpec(name), Method("adam"), lr, seed, budget))


@pytest.mark.parametrize("name", SIZES)
def test_the_three_sets_share_no_example_and_leave_none_out(name):
    rows = [tuple(row) for part in sets(name) for row in part.inputs.tolist()]
    assert tuple(map(len, sets(name))) == SIZES[name]
    assert len(set(rows)) == len(rows)


def test_the_windows_of_the_documentation_are_its_text_and_do_not_overlap():
    from steprule.lab.tasks.pydocs import CONTEXT, corpus

    numbers, parts = corpus().numbers, sets("pydocs-gpt")
    count = sum(map(len, parts))
    assert len(numbers) - CONTEXT <= count * CONTEXT < len(numbers)
    counted = torch.cat([part.inputs.flatten() for part in parts]).bincount()
    assert torch.equal(counted, numbers[: count * CONTEXT].bincount())
    for part in parts:
        assert torch.equal(part.inputs[:, 1:], part.labels[:, :-1])


@pytest.mark.parametrize("name", CLASSES)
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
    torch.testing.assert_close(train_set.inputs.mean(dim=0), torch.zeros(30).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(train_set.inputs.std(dim=0, correction=0), torch.ones(30).double(), atol=1e-12, rtol=0)
    for other in (validation, test):
        assert other.inputs.mean(dim=0).abs().max() > 0.01


@pytest.mark.parametrize("name", BUNDLED)
def test_a_seed_draws_one_model_and_leaves_torchs_generator_alone(name):
    task, before = TaskSpec(name).build(), torch.get_rng_state()
    one, again, other = (task.model(seed).state_dict().values() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, one, again))
    assert not all(map(torch.equal, one, other))


@pytest.mark.parametrize("name", BUNDLED)
def test_a_short_run_learns_the_task_and_repeats_itself_bit_for_bit(name):
    task, result = TaskSpec(name).build(), short(name)
    assert result.status == "finished"
    assert task.metric.met(result.test_score, LEARNT[name][2])
    assert not task.metric.met(result.curve[0].score, LEARNT[name][2])
    again = short(name)
    assert again.curve == result.curve
    assert (again.test_loss, again.test_score) == (result.test_loss, result.test_score)


@pytest.mark.parametrize("name", BUNDLED)
def test_the_targets_are_beyond_what_a_network_does_at_the_start(name):
    task = TaskSpec(name).build()
    loss, score = evaluate(task.model(0), task, task.data.validation)
    assert not task.metric.met(score, task.target)
    assert math.isfinite(loss)
    if task.measure is None:
        assert score == loss


@pytest.mark.parametrize("name", BUNDLED)
def test_a_loss_is_the_mean_over_its_examples(name):
    """So that a batch may be walked in parts."""
    task, train_set = TaskSpec(name).build(), sets(name)[0]
    model = task.model(1)
    inputs, labels = train_set.inputs[:12], train_set.labels[:12]
    whole = accumulate(model, task, inputs, labels)
    first, rest = (accumulate(model, task, inputs[part], labels[part]) for part in (slice(0, 4), slice(4, 12)))
    assert whole == pytest.approx((4 * first + 8 * rest) / 12, rel=1e-5)


@pytest.mark.parametrize("name", BUNDLED)
def test_what_a_task_shows_are_pictures_of_the_right_size_or_texts(name):
    task = TaskSpec(name).build()
    made = task.exhibit(task.model(0)) if task.exhibit else []
    shown, expected = [*task.reference[:1], *made], PICTURES.get(name)
    assert all(exhibit.caption for exhibit in shown)
    if expected is not None:
        sizes = [Image.open(io.BytesIO(exhibit.png)) for exhibit in shown]
        assert {picture.format for picture in sizes} == {"PNG"}
        assert [picture.size for picture in sizes] == [size for size in expected if size]
    if name == "pydocs-gpt":
        assert [len(exhibit.text) for exhibit in shown] == [240, 240]
        assert "statement" in shown[0].text


def test_the_photograph_is_shown_as_it_is_and_its_pixels_are_the_labels():
    from steprule.lab.tasks.photograph import photograph, places

    task = TaskSpec("image-coords").build()
    shown = torch.frombuffer(
        bytearray(Image.open(io.BytesIO(task.reference[0].png)).tobytes()), dtype=torch.uint8
    ).reshape(64, 96, 3)
    assert (shown / 255 - photograph()).abs().max() <= 0.51 / 255
    for part in sets("image-coords"):
        rows, columns = (part.inputs * torch.tensor([64, 96])).long().unbind(dim=1)
        assert torch.equal(photograph()[rows, columns], part.labels)
    assert len(places()) == 64 * 96


def test_every_task_is_listed_for_programs(capsys):
    assert main(["tasks", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(listed) == list(TASKS)
    for name in BUNDLED:
        row, task = listed[name], TaskSpec(name).build()
        assert row["parameters"] == task.parameter_count()
        assert (row["metric"]["name"], row["target"]) == (task.metric.name, task.target)
        assert row["optimum"] == task.optimum
    assert listed["digits-mlp"]["parameters"] == 4810
    assert {name: row["takes"] for name, row in listed.items() if row["takes"]} == {
        "digits-mlp": ["hidden"],
        "quadratic": ["condition"],
        "mnist": ["data_dir", "hidden"],
        "cifar10": ["data_dir"],
    }


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
        ("--task mnist2", "'digits-mlp', 'digits-cnn'"),
        ("--task digits-cnn --hidden 64", "allowed with: digits-mlp, mnist"),
        ("--task cancer-logreg --hidden 8", "allowed with: digits-mlp, mnist"),
        ("--task mnist", "needs --data-dir"),
        ("--data-dir .", "allowed with: mnist, cifar10"),
        ("--condition 10", "allowed with: quadratic"),
        ("--task quadratic --condition 0.5", "greater than 1"),
        ("--task cancer-logreg --batch-size 342", "at most 341"),
        ("--target 90", "at most 1"),
    ],
)
def test_a_wrong_choice_is_answered_with_what_is_allowed(command, wrong, allowed, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*command.split(), *wrong.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert allowed in err


@pytest.mark.parametrize("name", BUNDLED)
def test_train_reports_on_every_task(name, tmp_path, capsys):
    command = f"train --task {name} --optimizer adam --lr 0.001 --iterations 2 --no-progress --out {tmp_path}"
    assert main(command.split()) == 0
    assert f"validation {TaskSpec(name).build().metric.name}" in capsys.readouterr().out.replace("\n", " ")
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["tasks"][0]["name"] == name
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert TaskSpec(name).build().title.replace("'", "&#39;") in report


def test_the_old_name_of_the_first_task_is_still_understood(capsys):
    command = "train --task digits --optimizer sgd --lr 0.1 --iterations 2 --no-progress --json"
    assert main(command.split()) == 0
    assert json.loads(capsys.readouterr().out)["tasks"][0]["name"] == "digits-mlp"


def test_several_tasks_are_named_with_commas_once_each():
    assert several("quadratic, digits,digits-mlp,my.py:task") == ("quadratic", "digits-mlp", "my.py:task")
    assert several("cancer-logreg,all")[0] == "cancer-logreg"
    assert set(several("all")) == set(TASKS) - {"mnist", "cifar10"}
    with pytest.raises(errors.TaskError, match="'digits-mlp'"):
        several("all,nothing")


def test_every_option_that_a_task_takes_can_be_chosen():
    assert tuple(LEARNT) == BUNDLED
    options = {option for name in TASKS for option in takes(name)}
    assert options <= set(TaskSpec.__dataclass_fields__)
