"""A run that is killed -9 again and again ends as if nothing had happened.

`STEPRULE_KILLS=100 python -m pytest tests/lab/test_kills.py` does it a hundred times.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TIMES = int(os.environ.get("STEPRULE_KILLS", "10"))


@pytest.mark.cpu
@pytest.mark.slow
@pytest.mark.hostile("S7")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the children are forked")
def test_a_run_killed_many_times_is_bit_for_bit_the_run_that_was_not(tmp_path):
    script = str(Path(__file__).with_name("killed.py"))
    command = [sys.executable, script, str(tmp_path), str(TIMES), "5"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(told)
    assert told["at_work"] == TIMES  # every child was killed at its work
    assert told["done"] == sorted(told["done"])  # nothing that was saved is lost
    assert told["done"][-1] > TIMES // 4  # and kills were not all so early that nothing was done between them
    assert (told["same"], told["status"], told["points"]) == (True, "finished", 61)
    assert not list(tmp_path.glob("*.tmp"))
