"""The Makefile's own care: an environment that belongs to another checkout is not emptied."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.null
ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_environment_of_another_checkout_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    other = tmp_path / "other"
    environment = other / ".venv"
    environment.mkdir(parents=True)
    (environment / "made").write_text(f"{other}\n", encoding="utf-8")
    (environment / "held").write_text("held", encoding="utf-8")
    line = ["make", "-C", str(ROOT), f"VENV={environment}", f"{environment}/made"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"is the environment of the checkout in {other}" in done.stderr
    assert (environment / "held").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_an_environment_that_nobody_has_is_made() -> None:
    for environment in ("build/never", "/nowhere/never"):
        line = ["make", "-n", "-C", str(ROOT), f"VENV={environment}", f"{environment}/made"]
        assert (
            f"-m venv --clear '{environment}'"
            in subprocess.run(line, capture_output=True, text=True, check=True).stdout
        )
