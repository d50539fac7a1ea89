"""What a study's storage holds is held to a shape: one wrong field is one clear line, and none is believed."""

import json
import math

import pytest
from optuna.trial import TrialState

import steprule as sr
from steprule.__main__ import main
from steprule.console.progress import Silence
from steprule.lab.budget import Budget
from steprule.lab.dispatch import Dispatcher, cut_key, key_of
from steprule.lab.methods import Method
from steprule.lab.protocol import Comparison, Study, StudyPlan
from steprule.lab.report.shape import RUN, Misshapen, check
from steprule.lab.runs import Point, RunResult, RunSpec, StepTimes, from_record
from steprule.lab.store.trials import PLAN, TrialStore
from steprule.lab.tasks import Exhibit, TaskSpec
from steprule.lab.time_budget import fit_as_record, fit_from_record
from steprule.lab.tuning import Range, Trials, Wish

pytestmark = pytest.mark.null

SPEC = RunSpec(TaskSpec(), Method("sgd"), 0.1, 100, Budget(None, 2))
CURVE = tuple(
    Point(at, at / 2, 32 * at, 0.1 * at, 0.1 if at else None, 2.0 - at, 2.5 - at, 0.1 * at) for at in range(3)
)
DONE = RunResult(
    SPEC,
    "finished",
    "",
    CURVE,
    initial_loss=2.0,
    final_loss=0.5,
    test_loss=0.6,
    test_score=0.9,
    optimizer_us_per_step=3.5,
    step_spread=StepTimes(3.0, 4.5, 40),
    state_bytes_per_parameter=8.0,
    seconds=1.5,
    exhibits=(Exhibit("a text", None, "text"),),
)
RECORD = json.loads(json.dumps(DONE.as_record()))


def test_a_record_of_any_run_comes_back_as_it_was():
    lost = RunResult(SPEC, "diverged", "bad", CURVE[:2], 2.0, math.inf, math.nan, math.nan)
    huge = RunResult(SPEC, "diverged", "bad", CURVE[:1], 2.0, 1e300, 1e200, 0.1)
    for result in (DONE, lost, huge, RunResult(SPEC, "failed", "no such thing")):
        record = json.loads(json.dumps(result.as_record()))
        check(record, RUN)
        assert from_record(SPEC, record).as_record() == record


def leaves(value, path=()):
    """Yield the way to every field of a record."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from leaves(one, (*path, key))


def changed(value, path, new):
    made = json.loads(json.dumps(value))
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    if new is KeyError:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return made


def may_be(path, was, new):
    """Whether nothing in the rest of a record denies that a field says this."""
    if path[0] == "exhibits":  # whose pictures are looked at where a report is read
        return new is KeyError or (new == "text" and path[-1] in {"caption", "png", "text"})
    if path[0] == "gradient_evaluations":  # which older records do not have
        return new is KeyError
    if path[0] == "step_spread":
        return (new is KeyError and len(path) == 1) or (new == -7.25 and path[-1] in {"low", "high"})
    if path[0] == "curve":
        return new == -7.25 and path[1:] not in {("validation_loss", 2), ("epoch", 2)}
    own = {"reason": str, "iterations": int, "epochs": float, "validation_loss": float, "lr": float}
    return (type(new) is type(was) and own.get(path[0], object) is object) or (path[0], new) == ("reason", "text")


@pytest.mark.hostile("L2")
@pytest.mark.parametrize("new", [KeyError, "text", {}, [[]], True, -7.25])
def test_one_wrong_field_of_a_run_is_misshapen_and_never_anything_else(new):
    refused = 0
    for path in leaves(RECORD):
        was = RECORD
        for key in path:
            was = was[key]
        try:
            found = from_record(SPEC, changed(RECORD, path, new))
        except Misshapen:
            refused += 1
        else:
            assert may_be(path, was, new), path
            older = {"step_spread": None, "gradient_evaluations": RECORD["iterations"]}
            assert found.as_record() == {**older, **changed(RECORD, path, new)}
    assert refused > 20


@pytest.mark.parametrize(
    ("field", "new"),
    [
        ("lr", 0.2),
        ("seed", 101),
        ("phase", "tuning"),
        ("iterations", 3),
        ("epochs", 2.0),
        ("validation_loss", 0.1),
        ("status", "splendid"),
    ],
)
def test_a_record_of_another_run_or_at_odds_with_itself_is_not_believed(field, new):
    with pytest.raises(Misshapen, match=field):
        from_record(SPEC, {**RECORD, field: new})


@pytest.fixture(params=["journal", "sqlite"])
def store(request, tmp_path):
    place = str(tmp_path / "study.journal") if request.param == "journal" else f"sqlite:///{tmp_path / 'study.db'}"
    with TrialStore.at(place, "study") as made:
        yield made


def dispatched(store, plan):
    study = Study(plan, plan.grid, fixed_lr=None if plan.grid else 0.1)
    Dispatcher(Comparison((study,)), store, None, Silence(), lambda: None)._learn()


def recorded(store, key, record):
    store.refresh()
    store.claim([key], 1)
    store.finish(key, record, 0.5)


@pytest.mark.hostile("L2")
@pytest.mark.parametrize("change", [{"status": 7}, {"lr": 0.3}, {"curve": None}, {"reason": None}])
def test_a_study_with_a_wrong_record_is_refused_in_three_parts(change, store):
    plan = StudyPlan(SPEC.task, (SPEC.method,), SPEC.budget, (), (), (100,))
    recorded(store, key_of(SPEC), {**RECORD, **change})
    with pytest.raises(sr.errors.StateError, match=r"what is recorded of digits-mlp.*is malformed") as told:
        dispatched(store, plan)
    assert next(iter(change)) in told.value.what
    assert told.value.where
    assert "anew" in told.value.fix
    assert "\n" not in told.value.what


def test_a_done_run_without_a_record_is_refused(store):
    plan = StudyPlan(SPEC.task, (SPEC.method,), SPEC.budget, (), (), (100,))
    recorded(store, key_of(SPEC), {})
    with pytest.raises(sr.errors.StateError, match="has no 'phase'"):
        dispatched(store, plan)


@pytest.mark.parametrize("attribute", [{"key": ["x"]}, {"owner": 3, "key": "y"}, {"record": "none"}])
def test_a_trial_with_odd_attributes_is_refused(attribute, store):
    store._create(TrialState.RUNNING, attribute)
    with pytest.raises(sr.errors.StateError, match=r"trial 0 is malformed"):
        store.refresh()


@pytest.mark.parametrize("rates", [[], [0.3], ["0.1"], None])
def test_a_cut_at_rates_that_are_none_of_the_study_is_refused(rates, store):
    plan = StudyPlan(SPEC.task, (SPEC.method,), SPEC.budget, (0.1, 1.0), (0,), (100,))
    store.agree(cut_key(Study(plan, plan.grid)), {"rates": rates})
    with pytest.raises(sr.errors.StateError, match="rates"):
        dispatched(store, plan)


@pytest.mark.parametrize("plan", [{}, {"asked": {"seeds": 5}, "fitted": {}}, {"asked": {}, "fitted": []}])
def test_a_plan_of_another_shape_is_refused(plan, store):
    store.agree(PLAN, plan)
    with pytest.raises(sr.errors.StateError, match="recorded of plan is malformed"):
        store.join({"seeds": "5"}, {})


def test_a_fitted_plan_of_another_shape_is_misshapen():
    plans = (StudyPlan(SPEC.task, (SPEC.method,), SPEC.budget, (0.1, 1.0), (0,), (100,)),)
    good = fit_as_record(plans, ["a word"])
    assert fit_from_record(plans, good) == (plans, ("a word",))
    for bad in (
        {**good, "plans": []},
        {**good, "words": [1]},
        changed(good, ("plans", 0, "grid"), []),
        changed(good, ("plans", 0, "grid", 0), "0.1"),
        changed(good, ("plans", 0, "epochs"), 1.5),
        changed(good, ("plans", 0, "tuning_seeds"), KeyError),
    ):
        with pytest.raises(Misshapen):
            fit_from_record(plans, bad)


@pytest.mark.hostile("L2")
@pytest.mark.parametrize(
    ("record", "value"),
    [
        ({"losses": [0.5, "0.7"]}, 0.6),
        ({"losses": [0.5]}, 0.5),
        ({"losses": [0.5, 0.7]}, 0.7),
        ({"losses": [0.5, None]}, 0.5),
        ({"status": "splendid"}, 0.6),
        ({"reason": 1}, 0.6),
        ({"seconds": None}, 0.6),
    ],
)
def test_a_trial_with_a_wrong_record_is_refused(record, value, tmp_path):
    plan = StudyPlan(SPEC.task, (SPEC.method,), SPEC.budget, (0.1, 1.0), (0, 1), ())
    with Trials.at(str(tmp_path / "tuning.journal"), "steprule tune") as trials:
        trials.agree_on(Wish(plan, (Range("lr", 0.1, 1.0, log=True),), 0))
        good = {"status": "finished", "reason": "", "losses": [0.5, 0.7], "seconds": 1.0}
        for content, loss in ((good, 0.6), ({**good, **record}, value)):
            trial = trials.optuna.ask()
            trial.suggest_float("lr", 0.1, 1.0, log=True)
            trials.held[str(trial.number)] = trial._trial_id
            trials.finish(str(trial.number), content, loss)
            if content is good:
                assert len(trials.complete()) == 1
        with pytest.raises(sr.errors.StateError, match=r"trial 2 is malformed"):
            trials.complete()


LINES = [
    '{"op_code":99}',
    "[]",
    '{"op_code":4,"worker_id":"w","study_id":"0"}',
    '{"op_code":8,"trial_id":0}',
    "nonsense",
]


@pytest.mark.hostile("L2", "L4")
@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_line_of_a_journal_that_is_none_is_told_with_its_number(line, tmp_path, capsys):
    path = tmp_path / "study.journal"
    with TrialStore.at(str(path), "study") as store:
        store.refresh()
        store.claim(["x"], 1)
        with path.open("a") as file:
            file.write(f"{line}\n{line}\n")
        with pytest.raises(sr.errors.StateError, match=r"line \d+ of the journal is malformed"):
            store.refresh()
        store.held.clear()
    command = f"compare --optimizers sgd --task cancer-logreg --seeds 1 --resume --no-progress --out {tmp_path}"
    assert main(command.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("steprule: error: line ")
    assert len(err.splitlines()) == 3
