"""Ranges that rules bring along: where a comparison tries their learning rates, and a search all that has one."""

import json
import math
from dataclasses import replace

import pytest

import steprule as sr
from steprule.__main__ import main
from steprule.lab import cli_tune, session
from steprule.lab.budget import Budget
from steprule.lab.dispatch import asked
from steprule.lab.methods import Method
from steprule.lab.protocol import Study, StudyPlan, cut_words, selection
from steprule.lab.runs import Point, RunResult
from steprule.lab.tasks import TaskSpec
from steprule.lab.workers import attempt

GRID = (0.01, 0.1, 1.0)
MINE = """
import steprule as sr

@sr.rule
def mine(theta, g, m, *, lr=sr.hyper(1e-3, low=0, tune=(2e-4, 2e-2)), beta=sr.hyper(0.9, low=0, high=1, tune=(0, 1))):
    m = beta * m + (1 - beta) * g
    return theta - lr * m, m

@sr.rule
def from_nothing(theta, g, *, lr=sr.hyper(1e-3, low=0, tune=(0, 1))):
    return theta - lr * g

clipped = sr.chain(sr.clip_value, mine)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rules") / "mine.py"
    path.write_text(MINE, encoding="utf-8")
    return path


def study(*methods, **more):
    plan = StudyPlan(TaskSpec(), methods, Budget(), GRID, (0,), (100,), own_ranges=True, **more)
    return Study(plan, GRID)


def conduct(study, at):
    """Pretend that runs lose as much as their learning rate is far from a method's own."""
    while wanted := study.wanted():
        losses = [0.1 + abs(math.log10(spec.lr / at[spec.method.name])) for spec in wanted]
        study.add(
            RunResult(spec, "finished", curve=(Point(1, 1.0, 32, 0.1, 0.1, loss, loss, 0.5),), test_score=0.5)
            for spec, loss in zip(wanted, losses, strict=True)
        )


def tried(study, method):
    return [run.spec.lr for run in study.tuning_runs(method)]


@pytest.mark.null
def test_a_rule_brings_its_ranges_from_a_file_behind_clippings_and_as_a_class(file):
    assert Method(f"{file}:mine").ranges == {"lr": (2e-4, 2e-2), "beta": (0.0, 1.0)}
    assert Method(f"{file}:clipped").lr_range == (2e-4, 2e-2)
    assert Method("prodigy").lr_range == (0.1, 10.0)
    assert Method("lion", (("weight_decay", 0.1),)).lr_range == (1e-5, 0.1)  # behind a transform that shares its lr
    assert Method("sgd").lr_range is Method("torch.optim:AdamW").lr_range is None
    with pytest.raises(sr.errors.HyperparameterError, match="searched from 0") as caught:
        Method(f"{file}:from_nothing").lr_range  # noqa: B018
    assert "--lr-range" in caught.value.fix


@pytest.mark.null
def test_every_method_tries_as_many_rates_whatever_its_range_and_all_ranges_grow_together():
    sgd, lion, adam = methods = tuple(map(Method, ("sgd", "lion", "adam")))
    done = study(*methods)
    conduct(done, {"sgd": 0.1, "lion": 1e-9, "adam": 1e9})
    assert tried(done, sgd) == tried(done, adam) == list(done.grid) == [1e-4, 1e-3, *GRID, 10.0, 100.0]
    assert tried(done, lion) == [1e-9, 1e-7, 1e-5, 1e-3, 0.1, 10.0, 1e3]
    assert [done.choice(method).lr for method in methods] == [0.1, 1e-9, 100.0]
    assert [done.choice(method).edge for method in methods] == [None, "low", "high"]
    told = selection(done.plan)
    assert "equally many learning rates" in told
    assert "(lion from 1e-05 to 0.1)" in told
    assert "same learning rates" in selection(replace(done.plan, own_ranges=False))


@pytest.mark.null
def test_time_that_runs_out_keeps_the_same_places_of_every_range():
    methods = (Method("sgd"), Method("lion"))
    cut = study(*methods)
    rates = [spec for spec in cut.wanted() if spec.lr in {0.01, 1.0, 1e-5, 0.1}][:4]
    cut.add(RunResult(spec, "finished", curve=(Point(1, 1.0, 32, 0.1, 0.1, spec.lr, spec.lr, 0.5),)) for spec in rates)
    assert cut.complete_rates() == (0.01, 1.0)
    cut.cut_short(cut.complete_rates())
    assert [cut.choice(method).lr for method in methods] == [0.01, 1e-5]
    assert "in these places" in cut_words(cut)


@pytest.mark.null
def test_a_study_goes_on_only_with_the_ranges_that_it_began_with(monkeypatch):
    plan = study(Method("sgd"), Method("lion")).plan
    words = asked((plan,), None)
    assert str((1e-5, 1e-3, 0.1)) in words.values()
    assert str((1e-5, 1e-3, 0.1)) not in asked((replace(plan, own_ranges=False),), None).values()
    monkeypatch.setattr(Method, "lr_range", property(lambda self: (1e-4, 1.0) if self.name == "lion" else None))
    assert asked((plan,), None) != words


class Here:
    """A pool without processes: what begins is done at once."""

    def __init__(self, workers):
        self.idle, self.done = workers, []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def begin(self, spec):
        self.done.append((spec, attempt(spec)))

    def ended(self, pause):
        del pause
        found, self.done = self.done, []
        return found


@pytest.mark.cpu
def test_compare_tells_where_it_tried_and_takes_other_ranges_from_the_command_line(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(session, "WorkerPool", Here)
    line = (
        f"compare --task cancer-logreg --optimizers sgd,{file}:mine --lrs 3 --iterations 2 --tuning-seeds 1 --seeds 1"
    )
    line += " --no-extend --no-defaults --workers 1 --no-progress --json --out"
    assert main([*line.split(), str(tmp_path)]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["protocol"]["own_grids"] == {"cancer-logreg": {f"{file}:mine": [2e-4, 2e-3, 2e-2]}}
    mine = made["results"][1]
    assert [run["lr"] for run in mine["runs"] if run["phase"] == "tuning"] == [2e-4, 2e-3, 2e-2]
    assert "mine from 0.0002 to 0.02" in made["protocol"]["text"][0]
    assert "mine 0.0002, 0.002, 0.02" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert main([*line.split(), str(tmp_path), "--resume", "--lr-range", "0.1", "1"]) == 2
    said = capsys.readouterr().err
    assert "another plan" in said
    assert f"learning rates of {file}:mine" in said  # which with --lr-range are those of the grid


@pytest.mark.null
@pytest.mark.parametrize(
    ("rest", "space"),
    [
        ("", ["lr=0.0002:0.02:log", "beta=0:1"]),
        ("--search beta=0.5:0.9 --lr-range 0.1 1", ["lr=0.1:1:log", "beta=0.5:0.9"]),
        ("--beta 0.5", ["lr=0.0002:0.02:log"]),
    ],
)
def test_tune_searches_where_the_rule_says_unless_it_is_told_otherwise(rest, space, file, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(cli_tune.Search, "run", lambda self: found.append(self.wish))
    main(f"tune --optimizer {file}:mine --task cancer-logreg --no-progress --out {tmp_path} {rest}".split())
    assert [str(one) for one in found[0].space] == space
