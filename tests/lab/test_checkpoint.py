"""A run that was killed, whose disk was full or whose files were damaged goes on, bit for bit, or says why not."""

import errno
import hashlib
import io
import json
import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from child import at_line, die, ended, fork
from steprule.__main__ import main
from steprule.errors import StateError
from steprule.lab import training
from steprule.lab.budget import Budget
from steprule.lab.checkpoint import MAGIC, Checkpoint
from steprule.lab.clips import Clip
from steprule.lab.methods import Method
from steprule.lab.runs import RunSpec
from steprule.lab.store.folder_lock import locked
from steprule.lab.tasks import TaskSpec
from steprule.lab.training import made_by, train

pytestmark = pytest.mark.cpu

SPEC = RunSpec(TaskSpec(hidden=(16,)), Method("adam"), 0.01, 3, Budget(epochs=None, iterations=60))
STATE = {"weights": torch.arange(500.0), "done": 7, "curve": [(1, 0.5)]}


class Stop(BaseException):
    """What ends a run from outside."""


def stopped_at(spec, point, checkpoint):
    """Train until so many points have been seen, and end there."""
    seen = []

    def observe(seen_point):
        seen.append(seen_point)
        if len(seen) == point:
            raise Stop

    with pytest.raises(Stop):
        train(spec, observe, checkpoint)


@pytest.fixture
def kept(tmp_path):
    checkpoint = Checkpoint(tmp_path, {"lr": "1"})
    checkpoint.save({**STATE, "done": 6})
    checkpoint.save(STATE)
    return checkpoint


@pytest.mark.parametrize("name", ["gd", "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam"])
@pytest.mark.parametrize("full", [False, True])
def test_a_run_goes_on_bit_for_bit(name, full, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVED_EVERY", -1.0)  # after every iteration
    budget = replace(SPEC.budget, final_full_batch=full)
    spec = replace(SPEC, method=Method(name, clips=(Clip("clip_global_norm", 1.0),)), budget=budget)
    checkpoint = Checkpoint(tmp_path, made_by(spec))
    for point in (5, 23, 60):
        stopped_at(spec, point, checkpoint)
    assert train(spec, None, checkpoint) == train(spec)


@pytest.mark.parametrize(
    ("method", "budget"),
    [
        (Method("adamw", schedule="warmup-cosine"), {}),
        (Method("lion", schedule="cosine"), {"accumulate": 4, "final_full_batch": True}),
        (Method("nesterov", clips=(Clip("clip_global_norm", 0.3),)), {"precision": "bfloat16"}),
        (Method("ademamix"), {"precision": "float16"}),
        (Method("torch.optim:AdamW", (("amsgrad", True),), (Clip("clip_value", 0.01),)), {"accumulate": 3}),
        (Method("torch.optim:SGD", (("momentum", 0.9),), schedule="warmup"), {"precision": "float16"}),
    ],
    ids=str,
)
def test_a_run_of_any_kind_goes_on_bit_for_bit(method, budget, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVED_EVERY", -1.0)
    monkeypatch.setattr(training, "scaler", _quick_scaler)
    spec = replace(SPEC, method=method, budget=replace(SPEC.budget, **budget))
    checkpoint = Checkpoint(tmp_path, made_by(spec))
    for point in (5, 23, 60):
        stopped_at(spec, point, checkpoint)
    assert train(spec, None, checkpoint) == train(spec)


def _quick_scaler(precision):
    """Scale so that the scale moves often in a run this short: it overflows at first, and grows every five steps."""
    return torch.amp.GradScaler("cpu", 2.0**24, growth_interval=5) if precision == "float16" else None


def test_a_run_that_timed_out_goes_on_with_more_time(tmp_path, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(training._Run, "elapsed", lambda _: float(next(clock)))
    hurried, patient = (replace(SPEC, budget=replace(SPEC.budget, timeout=time)) for time in (20.0, None))
    assert train(hurried, None, Checkpoint(tmp_path, made_by(hurried))).reason == "timed out after 20 s"
    monkeypatch.undo()
    assert train(hurried, None, Checkpoint(tmp_path, made_by(hurried))).reason == "timed out after 20 s"
    resumed = train(patient, None, Checkpoint(tmp_path, made_by(patient)))
    assert (resumed.status, resumed.curve) == ("finished", train(patient).curve)


@pytest.mark.hostile("L5")
def test_a_finished_run_has_nothing_left_to_do(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, made_by(SPEC))
    first = train(SPEC, None, checkpoint)
    monkeypatch.setattr(training, "accumulate", None)  # no further iteration can be made
    assert train(SPEC, None, checkpoint) == first


@pytest.mark.hostile("S9", "L5")
@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.02},
        {"seed": 4},
        {"method": Method("sgd")},
        {"task": TaskSpec(hidden=(8,))},
        {"budget": Budget(epochs=2)},
    ],
)
def test_the_state_of_another_run_is_refused(change, tmp_path):
    train(SPEC, None, Checkpoint(tmp_path, made_by(SPEC)))
    other = replace(SPEC, **change)
    with pytest.raises(StateError, match=r"another run .*there.*here"):
        train(other, None, Checkpoint(tmp_path, made_by(other)))


@pytest.mark.hostile("S6")
def test_damage_is_seen_and_the_previous_state_taken(kept):
    whole = kept.newest.read_bytes()
    draw = random.Random(0)
    damaged = [whole[: len(whole) * part // 64] for part in range(64)]
    for _ in range(1000):
        bytes_ = bytearray(whole)
        bytes_[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        damaged.append(bytes(bytes_))
    for content in damaged:
        kept.newest.write_bytes(content)
        with pytest.warns(UserWarning, match="is damaged"):
            assert kept.load()["done"] == 6


@pytest.mark.hostile("S6")
@pytest.mark.filterwarnings("default")  # as on a command line
def test_a_damaged_checkpoint_is_told_of_in_one_line(tmp_path, capsys):
    options = "--optimizer sgd --lr 0.1 --iterations 5 --hidden 4 --no-progress --resume"
    command = ["train", *options.split(), "--out", str(tmp_path)]
    assert main(command) == main(command) == 0  # the second keeps the first's checkpoint as the previous one
    newest = tmp_path / "checkpoint.pt"
    newest.write_bytes(b"")
    capsys.readouterr()
    assert main(command) == 0
    told = f"steprule: warning: {newest} is damaged (it is no checkpoint of this format) and passed over"
    assert told in capsys.readouterr().err.splitlines()


@pytest.mark.hostile("S6")
def test_nothing_whole_is_an_error(kept):
    for path in (kept.newest, kept.previous):
        path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(StateError, match="no checkpoint of this run is whole"),
    ):
        kept.load()


class Command:
    """What a pickle may hold."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def test_nothing_in_a_file_is_executed(kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    torch.save({"made_by": kept.made_by, "state": Command()}, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest().encode()
    kept.newest.write_bytes(MAGIC + digest + b"\n" + buffer.getvalue())
    with pytest.warns(UserWarning, match="more than tensors"):
        assert kept.load()["done"] == 6
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EFBIG])
def test_a_full_disk_leaves_the_last_state(kept, number, monkeypatch):
    def full(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=os.strerror(number)):
        kept.save({**STATE, "done": 8})
    monkeypatch.undo()
    assert kept.load()["done"] == 7
    assert sorted(path.name for path in kept.folder.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]


def test_a_run_survives_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVED_EVERY", -1.0)

    def full(self, state):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Checkpoint, "save", full)
    assert train(SPEC, None, Checkpoint(tmp_path, made_by(SPEC))).status == "finished"


@pytest.mark.hostile("S10")
def test_a_folder_takes_one_run_at_a_time(tmp_path, capsys):
    command = f"train --optimizer sgd --lr 0.1 --iterations 5 --hidden 4 --no-progress --out {tmp_path}".split()
    with locked(tmp_path):
        assert main(command) == 2
    assert "another run writes here" in capsys.readouterr().err
    assert main(command) == 0


def test_resume_wants_a_folder(capsys):
    assert main(["train", "--optimizer", "sgd", "--lr", "0.1", "--resume"]) == 2
    assert "--out" in capsys.readouterr().err


RESUMED = "train --optimizer adam --lr 0.01 --iterations 60 --hidden 16 --no-progress --resume --out"


def killed_command(line, folder):
    training.SAVED_EVERY = -1.0
    at_line(line, training.__file__, die)
    main([*RESUMED.split(), str(folder)])


@pytest.mark.hostile("S7", "S10")
def test_a_command_killed_at_any_line_ends_as_if_it_had_not_been(tmp_path):
    """Twice here, by the command line; test_kills.py does it as often as one likes."""
    for line in (500, 900):
        assert ended(fork(killed_command, line, tmp_path / "killed")) == -signal.SIGKILL  # it was at work, not done
    done = Checkpoint(tmp_path / "killed", {}).newest
    assert done.exists()
    for folder in ("killed", "whole"):
        assert main([*RESUMED.split(), str(tmp_path / folder)]) == 0
    assert _curve(tmp_path / "killed") == _curve(tmp_path / "whole")
    assert not list((tmp_path / "killed").glob(".*.tmp"))


def _curve(folder: Path):
    (optimizer,) = json.loads((folder / "results.json").read_text())["results"]
    (run,) = optimizer["runs"]
    curve = {name: column for name, column in run["curve"].items() if name != "seconds"}
    return curve, run["test_loss"], run["final_training_loss"]
