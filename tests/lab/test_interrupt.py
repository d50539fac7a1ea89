"""Ctrl-C in the midst of a run: what is done is kept, the way on is told, and the run goes on bit for bit."""

import json
import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import steprule
from child import at_line, ended, fork
from steprule.__main__ import main
from steprule.console.progress import Silence
from steprule.lab import training
from steprule.lab.budget import Budget
from steprule.lab.checkpoint import Checkpoint
from steprule.lab.interrupt import waiting
from steprule.lab.methods import Method
from steprule.lab.runs import RunSpec
from steprule.lab.tasks import TaskSpec
from steprule.lab.training import made_by, train

pytestmark = pytest.mark.cpu

OWN = """
import torch
from torch import nn
from steprule.lab import Data, Split, Task

def task():
    x = torch.linspace(-1, 1, 96)[:, None]
    parts = slice(0, 64), slice(64, 80), slice(80, None)
    return Task(
        name="own",
        data=Data(*(Split(x[part], x[part] ** 2) for part in parts)),
        model=lambda seed: nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1)),
        loss=nn.functional.mse_loss,
    )
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """A run whose network draws by chance and remembers what it saw: only the very state goes on as it would have."""
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(OWN, encoding="utf-8")
    budget = Budget(epochs=None, iterations=90, batch_size=16)
    return RunSpec(TaskSpec(f"{path}:task"), Method("adam"), 0.01, 3, budget)


@pytest.fixture(scope="module")
def whole(spec):
    return train(spec)


def interrupt():
    raise KeyboardInterrupt


def trained(spec, checkpoint, line, where, act):
    """Train, and do something before so many lines have run since the network was looked at first."""
    try:
        train(spec, lambda point: point.iteration or at_line(line, where, act), checkpoint)
    finally:
        sys.settrace(None)


def test_a_run_with_dropout_goes_on_bit_for_bit(spec, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVED_EVERY", -1.0)
    checkpoint = Checkpoint(tmp_path, made_by(spec))
    for line in (700, 2500):
        with pytest.raises(ZeroDivisionError):
            trained(spec, checkpoint, line, training.__file__, lambda: 1 / 0)
    assert 0 < checkpoint.load()["done"] < 90
    assert train(spec, None, checkpoint) == whole


@pytest.mark.parametrize("line", [400, 1001, 2002, 3003, 4004, 6006])
@pytest.mark.hostile("L3")
def test_an_interrupt_at_any_line_leaves_a_state_from_which_the_run_goes_on(line, spec, whole, tmp_path):
    """Also where it comes in the midst of a step, or of the loop's own counting."""
    checkpoint = Checkpoint(tmp_path, made_by(spec))
    with pytest.raises(KeyboardInterrupt):
        trained(spec, checkpoint, line, str(Path(steprule.__file__).parent), interrupt)
    assert checkpoint.newest.exists()
    assert train(spec, None, checkpoint) == whole
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.hostile("L3")
def test_ctrl_c_waits_until_the_iteration_is_done_and_nothing_is_lost(spec, whole, tmp_path):
    checkpoint, seen = Checkpoint(tmp_path, made_by(spec)), []

    def press(point):
        seen.append(point.iteration)
        if len(seen) == 20:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(spec, press, checkpoint)
    assert checkpoint.load()["done"] == seen[-1]
    assert train(spec, None, checkpoint) == whole


def test_a_second_ctrl_c_does_not_wait_and_one_that_came_too_late_is_not_lost():
    def press(times):
        with waiting() as ctrl_c:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
                done.append(ctrl_c.asked)

    done = []
    for times, seen in ((2, [True]), (1, [True])):
        with pytest.raises(KeyboardInterrupt):
            press(times)
        assert done == seen
        done.clear()
    press(0)


def test_whoever_answers_ctrl_c_or_ignores_it_goes_on_to_do_so():
    seen = []
    for answer in (lambda *_: seen.append(1), signal.SIG_IGN):
        before = signal.signal(signal.SIGINT, answer)
        with waiting() as ctrl_c:
            signal.raise_signal(signal.SIGINT)
            assert not ctrl_c.asked
        assert signal.signal(signal.SIGINT, before) is answer
    assert seen == [1]
    found = []
    thread = threading.Thread(target=lambda: found.append(waiting().__enter__().asked))
    thread.start()
    thread.join()
    assert found == [False]


class Pressing(Silence):
    """Presses ctrl-C when so many evaluations have been made."""

    def __init__(self):
        self.left = 9

    def advance(self):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGINT)


LINE = ["train", "--optimizer=adam", "--lr=0.01", "--iterations=180", "--hidden=8", "--no-progress", "--json", "--out"]


def pressed(folder, noise):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background has it ignored
    os.dup2(os.open(noise, os.O_WRONLY | os.O_CREAT), 2)
    sys.stderr, sys.stdout = os.fdopen(2, "w"), None
    import steprule.lab.cli_train as command

    command.meter = lambda *_, **__: Pressing()
    code = main([*LINE, folder])
    sys.stderr.flush()
    os._exit(code)


@pytest.mark.hostile("L3")
def test_ctrl_c_in_train_writes_the_checkpoint_and_prints_the_line_that_goes_on(tmp_path, capsys):
    """A real signal to a process of its own; then the line it printed, as it stands."""
    folder, noise = tmp_path / "a run", tmp_path / "noise"
    assert ended(fork(pressed, str(folder), str(noise))) == 130
    told = noise.read_text().splitlines()[-1]
    assert told == f"To go on from there: steprule {' '.join(LINE)} '{folder}' --resume"
    interrupted = json.loads((folder / "results.json").read_text())
    assert interrupted["interrupted"]
    assert interrupted["results"][0]["runs"][0]["iterations"] == 24
    assert main([*LINE, str(folder), "--resume"]) == 0
    gone_on = json.loads(capsys.readouterr().out)["results"][0]["runs"][0]
    assert main(LINE[:-1]) == 0
    alone = json.loads(capsys.readouterr().out)["results"][0]["runs"][0]
    for run in (gone_on, alone):
        del run["seconds"], run["optimizer_us_per_step"], run["step_spread"], run["curve"]["seconds"]
    assert gone_on == alone
    assert sorted(path.suffix for path in folder.iterdir() if ".1." in path.name) == []  # it was the same run


def test_ctrl_c_before_anything_is_done_says_so_and_leaves_what_was_there(spec, tmp_path, monkeypatch, capsys):
    (tmp_path / "results.json").write_text("old")
    monkeypatch.setattr(training._Run, "begin", lambda _: interrupt())
    assert main([*LINE, str(tmp_path)]) == 130
    err = capsys.readouterr().err
    assert "Interrupted before the first run was done" in err
    assert "--resume" not in err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_run_that_goes_on_with_no_state_of_its_own_is_told_nothing_of_it(spec, tmp_path):
    other = replace(spec, lr=0.5)
    train(other, None, Checkpoint(tmp_path, made_by(other)))
    with pytest.raises(steprule.errors.StateError, match="another run"):
        train(spec, None, Checkpoint(tmp_path, made_by(spec)))
