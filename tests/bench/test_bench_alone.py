"""`python -m steprule.bench` needs click and rich, and nothing else that the lab needs."""

import runpy
import sys

import pytest

import steprule
from steprule import __main__ as front

pytestmark = pytest.mark.null

ABSENT = {"optuna", "sqlalchemy", "jinja2", "markupsafe", "sklearn", "scipy", "PIL", "tensorboard", "matplotlib"}


ROOMS = {"console", "bench", "lab"}


def _ours(name):
    return name.split(".")[0] == "steprule" and name.split(".")[1:2] and name.split(".")[1] in ROOMS


@pytest.fixture
def without():
    """Let modules of some names be found nowhere, and the commands be imported anew; then all is as before."""
    modules, rooms = dict(sys.modules), {name: vars(steprule).get(name) for name in ROOMS}

    def forget(*names):
        for name in [name for name in sys.modules if _ours(name) or name.split(".")[0] in names]:
            del sys.modules[name]
        sys.modules.update(dict.fromkeys(names))

    yield forget
    for name in [name for name in sys.modules if _ours(name) or sys.modules[name] is None]:
        del sys.modules[name]
    sys.modules.update(modules)
    for name, module in rooms.items():
        if module is not None:
            setattr(steprule, name, module)


def alone(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["steprule.bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("steprule.bench", run_name="__main__", alter_sys=False)
    return ended.value.code


def test_the_bench_runs_where_the_lab_cannot(without, monkeypatch, capsys):
    without(*ABSENT)
    assert alone(monkeypatch, "--help") == 0
    assert "Usage: python -m steprule.bench" in capsys.readouterr().out
    assert not any(name.startswith("steprule.lab") for name in sys.modules)
    assert alone(monkeypatch, "--suite", "huge") == 2
    assert "'huge' is none of large" in capsys.readouterr().err
    assert front.main(["bench", "--suite", "huge"]) == 2
    assert "'huge' is none of large" in capsys.readouterr().err


def test_each_other_command_says_when_it_runs_what_it_needs(without, monkeypatch, capsys):
    without(*ABSENT)
    monkeypatch.setattr(front, "find_spec", lambda name: None if name in ABSENT else object())
    assert [front.main(words) for words in ([], ["--help"], ["bench", "--help"], ["explain", "adam"])] == [0] * 4
    assert "the lab needs" not in capsys.readouterr().err
    assert front.main(["compare"]) == 1
    assert "the lab needs jinja2, matplotlib, " in (said := capsys.readouterr().err)
    assert "optuna" in said


def test_without_what_a_command_speaks_with_the_bench_says_so(without, monkeypatch, capsys):
    without("click")
    assert alone(monkeypatch, "--help") == 1
    assert capsys.readouterr().err == "steprule: error: the bench needs click: pip install click rich\n"
