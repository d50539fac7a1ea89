"""What the listing commands print, for people and for programs."""

import json
import shutil
import subprocess

import pytest
import torch

from steprule import board, explain, optim
from steprule.__main__ import main
from steprule.lab.optimizers import NAMES, TITLES

pytestmark = pytest.mark.null
BASH = shutil.which("bash")


def test_every_method_is_listed_with_its_formula(capsys):
    assert main(["optimizers", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(listed) == list(NAMES)
    for name in TITLES:
        row, account = listed[name], explain(getattr(board, name))
        assert row["formula"] == account.formula
        assert row["bytes_per_parameter"] == account.bytes_per_parameter
    assert listed["adam"]["hyperparameters"] == ["beta1", "beta2", "eps"]
    assert listed["adam"]["defaults"] == {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8}
    assert listed["adamw"]["defaults"]["betas"] == [0.9, 0.999]
    assert listed["lion"]["default_lr"] == 1e-4
    assert (listed["lion"]["ranges"], listed["adam"]["ranges"]) == ({"lr": [1e-5, 0.1]}, {})
    assert listed["lion"]["formula"] == explain(optim.Lion([torch.nn.Parameter(torch.ones(1))])).formula
    torchs = {name: row["torch"] for name, row in listed.items() if row["torch"]}
    assert torchs == {name.lower(): f"steprule.optim:{name}" for name in ("SGD", "Adagrad", "RMSprop", "Adam")}
    assert (listed["sgd"]["state_bytes_per_parameter"], listed["adam"]["state_bytes_per_parameter"]) == (0, 8)


@pytest.mark.parametrize("width", [60, 100, 200])
def test_the_table_loses_nothing_at_any_width(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["optimizers"]) == 0
    out = capsys.readouterr().out
    assert all(len(line) <= width for line in out.splitlines())
    assert "…" not in out
    squeezed = "".join(out.replace("│", " ").split())
    for name in NAMES:
        assert name in squeezed
    assert "(triedfrom1e-05to0.1)" in squeezed or width < 200
    assert squeezed.count("theboard'sown;torch'sissteprule.optim:") == (
        4 if width == 200 else squeezed.count("theboard'sown")
    )
    if width == 200:
        assert all(line.replace(" ", "") in squeezed for line in explain(board.adam).formula.splitlines())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_names_the_command(shell, capsys, monkeypatch):
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert "_STEPRULE_COMPLETE" in out
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    assert main(["completion"]) == 0
    assert capsys.readouterr().out == out


@pytest.mark.skipif(BASH is None, reason="needs bash")
def test_the_bash_script_is_sound(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert subprocess.run([str(BASH), "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "cursor", "offered"),
    [("steprule com", 1, "compare"), ("steprule compare --lr", 2, "--lrs"), ("steprule train --con", 2, "--config")],
)
def test_commands_and_options_are_completed(words, cursor, offered, capsys, monkeypatch):
    monkeypatch.setenv("_STEPRULE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(cursor))
    assert main([]) in {0, 1}  # click 8.1 says that it completed something by 1
    assert f"plain,{offered}" in capsys.readouterr().out.splitlines()
