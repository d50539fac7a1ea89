"""One whole run on tiny shapes, which many tests look at."""

import json
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from itertools import islice
from types import SimpleNamespace

import pytest
from tiny_scale import TINY

from steprule.__main__ import main
from steprule.bench import run
from steprule.bench.cases import SUITES, half


@pytest.fixture(scope="session")
def bench_run(tmp_path_factory):
    """Run every suite with arms on tiny shapes, in one thread, with two rounds; give what was written and printed."""
    out = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "QUICK", TINY)
        patch.setitem(SUITES, "half", lambda scale: islice(half(scale), 5))  # bfloat16: each kernel takes a second
        patch.setattr("steprule.bench.machine.last_level_cache", lambda: 2**16)
        command = f"bench --quick --suite {','.join(SUITES)} --threads 1 --rounds 2 --out {out}"
        said, noise = StringIO(), StringIO()
        with redirect_stdout(said), redirect_stderr(noise):
            code = main(command.split())
    record = json.loads((out / "bench.json").read_text(encoding="utf-8"))
    return SimpleNamespace(out=out, code=code, said=said.getvalue(), noise=noise.getvalue(), record=record)
