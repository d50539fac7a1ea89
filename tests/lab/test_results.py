import json
import math
from pathlib import Path

import pytest

from steprule.console.files import prepare, write_atomically
from steprule.lab.results import as_text

pytestmark = pytest.mark.null


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_atomically(path, "old")

    def full(self, target):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_finite_is_null_and_the_text_is_strict_json():
    def refuse(constant):
        raise AssertionError(constant)

    value = {"curve": [1.0, math.nan, math.inf, 0.123456789], "name": "θ [1,  2]"}
    back = json.loads(as_text(value), parse_constant=refuse)
    assert back["curve"] == [1.0, None, None, 0.123457]


def test_a_number_too_large_to_be_drawn_is_null_as_the_reader_of_records_wants_it():
    assert json.loads(as_text({"loss": 3.3e297, "least": -3.3e297, "kept": 1e149})) == {
        "loss": None,
        "least": None,
        "kept": 1e149,
    }


def test_a_list_of_numbers_stays_on_one_line():
    text = as_text({"curve": [1.5, None, -2e-9], "rows": [{"lr": 0.1}]})
    assert '"curve": [ 1.5, null, -2e-09 ]' in text
    assert json.loads(text)["rows"] == [{"lr": 0.1}]


def test_prepare_makes_the_folder_and_leaves_it_empty(tmp_path):
    prepare(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_prepare_refuses_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        prepare(tmp_path / "file" / "below")
