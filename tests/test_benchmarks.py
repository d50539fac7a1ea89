"""BENCHMARKS.md says what the committed records say, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.null
def test_the_benchmark_page_is_generated_from_the_records() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/report.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list((ROOT / "benchmarks" / "records").glob("*.json"))
