"""Several processes do one study, none of them lives for ever, and nothing is lost or counted twice."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace

import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

import steprule as sr
from steprule.__main__ import main
from steprule.console.progress import Silence
from steprule.lab.budget import Budget
from steprule.lab.dispatch import Dispatcher
from steprule.lab.earlier import REPORT
from steprule.lab.home import at_home
from steprule.lab.methods import Method
from steprule.lab.protocol import Comparison, Study, StudyPlan
from steprule.lab.store import journal
from steprule.lab.store import trials as module
from steprule.lab.store.journal import display
from steprule.lab.store.owner import Owner
from steprule.lab.store.trials import TrialStore
from steprule.lab.tasks import TaskSpec
from steprule.lab.workers import Died

pytestmark = pytest.mark.cpu

KILLS = int(os.environ.get("STEPRULE_KILLS", "2"))
"""How often the study is killed; `STEPRULE_KILLS=100 pytest -k killed tests/lab/test_ledger.py` for the full number."""

TINY = (
    "compare --optimizers sgd,adam --trials 3 --lr-range 0.01 1 --tuning-seeds 1 --seeds 5 --task cancer-logreg "
    "--iterations 20 --workers 1 --no-progress"
)


@pytest.fixture(params=["journal", "sqlite"])
def place(request, tmp_path):
    return str(tmp_path / "study.journal") if request.param == "journal" else f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def two(place):
    stores = TrialStore.at(place, "study"), TrialStore.at(place, "study")
    yield stores
    for store in stores:
        store.close()


def trials(store, key):
    return [trial for trial in store.storage.get_all_trials(store.study) if trial.user_attrs.get("key") == key]


def abandoned(store, key, owner):
    """Leave a run behind as an owner does that was killed."""
    (store.owner, mine) = (owner, store.owner)
    store.refresh()
    assert store.claim([key], 1) == [key]
    del store.held[key]
    store.owner = mine
    store.refresh()


def test_a_run_is_claimed_by_one_process_alone(two):
    a, b = two
    a.refresh()
    b.refresh()
    assert a.claim(["x", "y"], 1) == ["x"]
    assert b.claim(["x", "y"], 2) == ["y"]  # though b has not looked since
    assert a.finish("x", {"n": 1}, 0.5)
    b.refresh()
    assert b.records() == {"x": {"n": 1}}
    assert b.claim(["x"], 1) == []


def test_a_result_that_comes_too_late_is_discarded(two):
    a, b = two
    a.refresh()
    a.claim(["x"], 1)
    b.end(trials(b, "x")[0]._trial_id, TrialState.PRUNED)  # as a watcher does that takes a for dead
    b.refresh()
    assert b.claim(["x"], 1) == ["x"]
    assert not a.finish("x", {"by": "a"}, 0.1)
    assert b.finish("x", {"by": "b"}, 0.1)
    a.refresh()
    assert a.records() == {"x": {"by": "b"}}
    assert [trial.state for trial in trials(a, "x")].count(TrialState.COMPLETE) == 1


def test_a_dead_process_of_this_machine_is_known_at_once_even_where_its_number_is_used_again(two):
    a, b = two
    me = Owner.here()
    abandoned(a, "x", f"{Owner(me.machine, me.process, '1')}/n")
    b.refresh()
    b.refresh()
    assert b.claim(["x"], 1) == ["x"]


def test_an_owner_elsewhere_is_dead_once_it_gives_no_sign_for_a_lease(two, monkeypatch):
    a, b = two
    now = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    abandoned(a, "x", "elsewhere/1/1/n")
    b.refresh()
    assert b.claim(["x"], 1) == []
    now[0] += 0.75 * module.LEASE
    a.storage.set_study_user_attr(a.study, "beat elsewhere/1/1/n", 1)
    b.refresh()
    now[0] += 0.75 * module.LEASE
    b.refresh()
    assert trials(b, "x")[0].state == TrialState.RUNNING  # it has shown that it lives
    now[0] += 0.75 * module.LEASE
    b.refresh()
    b.refresh()
    assert b.claim(["x"], 1) == ["x"]


def test_a_run_whose_worker_dies_three_times_has_failed(place):
    class Deadly:
        idle = 1

        def begin(self, spec):
            self.spec = spec

        def ended(self, seconds):
            return [(self.spec, Died("killed"))]

    plan = StudyPlan(TaskSpec(), (Method("sgd"),), Budget(None, 2), (), (), (100,))
    comparison = Comparison((Study(plan, (), fixed_lr=0.1),))
    store = TrialStore.at(place, "study")
    Dispatcher(comparison, store, Deadly(), Silence(), lambda: None).run()
    assert [(run.status, run.reason) for run in comparison.runs] == [("failed", "its worker died 3 times")]
    assert len(trials(store, next(iter(store._trials)))) == 3
    store.close()


def test_another_plan_is_refused_and_the_difference_named(two):
    a, b = two
    assert a.join({"seeds": "5", "torch": "2"}, {"n": 1}) == {"n": 1}
    assert b.join({"seeds": "5", "torch": "2"}, {"n": 2}) == {"n": 1}
    with pytest.raises(sr.errors.StateError, match="seeds: 5 there, 6 here"):
        b.join({"seeds": "6", "torch": "2"}, {})


def test_of_two_plans_proposed_at_the_same_moment_the_first_counts_for_both(two, monkeypatch):
    a, b = two
    refresh, blind = b.refresh, iter([True])
    monkeypatch.setattr(b, "refresh", lambda: None if next(blind, False) else refresh())
    a.join({"seeds": "5"}, {"n": 1})
    assert b.join({"seeds": "5"}, {"n": 2}) == {"n": 1}
    assert a.agree("other", {"by": "a"}) == b.agree("other", {"by": "b"}) == {"by": "a"}


def test_a_journal_in_whose_place_another_was_begun_is_neither_read_nor_written(tmp_path):
    path = tmp_path / "study.journal"
    before = TrialStore.at(str(path), "study")
    before.refresh()
    before.claim(["x"], 1)
    path.rename(tmp_path / "kept")
    after = TrialStore.at(str(path), "study")
    after.refresh()
    after.claim(["y"], 1)
    whole = path.read_bytes()
    for attempt in (before.refresh, lambda: before.finish("x", {"n": 1}, 0.5)):
        with pytest.raises(StorageInternalError, match="another study has been begun in its place"):
            attempt()
    assert path.read_bytes() == whole


def test_a_folder_in_which_others_record_their_runs_begins_no_other_study(tmp_path, capsys):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    shared = {"out": tmp_path / "there", "storage": str(tmp_path / "here" / "study.journal"), "resume": False}
    with at_home(shared, "study.journal", REPORT):
        assert main([*TINY.split(), "--out", str(tmp_path / "here")]) == 2
    assert "another run writes here" in capsys.readouterr().err


def test_a_storage_that_takes_nothing_is_refused_and_no_password_is_told(tmp_path, capsys):
    (tmp_path / "study.db").touch()
    url = f"sqlite:///file:{tmp_path / 'study.db'}?mode=ro&uri=true&password=hush"
    assert main([*TINY.split(), "--out", str(tmp_path / "o"), "--storage", url]) == 2
    told = capsys.readouterr().err
    assert "the storage cannot be opened" in told
    assert "hush" not in told
    assert display("postgresql://me:hush@host/study") == "postgresql://me:***@host/study"
    assert display("study.journal") == "study.journal"


def test_a_lock_of_the_dead_on_a_journal_that_is_gone_is_an_error_and_no_endless_wait(tmp_path):
    me, path = Owner.here(), tmp_path / "study.journal"
    store = TrialStore.at(str(path), "study")
    path.unlink()
    (tmp_path / "study.journal.lock").symlink_to(str(Owner(me.machine, me.process, "1")))
    for attempt in (lambda: store.storage.create_new_trial(store.study), store.refresh):
        with pytest.raises(StorageInternalError, match="No such file"):
            attempt()


@pytest.mark.parametrize("torn", ['{"op_code":4,"wor', '{"op_code":4}garbage', "\x00\x00"])
def test_a_torn_last_line_loses_nothing(tmp_path, torn):
    path = tmp_path / "study.journal"
    before = TrialStore.at(str(path), "study")
    before.refresh()
    before.claim(["x"], 1)
    before.finish("x", {"n": 1}, 0.1)
    with path.open("a") as file:
        file.write(torn)
    after = TrialStore.at(str(path), "study")
    for store in (before, after):
        store.refresh()
        store.claim([f"y{id(store)}"], 1)
        store.refresh()
        assert store.records() == {"x": {"n": 1}}
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine\n")
    assert main([*TINY.split(), "--out", str(tmp_path / "o"), "--storage", str(tmp_path / "notes.txt")]) == 2
    assert "something else" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine\n"


def test_the_lock_of_a_killed_process_is_taken_without_any_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "time", SimpleNamespace(monotonic=lambda: 0.0))  # there is no sleep
    me = Owner.here()
    path = tmp_path / "study.journal"
    (tmp_path / "study.journal.lock").symlink_to(str(Owner(me.machine, me.process, "1")))
    TrialStore.at(str(path), "study").refresh()
    assert [each.name for each in tmp_path.iterdir()] == ["study.journal"]


def start(out, *more, **how):
    command = [sys.executable, "-m", "steprule", *TINY.split(), "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, **how)


def numbers(out):
    """Return every run of a comparison without its times."""
    found = {}
    for row in json.loads((out / "results.json").read_text())["results"]:
        for run in row["runs"]:
            run["curve"].pop("seconds")
            timed = {"seconds", "optimizer_us_per_step", "step_spread", "exhibits"}
            kept = {key: run[key] for key in run if key not in timed}
            found[row["optimizer"], run["phase"], run["lr"], run["seed"]] = kept
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    assert main([*TINY.split(), "--out", str(out)]) == 0
    return numbers(out)


def test_two_processes_in_two_folders_finish_one_study(place, tmp_path, whole):
    parts = [start(tmp_path / name, "--storage", place) for name in ("here", "there")]
    assert [part.wait() for part in parts] == [0, 0]
    assert numbers(tmp_path / "here") == numbers(tmp_path / "there") == whole
    store = TrialStore.at(place, "steprule compare")
    done = [trial for trial in store.storage.get_all_trials(store.study) if trial.state == TrialState.COMPLETE]
    assert set(Counter(trial.user_attrs["key"] for trial in done).values()) == {1}
    assert len(done) == len(whole)
    store.close()


@pytest.mark.hostile("S8")
def test_a_disk_that_is_full_in_the_midst_of_a_study_is_told_and_gone_on_from(tmp_path, whole):
    out = tmp_path / "out"
    full = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))}
    first = start(out, stderr=subprocess.PIPE, text=True, **full)
    told = first.communicate()[1].splitlines()
    assert first.returncode == 1
    assert told[0] == "steprule: error: results can no longer be recorded: File too large"
    assert told[1] == str(out / "study.journal")
    assert len(told) == 3
    assert main([*TINY.split(), "--out", str(out), "--resume"]) == 0
    assert numbers(out) == whole


def fill(place):
    """Record runs in a database that may take few more pages."""
    from sqlalchemy import event

    with TrialStore.at(place, "study") as store:
        engine = store.storage._backend.engine
        with engine.connect() as connection:
            most = connection.exec_driver_sql("PRAGMA page_count").scalar() + 1
        event.listen(engine, "connect", lambda raw, _: raw.execute(f"PRAGMA max_page_count = {most}"))
        engine.dispose()
        store.refresh()
        for number in range(100):
            store.claim([f"run {number}"], 1)
            store.finish(f"run {number}", {"text": "x" * 1000}, 0.0)


@pytest.mark.hostile("S8")
def test_a_database_that_is_full_is_told(tmp_path):
    with pytest.raises(module.Unrecorded, match="database or disk is full"):
        fill(f"sqlite:///{tmp_path / 'study.db'}")


@pytest.mark.hostile("S7", "L5")
def test_a_study_killed_at_random_moments_ends_as_if_it_had_not_been(tmp_path, whole):
    draw, killed = random.Random(0), 0
    out = tmp_path / "out"
    while killed < KILLS:
        child = start(out, "--resume")
        recorded = out / "study.journal"
        size = recorded.stat().st_size if recorded.exists() else 0
        while child.poll() is None and not (recorded.exists() and recorded.stat().st_size > size):
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 1.0))
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            killed += child.wait() == -signal.SIGKILL
        else:
            assert child.returncode == 0
            for left in out.iterdir():  # done before it was killed: begin another one
                left.unlink()
    assert main([*TINY.split(), "--out", str(out), "--resume"]) == 0
    assert numbers(out) == whole
