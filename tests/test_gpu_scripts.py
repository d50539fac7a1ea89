"""What a borrowed GPU is used by: the `gpu` rung, which is collected with little installed, and benchmarks/gpu*.sh."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from steprule.backends.triton_gpu import interpreted

pytestmark = pytest.mark.null

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "benchmarks").glob("gpu*.sh"))
needs_interpreter = pytest.mark.skipif(not interpreted(), reason="needs Triton to interpret kernels")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")


def loaded(place: str) -> ModuleType:
    """Return a file of the repository as a module of its own."""
    spec = importlib.util.spec_from_file_location(Path(place).stem + "_here", ROOT / place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The rung -----------------------------------------------------------------------------------------------


def test_the_gpu_rung_imports_only_the_files_that_have_its_tests(request: pytest.FixtureRequest) -> None:
    leaves_out: Any = loaded("tests/conftest.py").pytest_ignore_collect
    asked = {rung: SimpleNamespace(getoption=lambda _, rung=rung: rung) for rung in ("gpu", "interp", "")}
    files = sorted((ROOT / "tests").rglob("*.py"))
    kept = {path for path in files if not leaves_out(path, asked["gpu"])}
    assert {path.name for path in kept} >= {"conftest.py", "test_on_a_gpu.py", "test_gpu_zoo.py", "test_bench_gpu.py"}
    assert not {path.name for path in kept} & {"test_lightning.py", "test_store.py", "test_docs.py"}
    assert not any(leaves_out(path, asked[rung]) for path in files for rung in ("interp", ""))
    for item in request.session.items:
        if item.get_closest_marker("gpu") or (torch.cuda.is_available() and "test_gpu" in item.path.name):
            assert item.path in kept, item.nodeid


def test_the_labs_tests_are_skipped_before_their_import_where_optuna_is_not(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    lab = loaded("tests/lab/conftest.py")
    place = ROOT / "tests/lab/test_store.py"
    assert lab.pytest_pycollect_makemodule(place, request.session) is None
    monkeypatch.setattr(lab, "find_spec", lambda _: None)
    absent = lab.pytest_pycollect_makemodule(place, request.session)
    with pytest.raises(pytest.skip.Exception, match="needs optuna"):
        absent.collect()


# The scripts --------------------------------------------------------------------------------------------


def once(step: Any, _: int) -> tuple[float, float]:
    """Take one step instead of many that are timed."""
    step()
    return 2e-6, 4e-6


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give the modules that the scripts run, by name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # the rehearsal sets it
    return importlib.import_module


def test_the_shell_scripts_are_bash_and_their_limits_fit_the_minutes_of_a_loan() -> None:
    for script, most in zip(SCRIPTS, (550, 170), strict=True):
        assert subprocess.run([shutil.which("bash") or "bash", "-n", script], check=False).returncode == 0
        text = script.read_text(encoding="utf-8")
        code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        limits = re.findall(r"^(?:do_part \w+|limited) (\d+) |timeout [^$\n]*\$\(\((\d+) \* slower\)\)", code, re.M)
        seconds = [int(one or other) for one, other in limits]
        assert len(seconds) == (5 if most == 550 else 1), code
        assert sum(seconds) + 5 * len(seconds) < most
        assert script.stat().st_mode & 0o111


STUB = """#!/usr/bin/env bash
# A Python that does nothing but note what it was asked, and end as a file beside it says.
place=$(dirname "$0")
case "$*" in
  *gpu_parts.py*) part=check; echo 'Some GPU' ;;
  *gpu_smoke.py*) part=smoke ;;
  *'-m pytest'*) part=rung ;;
  *steprule.bench*) part=bench ;;
  *gpu_table.py*) part=table; echo 'the table' ;;
  *) exit 0 ;;
esac
echo "$part" >>"$place/asked"
exit "$(cat "$place/$part")"
"""


def test_parts_stop_no_other_and_those_that_passed_are_not_done_again(tmp_path: Path) -> None:
    """The script itself, with a Python that is played: what it asks for, and how it ends."""
    place, out = tmp_path / "bin", tmp_path / "out"
    place.mkdir()
    python = place / "python3"
    python.write_text(STUB, encoding="utf-8")
    python.chmod(0o755)

    def run(**codes: int) -> tuple[int, list[str], str]:
        for name in ("check", "smoke", "rung", "bench", "table"):
            (place / name).write_text(str(codes.get(name, 0)), encoding="utf-8")
        (place / "asked").write_text("", encoding="utf-8")
        told = {**os.environ, "OUT": str(out), "PYTHON": str(python)}
        done = subprocess.run([SCRIPTS[0]], env=told, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, (place / "asked").read_text(encoding="utf-8").split(), done.stdout

    code, asked, _ = run(check=2)
    assert (code, asked) == (2, ["check"])
    assert not out.exists()
    code, asked, said = run(smoke=1, rung=124)
    assert (code, asked) == (1, ["check", "smoke", "rung", "bench", "table"])
    assert "== smoke failed: exit code 1" in said
    assert "== rung ran out of its 190 s" in said
    assert said.splitlines()[-1] == "the table"
    code, asked, said = run()
    assert (code, asked) == (0, ["check", "smoke", "rung", "table"])
    assert "== bench has passed before" in said
    assert run()[:2] == (0, ["check", "table"])
    assert {path.name for path in out.iterdir()} == {"gpu.log", "rung.log", "bench.log"}


def test_make_gpu_is_the_script() -> None:
    (line,) = re.findall(r"^gpu:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert "benchmarks/gpu.sh" in line


@without_gpu
@pytest.mark.parametrize("name", ["gpu_parts", "gpu_smoke", "gpu_sweep"])
def test_where_no_gpu_is_each_script_says_what_where_and_what_to_do(
    name: str, scripts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scripts(name).main(["--out", str(tmp_path / "there")]) == 2
    what, where, fix = capsys.readouterr().err.splitlines()
    assert what.startswith("steprule: error: there is no GPU: torch ")
    assert "benchmarks/gpu" in where
    assert fix.startswith("help: run it where torch.cuda.is_available() is True")
    assert not (tmp_path / "there").exists()


@pytest.mark.interp
@needs_interpreter
def test_the_smoke_is_rehearsed_and_its_failures_are_told(
    scripts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that is off, a part that raises: what was found before and after is written, and the table says so."""
    smoke: Any = scripts("gpu_smoke")
    monkeypatch.setattr(smoke, "TINY", ((1, 64),))
    monkeypatch.setattr(smoke, "FEW", 1)
    monkeypatch.setattr(smoke, "TENSORS", 2)
    monkeypatch.setattr(smoke, "CASES", {"AdamW bfloat16": smoke.CASES["AdamW bfloat16"]})
    monkeypatch.setattr(smoke, "host_and_device", once)
    assert smoke.main(["--rehearse", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "smoke.json").read_text(encoding="utf-8"))
    assert found["rehearsal"]
    assert found["failed"] == []
    assert [row["case"] for row in found["numbers"]] == ["AdamW bfloat16"]
    assert [row["waits"] for row in found["waits"]] == [0]
    assert [row["arm"] for row in found["times"]] == ["steprule", "steprule, clip", "torch fused", "copy"]
    assert found["times"][0]["gigabytes_per_second"] == pytest.approx(28 * 64 / 4e-6 / 1e9)
    assert "times mean nothing" in capsys.readouterr().err

    monkeypatch.setattr(smoke, "CASES", {"SGD": ("SGD", {"lr": 0.1}, torch.float32, -1.0)})
    monkeypatch.setattr(smoke, "waits", lambda *_: 1 / 0)
    monkeypatch.setattr(smoke, "times", lambda *_: None)
    assert smoke.main(["--rehearse", "--out", str(tmp_path)]) == 1
    failed = json.loads((tmp_path / "smoke.json").read_text(encoding="utf-8"))["failed"]
    assert [told.partition(":")[0] for told in failed] == ["numbers", "waits"]
    text = "\n".join(scripts("gpu_table").lines(tmp_path))
    assert "0 of 1 optimisers agree with torch; waits: not counted" in text
    assert "wrong: waits: ZeroDivisionError" in text
    assert "rung: nothing was written" in text


@pytest.mark.interp
@needs_interpreter
def test_the_sweep_is_rehearsed_and_names_the_best_of_what_it_timed(
    scripts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep: Any = scripts("gpu_sweep")
    monkeypatch.setattr(sweep, "BUILDS", sweep.BUILDS[:2])
    monkeypatch.setattr(sweep, "host_and_device", once)
    assert sweep.main(["--rehearse", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    arms = {(row["arm"], row["dtype"]) for row in found["rates"]}
    ours = ["block 1024, chunk 4096, 4 warps", "block 1024, chunk 8192, 4 warps"]
    names = ["copy", "torch fused", "zeros", "one element off", *ours, *(f"{own}, clipped" for own in ours)]
    assert arms == {(name, dtype) for name in names for dtype in ("float32", "bfloat16")}
    assert sorted(row["build"] for row in found["best"]) == sorted(ours)
    assert f"The best choice here: {found['best'][0]['build']}." in capsys.readouterr().out

    monkeypatch.setattr(sweep, "SECONDS", -1.0)
    assert sweep.main(["--rehearse", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    assert len(found["left_out"]) == len(arms) - 4
    assert found["best"] == []


def test_the_best_build_is_that_of_the_largest_share_in_all_ways(scripts: Any) -> None:
    sweep: Any = scripts("gpu_sweep")
    rows: list[dict[str, Any]] = [{"arm": "copy", "dtype": "float32", "gigabytes_per_second": 1000.0}]
    for chunk, rates in ((4096, (900.0, 800.0)), (8192, (950.0, 790.0)), (16384, (990.0,))):
        rows += [
            {"arm": f"block 1024, chunk {chunk}, 4 warps", "dtype": "float32", "gigabytes_per_second": rate,
             "block": 1024, "chunk": chunk, "warps": 4}
            for rate in rates
        ]  # fmt: skip
    ranked = sweep.best({"rates": rows})
    assert [own for _, own in ranked] == ["block 1024, chunk 8192, 4 warps", "block 1024, chunk 4096, 4 warps"]
    assert ranked[0][0] == pytest.approx((0.95 * 0.79) ** 0.5)
    assert sweep.best({}) == []


@pytest.mark.interp
@needs_interpreter
def test_a_played_gpu_warns_captures_and_replays_as_a_real_one(scripts: Any) -> None:
    with scripts("gpu_rehearsal").rehearsing():
        with pytest.warns(UserWarning, match="Synchronization debug mode"):
            torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.cuda.set_sync_debug_mode("default")  # says so once
        found = scripts("gpu_smoke").waits_of(torch.cuda.synchronize, 3)
        assert found == 3
        x = torch.zeros(2, device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            x.add_(1.0)
        assert x.tolist() == [0.0, 0.0]
        graph.replay()
        graph.replay()
        assert x.tolist() == [2.0, 2.0]
        with pytest.warns(UserWarning, match="Graph is empty"), torch.cuda.graph(torch.cuda.CUDAGraph()):
            pass
    assert not torch.cuda.is_available() or "cuda" in torch.zeros(1, device="cuda").device.type


def test_the_table_tells_what_each_part_has_left(scripts: Any, tmp_path: Path) -> None:
    table: Any = scripts("gpu_table")
    said = "FAILED tests/a.py::test_b - boom\n===== 1 failed, 9 passed, 2 skipped in 61.00s (0:01:01) =====\n"
    (tmp_path / "rung.log").write_text(said, encoding="utf-8")
    arms = {
        "steprule": {"microseconds": {"median": 100.0}, "gigabytes_per_second": 900.0},
        "torch fused": {"failed": True, "skipped": "CompilationError: no"},
        "copy": {"microseconds": {"median": 90.0}, "gigabytes_per_second": 1000.0},
    }
    about = {"dtype": "float32", "rule": "AdamW", "clip": "none", "suite": "large", "name": "AdamW, flat"}
    cases = [
        {**about, "workload": "flat", "arms": arms},
        {**about, "workload": "GPT-2", "arms": {}, "skipped": "no time", "left_out": True},
    ]
    (tmp_path / "bench.json").write_text(json.dumps({"cases": cases, "complete": False}), encoding="utf-8")
    (tmp_path / "smoke.json").write_text("cut of", encoding="utf-8")
    text = table.lines(tmp_path)
    assert text[:5] == [
        "smoke: nothing was written",
        "rung: 1 failed, 9 passed, 2 skipped in 61.00s (0:01:01)",
        "  FAILED tests/a.py::test_b - boom",
        "bench: 1 cases timed, cut off before its end",
        "  Failed: AdamW, flat: torch fused: CompilationError: no",
    ]
    assert any(re.match(r"AdamW, flat +100 +– +900 +90 %", line) for line in text), "\n".join(text)
    assert any("(left out)" in line for line in text)
    assert max(map(len, text)) <= 100
