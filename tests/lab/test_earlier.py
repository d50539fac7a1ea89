"""A folder that is used again loses nothing: what was there is numbered, kept and told of."""

import json

import pytest
import synthetic

import steprule as sr
from steprule.__main__ import main
from steprule.bench import command
from steprule.bench.record import Record
from steprule.console.kept import keep, numbered
from steprule.console.progress import Silence
from steprule.lab import cli_tune
from steprule.lab.budget import Budget
from steprule.lab.earlier import REPORT, make_room
from steprule.lab.home import at_home
from steprule.lab.methods import Method
from steprule.lab.protocol import Comparison, Study, StudyPlan
from steprule.lab.results import Provenance
from steprule.lab.runs import RunResult, RunSpec
from steprule.lab.session import Session
from steprule.lab.store.trials import TrialStore
from steprule.lab.tasks import TaskSpec

pytestmark = pytest.mark.null

ANEW = {"storage": None, "resume": False}


def begin(out, run=None, names=REPORT):
    """Begin a study, do one run of it or none, and leave its files."""
    with (
        at_home({"out": out, **ANEW}, "study.journal", names) as home,
        TrialStore.at(home.place, "study", home.settle) as store,
    ):
        store.join({"seeds": "5"}, {})
        store.refresh()
        store.claim(["x"], 1)
        if run is not None:
            store.finish("x", {"n": run}, 0.5)
            for name in names:
                (out / name).write_text(f"{run}")
        return store.place


def held(path):
    with TrialStore.at(str(path), "study") as store:
        store.refresh()
        return store.records()


def files(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.suffix in {".json", ".html", ".csv"}}


@pytest.mark.hostile("S10")
def test_every_study_of_a_folder_is_numbered_and_kept_and_can_be_gone_on_with(tmp_path, capsys):
    for run in range(1, 5):
        assert begin(tmp_path, run) == str(tmp_path / "study.journal")
        told = capsys.readouterr().err
        assert (f"study.journal.{run - 1}, results.{run - 1}.json" in told) == (run > 1)
        assert (f"--storage {tmp_path / f'study.journal.{run - 1}'} goes on with it" in told) == (run > 1)
    for run, name in enumerate(("study.journal.1", "study.journal.2", "study.journal.3", "study.journal"), start=1):
        assert held(tmp_path / name) == {"x": {"n": run}}
    kept = {numbered(tmp_path / name, run).name: f"{run}" for name in REPORT for run in (1, 2, 3)}
    assert files(tmp_path) == kept | dict.fromkeys(REPORT, "4")


def test_an_earlier_study_stays_in_its_place_until_a_run_of_the_new_one_is_done(tmp_path, capsys):
    begin(tmp_path, 1)
    for _ in range(3):
        begin(tmp_path)
    assert capsys.readouterr().err == ""
    assert held(tmp_path / "study.journal") == {"x": {"n": 1}}
    assert files(tmp_path) == dict.fromkeys(REPORT, "1")
    assert not list(tmp_path.glob("study.journal.?"))
    begin(tmp_path, 2)
    assert not list(tmp_path.glob("*.new*"))
    assert held(tmp_path / "study.journal.1") == {"x": {"n": 1}}


def test_nobody_joins_a_study_that_has_not_taken_its_place(tmp_path):
    begin(tmp_path, 1)
    again = {"out": tmp_path, "storage": None, "resume": True}
    with at_home({"out": tmp_path, **ANEW}, "study.journal", REPORT) as home:
        with pytest.raises(sr.errors.StateError, match="another run writes here"), at_home(again, "study.journal", ()):
            pass
        with TrialStore.at(home.place, "study", home.settle) as store:
            store.refresh()
            store.claim(["x"], 1)
            store.finish("x", {"n": 2}, 0.5)
            with at_home(again, "study.journal", ()) as joined:
                assert held(joined.place) == {"x": {"n": 2}}


def test_a_study_killed_while_it_takes_its_place_is_there_afterwards(tmp_path, monkeypatch):
    begin(tmp_path, 1)
    monkeypatch.setattr(TrialStore, "move", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        begin(tmp_path, 2)
    monkeypatch.undo()
    with at_home({"out": tmp_path, "storage": None, "resume": True}, "study.journal", REPORT) as home:
        assert held(home.place) == {"x": {"n": 2}}
    assert held(tmp_path / "study.journal.1") == {"x": {"n": 1}}
    assert files(tmp_path) == {numbered(tmp_path / name, 1).name: "1" for name in REPORT}


def session(out, study):
    methods = (Method("sgd"),)
    plan = StudyPlan(TaskSpec(hidden=(4,)), methods, Budget(None, 2), (0.1,), (0,), ())
    comparison = Comparison((Study(plan, plan.grid),))
    comparison.add([RunResult(RunSpec(plan.task, methods[0], 0.1, 0, plan.budget, "tuning"), "failed", study)])
    return Session(comparison, Provenance("steprule compare", 1, "now", study=study), out, Silence())


def test_a_report_of_the_same_study_is_replaced_and_that_of_another_kept(tmp_path, monkeypatch, capsys):
    """As where two studies share a folder and have storages elsewhere."""
    monkeypatch.setattr("steprule.lab.report.page.page", lambda made: made["study"])
    for study in ("a", "a", "b", "b", "a"):
        assert session(tmp_path, study).finish()[1] is None
        session(tmp_path, study).save()
    pages = {path.name: path.read_text() for path in tmp_path.glob("*.html")}
    assert pages == {"report.1.html": "a", "report.2.html": "b", "report.html": "a"}
    assert json.loads((tmp_path / "results.2.json").read_text())["study"] == "b"
    assert capsys.readouterr().err.count("is kept: results.") == 2


@pytest.mark.cpu
def test_a_run_that_begins_anew_keeps_the_one_before_with_its_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("steprule.lab.report.page.page", lambda made: made["command"])
    line = ["train", "--optimizer=sgd", "--iterations=3", "--hidden=4", "--no-progress", f"--out={tmp_path}"]
    for more in (["--lr=0.1"], ["--lr=0.2"], ["--lr=0.2", "--resume"], ["--lr=0.2"]):
        assert main([*line, *more]) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert "checkpoint.1.pt, results.1.json, report.1.html, runs.1.csv, curves.1.csv" in told[0]
    rates = [json.loads((tmp_path / f"results{n}.json").read_text())["results"][0]["lr"] for n in (".1", ".2", "")]
    assert rates == [0.1, 0.2, 0.2]
    assert len(list(tmp_path.glob("checkpoint*.pt"))) >= 3


def test_a_report_made_again_keeps_a_page_that_says_something_else(tmp_path, monkeypatch, capsys):
    (tmp_path / "results.json").write_text(json.dumps(synthetic.document(1, 1, seeds=1, lrs=2)), encoding="utf-8")
    for said in ("one", "one", "two"):
        monkeypatch.setattr("steprule.lab.report.page.page", lambda _, said=said: said)
        assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.1.html").read_text() == "one"
    assert (tmp_path / "report.html").read_text() == "two"
    assert capsys.readouterr().err == f"What was in {tmp_path} before is kept: report.1.html.\n"
    (tmp_path / "results.json").rename(tmp_path / "results.7.json")
    assert main(["report", str(tmp_path / "results.7.json")]) == 0
    assert (tmp_path / "report.7.html").read_text() == "two"


def test_a_search_of_another_study_keeps_what_the_one_before_found(tmp_path, capsys):
    values = {"out": tmp_path, "as_json": True}
    for study in ("a", "a", "b"):
        trial = {"trial": 1, "params": {"lr": 0.1}, "loss": 1.0, "status": "finished", "reason": ""}
        made = {"study": study, "trials": [trial], "best": trial, "interrupted": False}
        assert cli_tune._finish(made, values) == 0
    assert json.loads((tmp_path / "tuning.1.json").read_text())["study"] == "a"
    assert json.loads((tmp_path / "tuning.json").read_text())["study"] == "b"
    assert "tuning.1.json" in capsys.readouterr().err


def test_a_benchmark_keeps_the_record_before_with_its_picture(tmp_path, capsys):
    targets = [tmp_path / "bench.json", tmp_path / "mine" / "other.json"]
    targets[1].parent.mkdir()
    for target in targets:
        target.write_text("old")
        target.with_suffix(".svg").write_text("old")
    record = Record("steprule bench", {})
    for seconds in (1.0, 2.0):  # on the way, and at the end
        record.seconds = seconds
        command._save(record, targets)
    for target in targets:
        assert json.loads(target.read_text())["seconds"] == 2.0
        assert numbered(target, 1).read_text() == numbered(target.with_suffix(".svg"), 1).read_text() == "old"
    assert capsys.readouterr().err.count("is kept: ") == 2


def test_numbers_go_on_from_the_greatest_and_what_is_no_file_stays(tmp_path):
    for name in ("results.json", "results.3.json", "report.12.html", "results.x.json"):
        (tmp_path / name).write_text(name)
    (tmp_path / "runs.csv").mkdir()
    assert [path.name for path in keep(tmp_path, REPORT)] == ["results.13.json"]
    assert keep(tmp_path, REPORT) == []
    make_room(tmp_path / "nowhere", REPORT, "a")
