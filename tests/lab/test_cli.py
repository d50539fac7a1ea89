import ast
import json
import re
import sys
import tomllib
from pathlib import Path

import click
import pytest

import steprule
from child import interpreter
from steprule import __main__ as front
from steprule.__main__ import main
from steprule.console.progress import Lines, about
from steprule.lab.cli import COMMANDS, cli

WRONG = [
    ("compare --optimizers adamm", "gd, sgd, momentum, nesterov, adagrad, rmsprop, adam, "),
    ("compare --optimizer adam", "--optimizers"),
    ("compare --lrs 0", "1<=x<=200"),
    ("compare --lr-range 1 0.1", "LOW below HIGH"),
    ("compare --lr-range 0 1", "greater than 0"),
    ("compare --epochs 3 --iterations 5", "exclude each other"),
    ("compare --hidden 64,0", "from 1 to 4096"),
    ("compare --hidden x", "from 1 to 4096"),
    ("compare --target 90", "at most 1"),
    ("compare --seeds many", "not a valid integer"),
    ("compare --workers 0", "1<=x<=1024"),
    ("compare --clip-norm=0", "greater than 0"),
    ("compare --clip-value=nan", "greater than 0"),
    ("compare --optimizers sgd,gd --beta 0.9", "none besides the learning rate"),
    ("compare --optimizers rmsprop --beta1 0.9", "--beta, --eps"),
    ("compare --beta 1.5", "at most 1"),
    ("train --optimizer adam", "--lr"),
    ("train --lr 0.1", "--optimizer"),
    ("train --optimizer adam --lr inf", "greater than 0"),
    ("train --optimizer lyon --lr 1", "adam, "),
    ("train --optimizer torch.optim:Adamm --lr 1", "AdamW"),
    ("train --optimizer adam --lr 1 --schedule linear", "'cosine'"),
    ("train --optimizer adam --lr 1 --set eps=1", "NAME.HYPER=VALUE"),
    ("train --optimizer adam --lr 1 --set adamw.eps=1", "allowed: adam"),
    ("train --optimizer adam --lr 1 --set adam.betas=1,2", "beta1, beta2, eps"),
    ("train --optimizer adam --lr 1 --set adam.eps=x", "not a number"),
    ("train --optimizer adam --lr 1 --batch-size 5000", "at most 1077"),
    ("explain lyon", "adam, "),
    ("explain torch.optim:AdamW", "not steprule's"),
    ("explain adam --format pdf", "'latex'"),
    ("explain adam --beta 0.5", "--beta1"),
    ("frobnicate", "frobnicate"),
    ("--frobnicate", "--frobnicate"),
    ("train --optimizer sgd --lr 1 --frobnicate", "--frobnicate"),
    ("train --optimizer sgd --lr nan", "greater than 0"),
    ("train --optimizer sgd --lr=-1", "greater than 0"),
    ("train --optimizer sgd --lr 1 --iterations -1", "1<=x<=10000000"),
    ("train --optimizer sgd --lr 1 --iterations 1e9", "not a valid integer"),
    ("train --optimizer sgd --lr 1 --iterations 1000000000", "1<=x<=10000000"),
    ("train --optimizer sgd --lr 1 --epochs 99999999999999999999", "1<=x<=100000"),
    ("train --optimizer sgd --lr 1 --out /dev/null", "cannot write to"),
    ("train --optimizer sgd --lr 1 --out /dev/null/below", "cannot write to"),
    ("train --optimizer sgd --lr 1 extra", "extra"),
    ("explain", "Missing argument"),
    ("explain adam --eps \x00", "at least 0"),
]


@pytest.mark.null
@pytest.mark.hostile("L1")
@pytest.mark.parametrize(("command", "allowed"), WRONG, ids=[command for command, _ in WRONG])
def test_a_wrong_argument_is_answered_in_one_line_with_what_is_allowed(command, allowed, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("steprule: error:")
    assert allowed in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.null
@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("train --optimizer torch.optim:LBFGS --lr 1", "closure"),
        ("train --optimizer torch.optim:SparseAdam --lr 1", "dense gradients"),
        ("train --optimizer adam --lr 1 --set adam.beta1=2", "beta1"),
    ],
)
def test_an_optimiser_that_cannot_train_is_refused_before_any_work(command, told, capsys, tmp_path):
    assert main([*command.split(), "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert "help: " in err


@pytest.mark.cpu
@pytest.mark.hostile("L1")
def test_of_an_option_given_twice_the_last_counts(capsys):
    """So that a command can be completed by what is put behind it."""
    assert (
        main(["train", "--optimizer", "adam", "--lr", "9", "--lr=0.5", "--optimizer=sgd", "--iterations=2", "--json"])
        == 0
    )
    (row,) = json.loads(capsys.readouterr().out)["results"]
    assert (row["optimizer"], row["lr"]) == ("sgd", 0.5)


@pytest.mark.null
@pytest.mark.parametrize("command", ["compare", "train --optimizer sgd --lr 0.1"])
def test_an_unwritable_folder_is_told_before_any_training(command, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*command.split(), "--out", str(tmp_path / "file" / "below")]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "cannot write to" in err


@pytest.mark.null
def test_a_missing_extra_is_named_with_the_command_that_installs_it(monkeypatch, capsys):
    monkeypatch.setattr(front, "find_spec", lambda name: None if name == "rich" else object())
    assert main(["compare"]) == 1
    assert capsys.readouterr().err == 'steprule: error: the lab needs rich: pip install "steprule[lab]"\n'


@pytest.mark.null
def test_the_list_of_what_the_lab_needs_is_that_of_the_package(monkeypatch, capsys):
    """Every module that the lab imports is the library's own, Python's, or in an extra: none is missed late."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {re.split(r"[^\w-]", line)[0] for line in project["optional-dependencies"]["lab"]}
    assert set(front.EXTRA) == {front.IMPORTED_AS.get(name, name) for name in named}
    assert "optuna" in front.EXTRA
    theirs = {"markupsafe", "sqlalchemy"}  # which jinja2 and optuna bring
    optional = {"tensorboard", *theirs, *front.needed("bench"), *front.needed("gpu")}
    known = {"steprule", "torch", "numba", "numpy", "llvmlite", *front.EXTRA, *optional, *sys.stdlib_module_names}
    found = set()
    for path in Path(steprule.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").partition(".")[0])
    assert found <= known
    monkeypatch.setattr(front, "find_spec", lambda name: None if name in {"optuna", "PIL"} else object())
    assert main(["compare"]) == 1
    assert "the lab needs optuna, PIL:" in capsys.readouterr().err


HEAVY = {"jinja2", "matplotlib", "sklearn", "scipy", "optuna", "PIL", "tensorboard"}


@pytest.mark.null
def test_help_explain_and_the_list_need_no_library_for_charts_or_data():
    """In a process in which these cannot be imported; what else one asks for names all that is missing."""
    text = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(HEAVY)!r}))
import steprule
from steprule import __main__ as front
front.find_spec = lambda name: None if name in {sorted(HEAVY)!r} else object()
lines = ("", "--help", "explain adam", "explain Adam", "optimizers", "completion")
codes = [front.main(line.split()) for line in lines]
assert codes == [0, 0, 0, 2, 0, 0], codes
assert [front.main(line.split()) for line in ("compare", "train --optimizer sgd --lr 1", "tune --help")] == [1] * 3
"""
    process = interpreter(text)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "compare" in out
    told = [line for line in err.splitlines() if "the lab needs" in line]
    assert len(set(told)) == 1
    assert len(told) == 3
    for name in {"jinja2", "matplotlib", "sklearn", "scipy"}:
        assert name in told[0]


@pytest.mark.null
def test_the_help_says_of_every_command_what_the_command_says_of_itself(capsys):
    context = click.Context(cli)
    for name, (_, told) in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command.name == name
        assert (command.help or "").replace("\n", " ").startswith(told.split(",")[0].split(";")[0].rstrip("."))


@pytest.mark.null
@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("explain AdamW", "did you mean adamw?"),
        ("explain Adam", "did you mean adam? (that is the board's; torch's is steprule.optim:Adam)"),
        ("explain torch.optim:adamw", "AdamW"),
        ("explain adam --Beta1 0.5", "did you mean --beta1?"),
        ("explain adam --bta1 0.5", "--beta1"),
        ("explain adam --set adam.Beta1=0.5", "did you mean beta1?"),
        ("explain adam --set Adam.beta1=0.5", "did you mean adam?"),
        ("compare --optimizers sgd,LION", "did you mean lion?"),
        ("compare --tasks digits,Cancer-LogReg", "did you mean cancer-logreg?"),
        ("train --optimizer sgd --lr 1 --task Digits", "did you mean digits?"),
        ("train --optimizer sgd --lr 1 --task quadratc", "did you mean quadratic?"),
        ("compare --schedules Cosine", "did you mean cosine?"),
        ("tune --optimizer adam --search Beta1=0.1:0.9", "did you mean beta1?"),
        ("bench --suite Small", "did you mean small?"),
        ("Compare", "did you mean compare?"),
        ("trian", "did you mean train?"),
        ("train --config a.toml", "did you mean batch-size?"),
        ("compare --config b.toml", "did you mean compare?"),
    ],
)
def test_a_word_that_is_nearly_right_is_asked_for_whatever_its_case(command, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text("Batch-Size = 3\n")
    (tmp_path / "b.toml").write_text("[Compare]\nseeds = 3\n")
    assert main(command.split()) == 2
    assert told.lower() in capsys.readouterr().err.lower()


@pytest.mark.null
@pytest.mark.parametrize("command", ["", "--help", "--version", "compare --help", "train --help", "explain --help"])
def test_help_is_given_and_is_no_error(command, capsys):
    assert main(command.split()) == 0
    assert "steprule" in capsys.readouterr().out


@pytest.mark.cpu
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_an_option_set_by_name_is_that_of_what_runs(name, capsys):
    """`nonfinite` guards a step by a sum in its first pass, which `explain` shows."""
    assert main(["explain", name, "--json"]) == 0
    without = json.loads(capsys.readouterr().out)
    assert main(["explain", name, "--json", "--set", f"{name}.nonfinite=skip"]) == 0
    guarded = json.loads(capsys.readouterr().out)
    assert len(guarded["passes"]) > len(without["passes"])
    assert main(["explain", name, "--set", f"{name}.nonfinite=ignore"]) == 2
    assert "use one of 'propagate', 'skip', 'raise'" in capsys.readouterr().err


def test_explain_speaks_text_latex_source_and_json(capsys):
    said = {}
    for form in ("text", "latex", "source", "json"):
        assert main(["explain", "adam", "--format", form]) == 0
        said[form] = capsys.readouterr().out
    assert "θ" in said["text"]
    assert "\\begin{align*}" in said["latex"]
    assert "def " in said["source"]
    account = json.loads(said["json"])
    assert account.keys() == {
        "formula",
        "latex",
        "passes",
        "bytes_per_parameter",
        "state_bytes_per_parameter",
        "state_bytes_in",
        "backend",
        "reason",
        "source",
    }
    assert account["state_bytes_per_parameter"] == 8


@pytest.mark.cpu
def test_clippings_act_in_the_order_in_which_they_are_written(capsys):
    formulas = []
    for flags in (["--clip-norm", "--clip-component=0.5"], ["--clip-component=0.5", "--clip-norm"]):
        assert main(["explain", "sgd", *flags]) == 0
        formulas.append(capsys.readouterr().out)
    first, second = formulas
    assert first.index("S_g") < first.index("L_g")
    assert second.index("L_g") < second.index("S_g")


@pytest.mark.cpu
def test_train_prints_the_facts_of_one_run_and_writes_them_when_asked(tmp_path, capsys):
    command = "train --optimizer momentum --lr 0.5 --beta 0.8 --iterations 20 --final-full-batch --hidden 8"
    assert main([*command.split(), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "momentum" in out
    assert "21 iterations" in out
    assert "validation accuracy" in out
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    (arm,), (row,) = written["optimizers"], written["results"]
    assert (arm["name"], row["lr"], arm["hyperparameters"]) == ("momentum", 0.5, {"beta": 0.8})
    assert row["runs"][0]["iterations"] == 21
    assert arm["state_bytes_per_parameter"] == 4
    assert "SGD with momentum" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.cpu
def test_a_diverged_run_is_counted_as_such(capsys):
    command = "train --optimizer sgd --lr 1e30 --iterations 20 --hidden 8 --json --no-progress"
    assert main(command.split()) == 1
    (row,) = json.loads(capsys.readouterr().out)["results"]
    assert row["tuned"]["diverged"] == 1
    assert row["tuned"]["validation_loss"] is None
    assert row["runs"][0]["status"] == "diverged"


@pytest.mark.null
def test_durations_are_worded_as_roughly_as_they_are_known():
    assert [about(0.2), about(12.3), about(600), about(9000)] == [
        "less than a second",
        "about 12 s",
        "about 10 min",
        "about 2.5 h",
    ]


@pytest.mark.null
def test_without_a_terminal_progress_is_plain_lines(monkeypatch):
    said = []

    class Listener:
        def print(self, text, **_):
            said.append(text)

    monkeypatch.setattr("steprule.console.progress.EVERY", 0.0)
    lines = Lines(Listener(), "runs")
    lines.phase("learning rates", 3)
    for _ in range(3):
        lines.advance()
    assert said[0] == "learning rates: 0/3 runs"
    assert said[-1] == "learning rates: 3/3 runs, done"
