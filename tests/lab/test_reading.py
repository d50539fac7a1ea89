"""A results.json that somebody else could have written: refused in three parts, or made into a page."""

import copy
import json
import math
import random

import pytest
import synthetic

import steprule as sr
from steprule.__main__ import main
from steprule.lab.report.page import page
from steprule.lab.report.reading import read
from steprule.lab.results import as_text

pytestmark = pytest.mark.cpu

SMALL = synthetic.document(2, 1, seeds=2, lrs=3)


def refused(tmp_path, content):
    file = tmp_path / "results.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(sr.errors.StateError) as told:
        read(tmp_path)
    assert told.value.where == str(file)
    assert told.value.fix
    return told.value.what


@pytest.mark.hostile("L2")
@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "no strict JSON|not strict JSON"),
        ("[" * 100_000, "not strict JSON"),
        ('{"schema": NaN}', "NaN is no number"),
        ('{"schema": 2, "command": "\\ud800"}', "not strict JSON"),
        ("{" + '"schema": ' + "9" * 10_000 + "}", "not strict JSON"),
        (b"\xff\xfe\x00", "not UTF-8"),
        ("[]", "names no schema"),
        ("{}", "names no schema"),
        ('{"schema": 1}', "schema 1, and this version reads 2"),
        ('{"schema": 3}', "schema 3, and this version reads 2"),
        ('{"schema": 2}', "has no 'command'"),
    ],
    ids=range(11),
)
def test_what_is_no_record_is_refused_in_three_parts(content, why, tmp_path):
    assert any(part in refused(tmp_path, content) for part in why.split("|"))


def changed(change):
    made = copy.deepcopy(SMALL)
    change(made)
    return json.dumps(made)


@pytest.mark.hostile("L2")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda made: made["optimizers"].append(made["optimizers"][0]), "optimizers name one thing twice"),
        (lambda made: made["results"][0].update(task="other"), "results[0].task names nothing"),
        (lambda made: made["results"][0]["runs"][0]["curve"]["lr"].pop(), "columns of different lengths"),
        (lambda made: made["results"][0]["runs"][0].update(status="<b>"), "runs[0].status is none of finished"),
        (lambda made: made["results"][0]["runs"][0].update(lr="0.1"), "runs[0].lr is not a number"),
        (lambda made: made["results"][0]["runs"][0].update(lr=1e200), "runs[0].lr is not a number"),
        (lambda made: made["results"][0]["runs"][0].update(seed=True), "seed is not a whole number"),
        (lambda made: made["tasks"][0].update(about=None), "tasks[0].about is not text"),
        (lambda made: made["tasks"][0]["reference"][0].update(png='"><script>'), "a picture that is no PNG"),
        (lambda made: made["comparisons"][0].update(a="nobody"), "comparisons[0].a names nothing"),
        (lambda made: made.update(winner=[]), "winner is no object"),
    ],
    ids=range(11),
)
def test_what_is_misshapen_is_refused_and_where_is_told(change, why, tmp_path):
    told = refused(tmp_path, changed(change))
    assert "malformed" in told
    assert why in told


STRANGE = [None, True, -1, 0, 1e-300, 1e149, 2**60, "", "x" * 3000, "$\\frac{", "\x00\x1b[31m\u202e", [], {}, [[]]]


def mutate(value, draw):
    """Put something strange in the place of some part of the document."""
    while True:
        at = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
        inner = value[at]
        if isinstance(inner, dict | list) and inner and draw.random() < 0.85:
            value = inner
            continue
        value[at] = draw.choice(STRANGE)
        return


@pytest.mark.hostile("L4")
@pytest.mark.filterwarnings("default")  # a glyph that no font has is the reader's loss, and no fault
def test_a_document_changed_at_random_is_refused_or_made_into_a_page(tmp_path):
    draw = random.Random(1)
    small = synthetic.document(1, 1, seeds=1, lrs=2)
    outcomes = {"refused": 0, "made": 0}
    for _ in range(60):
        made = copy.deepcopy(small)
        mutate(made, draw)
        (tmp_path / "results.json").write_text(json.dumps(made), encoding="utf-8")
        try:
            document = read(tmp_path)
        except sr.errors.StateError:
            outcomes["refused"] += 1
            continue
        if outcomes["made"] < 12:
            assert page(document).startswith("<!doctype html>")
        outcomes["made"] += 1
    assert min(outcomes.values()) >= 5


def test_numbers_as_large_as_they_are_allowed_are_drawn(tmp_path):
    made = copy.deepcopy(synthetic.document(1, 1, seeds=2, lrs=2))
    for row in made["results"]:
        for one in row["runs"]:
            for column in ("training_loss", "validation_loss", "gradient_norm"):
                one["curve"][column] = [1e149 if at % 2 else 1e-149 for at in range(len(one["curve"][column]))]
            one["validation_loss"] = 1e149
    assert math.isfinite(len(page(made)))


def test_report_makes_the_files_again_from_the_record_alone(tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps(SMALL), encoding="utf-8")
    assert main(["report", str(tmp_path)]) == 0
    assert "No winner is named" in capsys.readouterr().out
    assert sorted(file.name for file in tmp_path.iterdir()) == ["curves.csv", "report.html", "results.json", "runs.csv"]
    first = (tmp_path / "report.html").read_bytes()
    assert main(["report", str(tmp_path / "results.json"), "--out", str(tmp_path / "again"), "--json"]) == 0
    assert capsys.readouterr().out == as_text(SMALL) + "\n"
    assert (tmp_path / "again" / "report.html").read_bytes() == first


def test_report_of_a_real_comparison_is_the_page_that_compare_wrote(small_study, tmp_path, capsys):
    assert main(["report", str(small_study.out), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == small_study.report


@pytest.mark.hostile("L2")
@pytest.mark.parametrize("source", ["nowhere", "."])
def test_report_without_a_record_is_told_in_words(source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", source]) == 2
    err = capsys.readouterr().err
    assert err.startswith("steprule: error: ")
    assert "is not there" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
