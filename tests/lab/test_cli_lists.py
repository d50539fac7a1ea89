"""What the listing commands print, for people and for programs."""

import json

import pytest

from steprule import board, explain
from steprule.__main__ import main
from steprule.lab.methods import TITLES

pytestmark = pytest.mark.null


def test_every_method_is_listed_with_its_formula(capsys):
    assert main(["optimizers", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(listed) == list(TITLES)
    for name, row in listed.items():
        account = explain(getattr(board, name))
        assert row["formula"] == account.formula
        assert row["bytes_per_parameter"] == account.bytes_per_parameter
    assert listed["adam"]["hyperparameters"] == ["beta1", "beta2", "eps"]
    assert (listed["sgd"]["state_bytes_per_parameter"], listed["adam"]["state_bytes_per_parameter"]) == (0, 8)


@pytest.mark.parametrize("width", [60, 100, 200])
def test_the_table_loses_nothing_at_any_width(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["optimizers"]) == 0
    out = capsys.readouterr().out
    assert all(len(line) <= width for line in out.splitlines())
    assert "…" not in out
    squeezed = "".join(out.replace("│", " ").split())
    for name in TITLES:
        assert name in squeezed
    if width == 200:
        assert all(line.replace(" ", "") in squeezed for line in explain(board.adam).formula.splitlines())
