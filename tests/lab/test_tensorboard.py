"""What TensorBoard finds in the folder that it is given."""

import sys

import pytest

from steprule.__main__ import main
from steprule.lab import tensorboard
from steprule.lab.budget import Budget
from steprule.lab.clips import Clip
from steprule.lab.methods import Method
from steprule.lab.runs import RunSpec
from steprule.lab.tasks import TaskSpec
from steprule.lab.training import train

pytestmark = pytest.mark.cpu
EventAccumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator

METHOD = Method("torch.optim:AdamW", (("betas", (0.9, 0.99)),), (Clip("clip_global_norm", 0.5),), "cosine")
SPEC = RunSpec(TaskSpec(hidden=(8,)), METHOD, 0.01, 3, Budget(None, 20))


def read(folder):
    """The scalars and the hyperparameters of the one run in a folder."""
    (home,) = {path.parent for path in folder.rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(home))
    events.Reload()
    scalars = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content.decode(errors="replace")
    return scalars, content


def test_every_evaluation_and_every_setting_is_there(tmp_path):
    result = train(SPEC)
    tensorboard.write(tmp_path, [result])
    scalars, settings = read(tmp_path)
    for key, tag in tensorboard.TAGS.items():
        expected = {point.iteration: value for point in result.curve if (value := getattr(point, key)) is not None}
        assert scalars[tag] == pytest.approx(expected, rel=1e-6), tag
    assert scalars["test score"][0] == pytest.approx(result.test_score)
    for word in ("torch.optim:AdamW", "cosine", "betas", "0.9,0.99", "clip_global_norm", "batch_size"):
        assert word in settings


def test_a_run_written_again_hides_what_was_there(tmp_path):
    result = train(SPEC)
    for _ in range(2):
        tensorboard.write(tmp_path, [result])
    scalars, _ = read(tmp_path)
    assert len(scalars["loss/validation"]) == len(result.curve)


@pytest.mark.parametrize("lr", [1e30])
def test_what_is_not_finite_is_left_out(tmp_path, lr):
    result = train(RunSpec(SPEC.task, Method("sgd"), lr, 3, SPEC.budget))
    assert result.status == "diverged"
    tensorboard.write(tmp_path, [result])
    scalars, settings = read(tmp_path)
    assert "diverged" in settings
    assert len(result.curve) > len(scalars["loss/training"]) == 2  # at the start, and after the one step


def test_train_and_compare_write_there(tmp_path):
    common = "--iterations 5 --hidden 4 --no-progress --tensorboard"
    assert main([*f"train --optimizer sgd --lr 0.1 {common}".split(), str(tmp_path / "one")]) == 0
    scalars, _ = read(tmp_path / "one")
    assert set(scalars["loss/validation"]) == set(range(6))
    out = ["--out", str(tmp_path / "out")]
    few = "--optimizers sgd,adam --lrs 2 --no-extend --no-defaults --tuning-seeds 1 --seeds 1"
    assert main([*f"compare {few} {common}".split(), str(tmp_path / "all"), *out]) == 0
    runs = {path.parent for path in (tmp_path / "all").rglob("events.out.tfevents.*")}
    assert len(runs) == 6
    assert {run.parent.name for run in runs} == {"sgd", "adam"}


def test_what_is_missing_is_named_with_the_way_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    command = "train --optimizer sgd --lr 0.1 --iterations 5 --hidden 4 --no-progress --tensorboard"
    assert main([*command.split(), str(tmp_path / "events")]) == 2
    assert "pip install 'steprule[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "events").exists()


def test_a_folder_that_cannot_be_written_is_refused(capsys):
    command = "train --optimizer sgd --lr 0.1 --iterations 5 --tensorboard /dev/null/below"
    assert main(command.split()) == 2
    assert "--tensorboard: cannot write" in capsys.readouterr().err
