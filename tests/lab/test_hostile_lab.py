"""The lab among killed processes, full disks, odd names and readers that have gone."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from child import at_line, die, ended, fork, survives
from steprule.__main__ import main
from steprule.console import files
from steprule.console.files import prepare, write_atomically
from steprule.console.progress import Silence
from steprule.lab import session as sessions
from steprule.lab.budget import Budget
from steprule.lab.methods import Method
from steprule.lab.protocol import Comparison, Study, StudyPlan
from steprule.lab.results import Provenance
from steprule.lab.runs import RunResult, RunSpec
from steprule.lab.session import Session
from steprule.lab.tasks import TaskSpec
from steprule.lab.workers import serve

pytestmark = pytest.mark.cpu

TRAIN = ["train", "--optimizer", "sgd", "--lr", "0.1", "--iterations", "3", "--hidden", "4", "--no-progress", "--out"]


def killed_at_line(number, path):
    at_line(number, files.__file__, die)
    write_atomically(path, json.dumps([number] * 20_000), keep=path.with_name("before"))


@pytest.mark.hostile("S7")
def test_a_process_killed_at_any_line_of_writing_leaves_the_last_whole_file(tmp_path):
    """What is left of the file that was being written goes when the folder is used again."""
    path = tmp_path / "results.json"
    write_atomically(path, "[0]")
    left, number, killed = set(), 0, True
    while killed:
        number += 1
        code = ended(fork(killed_at_line, number, path))
        assert code in {0, -signal.SIGKILL}
        killed = code != 0
        (said,) = set(json.loads(path.read_text(encoding="utf-8")))
        assert said in {0, *range(1, number + 1)}
        left |= {found.name for found in tmp_path.iterdir()}
    assert said == number > 20  # it was killed at every line until it came to the end
    assert any(name.startswith(".results.json.") for name in left)
    assert any(name.startswith(".before.") for name in left)
    prepare(tmp_path)
    assert sorted(found.name for found in tmp_path.iterdir() if not found.name.startswith(".before.")) == [
        "before",
        "results.json",
    ]


@pytest.mark.null
@pytest.mark.hostile("S7")
def test_unfinished_files_of_a_process_that_runs_and_files_of_others_are_left_alone(tmp_path):
    kept = [f".results.json.{os.getppid()}.tmp", ".results.json.tmp", ".other.999999999.tmp", "results.json"]
    for name in [*kept, ".report.html.999999999.tmp"]:
        (tmp_path / name).write_text("")
    prepare(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


# Disks that take nothing -----------------------------------------------------------------------------------

CODES = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES]


@pytest.mark.hostile("S8")
@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_a_disk_that_takes_nothing_costs_the_files_and_not_the_results(code, tmp_path, monkeypatch, capsys):
    """The error is one line, the older file stays, and what was found is printed."""
    (tmp_path / "results.json").write_text("old")

    def refuse(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    assert main([*TRAIN, str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "validation accuracy" in out
    assert err == f"steprule: error: cannot write to {tmp_path}: {os.strerror(code)}.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert (tmp_path / "results.json").read_text() == "old"


def train_with_room_for(size, folder):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    sys.stdout = sys.stderr = SimpleNamespace(write=len, flush=bool, isatty=bool)
    os._exit(main([*TRAIN, str(folder)]))


@pytest.mark.hostile("S8")
def test_a_file_that_may_not_grow_so_large_is_a_full_disk(tmp_path):
    (tmp_path / "results.json").write_text("old")
    assert ended(fork(train_with_room_for, 1000, tmp_path)) == 1
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.hostile("S8")
@pytest.mark.parametrize(
    ("name", "code"), [("file", 2), ("file/below", 2), ("x" * 300, 2), ("/proc/nobody", 2), ("results", 1)]
)
def test_a_place_that_cannot_be_written_is_told_in_one_line(name, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("old")
    (tmp_path / "results" / "results.json").mkdir(parents=True)  # a folder where the file belongs
    assert main([*TRAIN, name]) == code
    err = capsys.readouterr().err
    assert err.startswith("steprule: error:")
    assert len(err.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.null
@pytest.mark.hostile("S8")
def test_a_disk_that_is_full_for_a_while_stops_no_run(tmp_path, monkeypatch):
    """Saving on the way fails twice; the last time there is room again."""
    methods = (Method("sgd"),)
    plan = StudyPlan(TaskSpec(hidden=(4,)), methods, Budget(None, 2), (0.1,), (0,), ())
    comparison = Comparison((Study(plan, plan.grid),))
    session = Session(comparison, Provenance("steprule compare", 1, "now"), tmp_path, Silence())
    room = iter([False, False])

    def write(path, text, first):
        if not next(room, True):
            raise OSError(errno.ENOSPC, "No space left on device")
        write_atomically(path, text, first=first)

    monkeypatch.setattr(sessions, "write_atomically", write)
    monkeypatch.setattr(sessions, "SAVE_EVERY", -1.0)
    for seed in range(2):
        spec = RunSpec(plan.task, methods[0], 0.1, seed, plan.budget, "tuning")
        comparison.add([RunResult(spec, "failed", "for a test")])
        session._save_sometimes()
        assert not (tmp_path / "results.json").exists()
    with session.until_interrupted():
        pass
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [run["status"] for run in written["results"][0]["runs"]] == ["failed", "failed"]


# Readers that have gone ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.hostile("L3")
def test_a_reader_that_has_gone_is_no_error_and_a_full_disk_is_one_line():
    """Two commands at once, to their very end: into a pipe nobody reads, and onto a disk that is always full."""
    command = [sys.executable, "-m", "steprule", "explain", "adam"]
    read, write = os.pipe()
    os.close(read)
    with Path("/dev/full").open("w") as full:
        running = [subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True) for out in (write, full)]
    os.close(write)
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 1]
    assert said == ["", "steprule: error: cannot write the output: No space left on device.\n"]


def speak_into_nothing():
    sys.stdout = None  # as Python has it when its output was closed before it began
    os._exit(main(["explain", "adam"]) + main([*TRAIN[:-1], "--json"]))


@pytest.mark.hostile("L3")
def test_without_any_output_a_command_still_does_its_work():
    assert ended(fork(speak_into_nothing)) == 0


@pytest.mark.hostile("L3")
def test_a_run_that_is_terminated_ends_at_once_and_leaves_the_older_file_whole(tmp_path):
    (tmp_path / "results.json").write_text("old")
    child = fork(main, ["train", "--optimizer=sgd", "--lr=0.1", "--iterations=10000000", f"--out={tmp_path}"])
    time.sleep(0.5)
    os.kill(child, signal.SIGTERM)
    assert ended(child) == -signal.SIGTERM
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.hostile("L3")
def test_a_worker_whose_study_was_killed_ends_without_a_word(tmp_path):
    """It notices when it comes to hand over its run."""

    def gone(_):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    spec = RunSpec(TaskSpec(hidden=(4,)), Method("sgd"), 0.1, 0, Budget(None, 2))
    survives(serve, SimpleNamespace(recv=lambda: spec, send=gone))


# Names -----------------------------------------------------------------------------------------------------

NAMES = ["two\nlines", "-rf", "ra😀ke", "<b>bold & <script>", "a'b\"c", "../beside", "%s {0} $HOME", "end."]


@pytest.mark.hostile("L4")
@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_folder_of_any_name_is_the_only_place_that_is_written_and_its_name_is_only_text(
    name, tmp_path, monkeypatch, capsys
):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert main([*TRAIN[:-1], f"--out={name}"]) == 0
    assert name in capsys.readouterr().out
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    files = ("checkpoint.pt", "curves.csv", "report.html", "results.json", "runs.csv")
    assert sorted(found) == [(here / name).resolve() / file for file in files]
    report = (here / name / "report.html").read_text(encoding="utf-8")
    assert "<b>bold" not in report
    assert json.loads((here / name / "results.json").read_text(encoding="utf-8"))["complete"]
