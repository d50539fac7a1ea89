"""A user's own task: the one in the documentation is learnt, in workers too, and every mistake is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from steprule import errors
from steprule.__main__ import main
from steprule.lab.loading import digest
from steprule.lab.tasks import TaskSpec

PAGE = Path(__file__).parents[2] / "docs" / "learn" / "own-task.md"

SMALL = """
import torch
from torch import nn
from steprule.lab import Data, Metric, Split, Task

half = Split(torch.linspace(0, 1, 40)[:, None], torch.linspace(0, 2, 40)[:, None])
data = Data(half, half, half)
settings = dict(name="line", data=data, model=lambda seed: nn.Linear(1, 1), loss=nn.functional.mse_loss)
task = Task(**settings)

class Line:
    def __new__(cls):
        return task

def made():
    return task

def wrong(**other):
    return Task(**{**settings, **other})

def broken():
    numbers = [1, 2]
    return numbers[7]
"""

# What stands in the file, its name, and what the error must say.
MISTAKES = {
    "task = 3": ("task", "no task but of type int"),
    "def task(): return 'x'": ("task", "no task but of type str"),
    "def task(size): return 1": ("task", "missing 1 required positional argument"),
    "task = broken": ("task", "raised IndexError: list index out of range"),
    "task = wrong(loss=lambda outputs, labels: (outputs - labels)[:, 0])": ("task", "no scalar but of shape (8,)"),
    "task = wrong(loss=lambda outputs, labels: 1.0)": ("task", "no scalar but of type float"),
    "task = wrong(loss=lambda outputs, labels: labels.mean())": ("task", "does not depend on the model"),
    "task = wrong(loss=lambda outputs, labels: (outputs * float('nan')).mean())": ("task", "nan at the start"),
    "task = wrong(loss=lambda outputs, labels: outputs.missing)": ("task", "the loss of"),
    "task = wrong(model=lambda seed: nn.ReLU())": ("task", "no parameters"),
    "task = wrong(model=lambda seed: 'network')": ("task", "no network but of type str"),
    "task = wrong(model=lambda seed: nn.Linear(2, 1))": ("task", "the model of"),
    "task = wrong(measure=lambda outputs, labels: outputs)": ("task", "the measure of"),
    "task = wrong(data=Data(half, half, Split(half.inputs, half.labels[:3])))": ("task", "40 inputs and 3 labels"),
    "task = wrong(data=[half])": ("task", "the data of"),
    "1 / 0": ("task", "ZeroDivisionError"),
    "def (": ("task", "SyntaxError"),
    "": ("other", "has no 'other'"),
}


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.py").write_text(SMALL, encoding="utf-8")
    return tmp_path


def page_task():
    return PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


def test_the_task_of_the_page_has_twenty_lines_and_is_learnt_by_workers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert len(page_task().splitlines()) <= 20
    Path("diabetes.py").write_text(page_task(), encoding="utf-8")
    command = "compare --task diabetes.py:diabetes --optimizers sgd,adam --lrs 2 --lr-range 0.01 0.1 --no-extend"
    assert main([*command.split(), "--tuning-seeds=1", "--seeds=3", "--workers=1", "--no-progress", "--out=out"]) == 0
    assert "test mean squared" in capsys.readouterr().out
    assert (tmp_path / "out" / "report.html").exists()
    task = TaskSpec("diabetes.py:diabetes").build()
    assert (task.title, task.network, task.parameter_count()) == ("diabetes", "Sequential", 193)


@pytest.mark.parametrize("name", ["task", "made", "Line"])
@pytest.mark.parametrize("home", ["small.py", "small"])
def test_a_task_is_named_by_itself_or_by_what_gives_it(name, home, small, capsys):
    command = f"train --task {home}:{name} --optimizer sgd --lr 0.1 --epochs 40 --no-progress --json"
    assert main(command.split()) == 0
    told = json.loads(capsys.readouterr().out)
    assert "line" in json.dumps(told)
    sys.modules.pop("small", None)


@pytest.mark.parametrize("text", MISTAKES)
@pytest.mark.hostile("L1")
def test_a_mistake_is_told_before_anything_is_written(text, small, capsys):
    name, what = MISTAKES[text]
    path = small / "mistake.py"
    path.write_text(f"{SMALL}\n{text}\n", encoding="utf-8")
    assert main(f"compare --task {path}:{name} --out results".split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("steprule: error:")
    assert "Traceback" not in err
    assert what in err
    assert "help: " in err
    assert not (small / "results").exists()


def test_an_exception_is_told_with_its_line(small, capsys):
    assert main(["train", "--task", "small.py:broken", "--optimizer", "sgd", "--lr", "1"]) == 2
    err = capsys.readouterr().err
    line = SMALL.splitlines().index("    return numbers[7]") + 1
    assert f'small.py", line {line}' in err
    assert "return numbers[7]" in err


@pytest.mark.parametrize(
    ("name", "said"), [("none.py:task", "none.py"), ("no.module.here:task", "no module"), ("x:", "x")]
)
def test_what_is_not_there_is_told(name, said, small, capsys):
    assert main(["train", "--task", name, "--optimizer", "sgd", "--lr", "1"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("steprule: error:")
    assert said in err


@pytest.mark.parametrize("name", ["small.py:task", "small:task", "small:made", "again:made"])
def test_a_changed_file_is_another_task(name, small, monkeypatch):
    (small / "again.py").write_text("from small import made", encoding="utf-8")
    for module in ("small", "again"):  # another test's file may have the same name, and its folder be searched
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(small)
    before = digest(name)
    (small / "small.py").write_text(SMALL + "\n", encoding="utf-8")
    assert digest(name) not in {before, ""}


PLAN = """
task = "small.py:task"
optimizers = "sgd,other.py:Mine"
trials = 1
lr-range = [0.1, 1]
iterations = 2
seeds = 1
defaults = false
workers = 1
no-progress = true
"""


def test_a_study_is_gone_on_with_only_where_task_and_optimiser_are_the_same(small, capsys):
    (small / "other.py").write_text("import torch\nclass Mine(torch.optim.SGD): pass", encoding="utf-8")
    (small / "plan.toml").write_text(PLAN, encoding="utf-8")
    line = ["compare", "--config", "plan.toml"]
    assert main(line) == 0
    assert main([*line, "--resume"]) == 0
    for name, said in ("other.py", "formula of other.py:Mine"), ("small.py", "small.py:task: options"):
        text = (small / name).read_text(encoding="utf-8")
        (small / name).write_text(text + "\n", encoding="utf-8")
        capsys.readouterr()
        assert main([*line, "--resume"]) == 2
        assert said in capsys.readouterr().err
        (small / name).write_text(text, encoding="utf-8")


def test_two_tasks_of_one_name_are_refused(small, capsys):
    assert main(["compare", "--tasks", "small.py:task,small.py:made", "--no-progress", "--out", "out"]) == 2
    assert "small.py:task and small.py:made are both named 'line'" in capsys.readouterr().err
    assert not (small / "out" / "study.journal").exists()


def test_an_error_of_a_task_is_of_the_family():
    with pytest.raises(errors.StepruleError):
        TaskSpec("nothing.py:task").build()


def test_the_library_does_not_import_the_lab():
    code = "import steprule, sys; print([name for name in sys.modules if name.startswith('steprule.lab')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
