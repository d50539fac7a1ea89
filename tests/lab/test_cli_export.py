"""The command export: rules by name, numbers and options, and files that are not overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from steprule.__main__ import main

pytestmark = pytest.mark.null


def test_export_writes_a_new_file_with_its_numbers_and_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "adamw_file.py"
    line = ["export", "adamw", "--lr", "0.01", "--clip", "0.5", "--set", "weight_decay=0.2", "--out", str(out)]
    assert main(line) == 0
    text = out.read_text(encoding="utf-8")
    assert "lr=0.01" in text
    assert "weight_decay=0.2" in text
    assert "max_norm=0.5" in text
    assert "steprule export adamw --lr 0.01" in text
    assert main(line) == 2
    assert "is there already" in capsys.readouterr().err
    assert out.read_text(encoding="utf-8") == text


def test_export_names_rules_as_other_commands_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "adam+cautious", "--state", "bfloat16"]) == 0
    assert "class AdamCautious(torch.optim.Optimizer)" in capsys.readouterr().out
    assert main(["export", "torch.optim:SGD"]) == 2
    assert "is not steprule's" in capsys.readouterr().err
    assert main(["export", "adam", "--state", "8bit"]) == 2
    assert "8 bits" in capsys.readouterr().err
