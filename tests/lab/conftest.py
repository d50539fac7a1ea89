"""One small comparison, done once by real worker processes, which many tests look at."""

import json
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from types import SimpleNamespace

import pytest
import torch

from steprule.__main__ import main


class Absent(pytest.Module):
    """A file of tests that is skipped, with the reason, before it is imported."""

    def collect(self):
        pytest.skip("needs optuna: pip install 'steprule[lab]'", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    """Leave these tests out where the lab's packages are not, such as a borrowed machine with a GPU."""
    return Absent.from_parent(parent, path=module_path) if find_spec("optuna") is None else None


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Train as the lab does: two spinning threads on one core are fifty times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_study(tmp_path_factory):
    """The files, the output and the exit code of `steprule compare` with a tiny budget."""
    out = tmp_path_factory.mktemp("compare")
    command = (
        "compare --optimizers gd,sgd,adam --lrs 4 --lr-range 0.001 1 --no-extend --tuning-seeds 1 --seeds 3 "
        f"--no-defaults --iterations 40 --hidden 16 --workers 2 --clip-value 5 --target 0.5 --out {out}"
    )
    said, noise = StringIO(), StringIO()
    with redirect_stdout(said), redirect_stderr(noise):
        code = main(command.split())
    return SimpleNamespace(
        code=code,
        command=command,
        out=out,
        said=said.getvalue(),
        noise=noise.getvalue(),
        results=json.loads((out / "results.json").read_text(encoding="utf-8")),
        report=(out / "report.html").read_text(encoding="utf-8"),
    )
