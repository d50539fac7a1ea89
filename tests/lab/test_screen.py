"""Text that somebody else wrote stays text on a terminal and a page; a stream that fails costs no work."""

import ast
import copy
import errno
import io
import json
import os
import sys
from pathlib import Path

import pytest
import synthetic
from rich.console import Console

import steprule.lab
from steprule.__main__ import main
from steprule.console.progress import Bar, Lines
from steprule.console.screen import Lasting, Screen
from steprule.console.text import clean, encodable, escaped, near, one_line, shown
from steprule.lab.cli import COMMANDS
from steprule.lab.report import terminal
from steprule.lab.report.export import runs_csv
from steprule.lab.report.page import page
from steprule.lab.report.shape import check
from steprule.lab.results import as_text

pytestmark = pytest.mark.null

EVIL = "\x1b]0;owned\x07\x9b31m\u202egnp.\u2066[red]x[/red] :bomb: \udcff\x85\u2028\r\nadam is best\x00\x08"
TRAIN = ["train", "--optimizer", "sgd", "--lr", "0.1", "--iterations", "3", "--hidden", "4"]


def harmless(text):
    return all(letter.isprintable() or letter == "\n" for letter in text)


def poisoned(**how):
    """A document in which every text that is not one of a few words is evil."""
    kept = {"phase", "status", "png", "verdict", "lr_at_edge", "optimizer", "task", "a", "b", "key", "name"}

    def poison(value):
        if isinstance(value, dict):
            return {key: inner if key in kept else poison(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [poison(inner) for inner in value]
        return EVIL.replace("\udcff", "") if isinstance(value, str) else value

    made = synthetic.document(**how)
    text = json.dumps(poison(made))
    for place, name in enumerate(("sgd", "gd", "digits")):
        text = text.replace(f'"{name}"', json.dumps(f"{place}{EVIL}".replace("\udcff", "")))
    made = json.loads(text)
    made["results"][0]["runs"][0].update(status="failed")
    check(made)
    return made


LINES = [
    *(["explain", "adam"], ["explain", "adam", "--json"], ["optimizers"], ["tasks"], ["--help"]),
    *([command, "--help"] for command in COMMANDS),
    *(["explain", "ädam ✓"], ["train", "--nö"], ["report", "/θ"], ["completion", "bash"]),
]


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_every_command_prints_in_any_encoding(line, monkeypatch):
    """As PYTHONIOENCODING=ascii has it, a pipe on Windows, or a file that output is sent to."""
    for encoding in ("ascii", "cp1252"):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        code = main(line)
        told = "".join(stream.buffer.getvalue().decode(encoding) for stream in streams)
        assert code == (2 if line[-1] in {"ädam ✓", "--nö", "/θ"} else 0)
        assert told.strip()
        assert "Traceback" not in told
        if line[-1] == "--json":
            assert json.loads(told)["state_bytes_per_parameter"] == 8


def test_a_report_is_printed_in_any_encoding():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Screen()
    console.file = Lasting(stream)
    terminal.show(console, synthetic.document(2, 2))
    stream.flush()
    assert "learning rate" in stream.buffer.getvalue().decode("ascii")


def test_what_an_encoding_lacks_is_spelt_as_it_is_read():
    assert encodable("θₜ = θₜ₋₁ − η mₜ / √(sₜ + ε), ‖g‖ ≤ 1 … Σ ✓", "ascii") == (
        "thetat = thetat-1 - eta mt / sqrt(st + epsilon), ||g|| <= 1 ... Sigma ?"
    )
    assert encodable("β₁² µ ─┼│ naïve", "cp1252") == "beta1² µ -|| naïve"
    assert encodable("θ\ud800", "utf-8") == "θ?"


def test_what_does_not_print_is_spelt_out_and_lines_stay_or_go():
    assert shown("θ ε 97.2 %\n\tµ") == "θ ε 97.2 %\n\tµ"
    assert shown("\x1b[31m\x07\x9b\u202e\u200b\udcff\xad") == r"\x1b[31m\x07\x9b\u202e\u200b\udcff\xad"
    assert shown("a\xa0b\u2003c\r\n") == "a b c\\r\n"
    assert one_line("a\r\nb\tc\x85d\u2028e\x0bf\x1eg") == "a b c d e f g"
    assert harmless(shown(EVIL))
    assert "\n" not in one_line(EVIL)
    assert clean({EVIL: [EVIL, 1, None]}, one_line) == {one_line(EVIL): [one_line(EVIL), 1, None]}


def test_json_that_is_shown_says_the_same():
    document = {EVIL: [EVIL, "θ", "\U000e0001", 1.5]}
    text = escaped(json.dumps(document, indent=1, ensure_ascii=False))
    assert harmless(text)
    assert "θ" in text
    assert json.loads(text) == document


@pytest.mark.hostile("L4")
@pytest.mark.parametrize("width", [60, 200])
@pytest.mark.parametrize("make", [lambda out, width: Console(file=out, width=width), None], ids=["rich", "ours"])
def test_a_table_of_foreign_text_commands_no_terminal(make, width, monkeypatch):
    out = io.StringIO()
    if make is None:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(sys, "stdout", out)
    terminal.show(make(out, width) if make else Screen(), poisoned(optimizers=3, seeds=2, lrs=3))
    said = out.getvalue()
    assert harmless(said)
    assert "[red]" in said
    assert width < 200 or not [line for line in said.splitlines() if line.startswith("adam is best")]
    assert max(map(len, said.splitlines())) <= width


@pytest.mark.hostile("L4")
@pytest.mark.filterwarnings("default")  # a glyph that no font has
def test_files_and_output_of_a_foreign_record_hold_nothing_that_does_not_print(tmp_path, capsys):
    made = poisoned(optimizers=2, seeds=1, lrs=2)
    (tmp_path / "results.json").write_text(json.dumps(made), encoding="utf-8")
    assert main(["report", str(tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert harmless(out)
    assert harmless(err)
    assert json.loads(out)["protocol"] == made["protocol"]
    for name in ("report.html", "runs.csv", "curves.csv"):
        assert harmless((tmp_path / name).read_text(encoding="utf-8").replace("\t", " ")), name


@pytest.mark.hostile("L2", "L4")
def test_an_error_about_foreign_text_is_one_line_of_text(tmp_path, capsys):
    small = synthetic.document(1, 1, seeds=1, lrs=2)
    evil = EVIL.replace("\udcff", "")
    for change in ({"grids": {evil: 1}}, {"text": evil}):
        made = copy.deepcopy(small)
        made["protocol"].update(change)
        (tmp_path / "results.json").write_text(json.dumps(made), encoding="utf-8")
        assert main(["report", str(tmp_path)]) == 2
        err = capsys.readouterr().err
        assert harmless(err)
        assert len(err.splitlines()) == 3
    (tmp_path / "a.toml").write_text(json.dumps(evil) + " = 1\n", encoding="utf-8")
    for line in (["train", "--config", str(tmp_path / "a.toml")], ["explain", evil], [evil], ["train", f"--{evil}"]):
        assert main(line) == 2
        err = capsys.readouterr().err
        assert harmless(err)
        assert len(err.splitlines()) == 1


def test_progress_takes_a_name_for_text():
    out = io.StringIO()
    lines = Lines(Console(file=out, markup=False), "runs")
    lines.phase(EVIL, 3)
    assert harmless(out.getvalue())
    assert "[red]" in out.getvalue()
    out = io.StringIO()
    with Bar(Console(file=out, force_terminal=True, width=300, color_system=None, legacy_windows=False), "runs") as bar:
        bar.phase(EVIL, 3)
        bar.advance()
    for bad in "\x07\x9b\u202e\x85\u2028":
        assert bad not in out.getvalue()
    assert "\x1b]0;" not in out.getvalue()
    assert "[red]" in out.getvalue()


def test_every_word_to_a_terminal_goes_through_one_door():
    """Nobody else in the lab prints, so nobody can forget what is to be done with foreign text."""
    wrong = []
    for path in sorted(Path(steprule.lab.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name in {"print", "Console"} or name.startswith(("click.echo", "sys.std")):
                wrong.append(f"{path.name}: {name}")
    assert not wrong


@pytest.mark.parametrize(
    ("word", "known", "told"),
    [
        ("ADAMW", ("adam", "adamw"), "did you mean adamw?"),
        ("--LR", ("--lr", "--lrs"), "did you mean --lr?"),
        ("nestrov", ("momentum", "nesterov"), "did you mean nesterov?"),
        ("xyz", ("momentum", "nesterov"), ""),
    ],
)
def test_the_nearest_word_is_found_whatever_its_case(word, known, told):
    assert near(word, known) == told


# Streams ---------------------------------------------------------------------------------------------------


def broken():
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w")


def closed():
    with Path(os.devnull).open("w") as stream:
        return stream


STREAMS = {
    "nobody reads": broken,
    "closed": closed,
    "full": lambda: open("/dev/full", "w", buffering=1),  # noqa: PTH123, SIM115
    "ascii": lambda: io.TextIOWrapper(io.BytesIO(), encoding="ascii"),
    "none": lambda: None,
}


@pytest.mark.cpu
@pytest.mark.hostile("L3", "S8")
@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_progress_that_cannot_be_written_is_dropped_and_work_goes_on(stream, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("steprule.console.progress.EVERY", 0.0)
    monkeypatch.setattr("steprule.lab.report.page.page", lambda _: "a page")
    noise = stream()
    monkeypatch.setattr(sys, "stderr", noise)
    assert main([*TRAIN, "--out", str(tmp_path)]) == 0
    assert main([*TRAIN, "--lr=1e30"]) == 1  # as it is when somebody reads
    monkeypatch.undo()
    assert "validation accuracy" in capsys.readouterr().out
    assert (tmp_path / "report.html").exists()
    if noise is not None:
        noise.close()


@pytest.mark.cpu
@pytest.mark.hostile("L3", "S8")
@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_output_that_cannot_be_written_leaves_the_files_and_the_code_of_the_work(stream, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("steprule.lab.report.page.page", lambda _: "a page")
    out = stream()
    monkeypatch.setattr(sys, "stdout", out)
    full = stream is STREAMS["full"]
    assert main([*TRAIN, "--no-progress", "--out", str(tmp_path)]) == int(full)
    assert main([*TRAIN, "--no-progress", "--lr=1e30"]) == 1
    assert (tmp_path / "report.html").read_text() == "a page"
    err = capsys.readouterr().err
    assert ("steprule: error: cannot write the output: No space left on device.\n" in err) == full
    if out is not None:
        out.close()


def test_what_an_encoding_does_not_have_is_replaced():
    raw = io.BytesIO()
    stream = Lasting(io.TextIOWrapper(raw, encoding="cp1252"))
    stream.write("µ θ\n")
    stream.flush()
    assert raw.getvalue().splitlines() == ["µ theta".encode("cp1252")]
    assert not stream.gone


@pytest.mark.parametrize("code", [errno.EPIPE, errno.ENOSPC, errno.EIO])
def test_a_stream_that_failed_once_is_not_asked_again(code):
    class Failing:
        asked = 0

        def write(self, text):
            self.asked += 1
            raise OSError(code, os.strerror(code))

        flush = write

    stream = Lasting(Failing())
    for _ in range(3):
        assert stream.write("text") == 4
    assert stream.stream.asked == 1
    assert (stream.error is None) == (code == errno.EPIPE)


def test_the_record_in_a_file_is_shown_as_it_is():
    assert harmless(as_text({"title": EVIL}))
    made = synthetic.document(1, 1, seeds=1, lrs=2)
    made["results"][0]["runs"][0]["reason"] = EVIL
    assert harmless(runs_csv(made))
    assert harmless(page(made).replace("\t", ""))
