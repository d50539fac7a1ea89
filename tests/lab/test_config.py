"""A TOML file in place of flags."""

import json
import shlex

import pytest

from steprule.__main__ import main

FILE = """
epochs = 1
hidden = [8, 4]
no-progress = true
clip_value = 2
clip_norm = true
final_full_batch = false
[compare]
quick = true
optimizers = ["sgd", "adam"]
lr_range = [1e-2, 1]
lrs = 2
extend = false
seeds = 1
[train]
optimizer = "adam"
lr = 0.1
json = true
"""

WRONG = [
    ("epoch = 1", "'epoch' in train; allowed: optimizer, lr, "),
    ("lrs = 3", "'lrs' in train"),
    ("[compare]\nepoch = 1", "[compare]: no option 'epoch' in compare"),
    ("[trains]\nepochs = 1", "'trains'"),
    ('config = "other.toml"', "'config'"),
    ("epochs = 0", "1<=x<=100000"),
    ("epochs = true", "not a valid integer"),
    ("epochs = [1, 2]", "not a valid integer"),
    ("epochs = {a = 1}", "not a valid integer"),
    ("lr = -1", "greater than 0"),
    ("lr = nan", "greater than 0"),
    ("clip_norm = 0", "greater than 0"),
    ("clip_norm = false", "greater than 0"),
    ("hidden = []", "from 1 to 4096"),
    ("hidden = [64, 0]", "from 1 to 4096"),
    ('optimizer = "lyon"', "adam, "),
    ('final_full_batch = "yes"', "neither true nor false"),
    ("epochs = 1\niterations = 1", "exclude each other"),
    ("out = true", "not a path"),
    ('out = "\\u0000"', "not a path"),
    ("epochs = 0x" + 5000 * "f", "epochs"),
    ("epochs = ", "not TOML"),
    ("a = " + 5000 * "[", "not TOML"),
    ("\xff", "not TOML"),
    ("#" * (1 << 20) + "#", "longer than"),
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file.toml"
    path.write_text(FILE)
    return path


@pytest.mark.null
@pytest.mark.parametrize(("text", "told"), WRONG, ids=[text[:30] for text, _ in WRONG])
def test_a_wrong_file_is_answered_in_one_line(text, told, file, capsys):
    file.write_text(text, encoding="latin-1")
    needed = {"optimizer": "--optimizer=sgd", "lr =": "--lr=1"}
    assert main(["train", f"--config={file}", *(flag for key, flag in needed.items() if key not in text)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("steprule: error:")
    assert told in err


@pytest.mark.null
def test_a_wrong_value_is_told_even_where_a_flag_overrides_it(file, capsys):
    file.write_text("epochs = 0")
    assert main(["train", "--optimizer=sgd", "--lr=1", f"--config={file}", "--epochs=2"]) == 2
    assert "1<=x<=100000" in capsys.readouterr().err


@pytest.mark.null
@pytest.mark.parametrize("value", ["[1]", "1", "[1, 2, 3]", "true", '"1 2"'])
def test_too_few_values_take_nothing_from_the_command_line(value, file, capsys):
    file.write_text(f"lr_range = {value}")
    assert main(["compare", "--config", str(file), "--seeds", "1"]) == 2
    assert "'--lr-range' requires 2 arguments" in capsys.readouterr().err


@pytest.mark.null
@pytest.mark.parametrize("path", ["", "nowhere.toml", "\0"])
def test_an_unreadable_file_is_answered_in_one_line(path, tmp_path, capsys):
    assert main(["compare", "--config", f"{tmp_path}/{path}"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "--config" in err


@pytest.mark.null
def test_help_is_given_whatever_the_file(capsys):
    assert main(["compare", "--config", "nowhere.toml", "--help"]) == 0
    assert "--config FILE.toml" in capsys.readouterr().out


def told(arguments, capsys):
    assert main(arguments) in {0, 1}  # a run so short may count as diverged
    return json.loads(capsys.readouterr().out)


def curves(document):
    """Return the losses of the one run: what is timed differs."""
    ((run,),) = [row["runs"] for row in document["results"]]
    return [run["lr"], run["curve"]["iteration"], run["curve"]["training_loss"], run["curve"]["validation_loss"]]


@pytest.mark.cpu
def test_a_file_is_equal_to_its_flags(file, capsys):
    from_file = told(["train", "--config", str(file)], capsys)
    flags = "--epochs 1 --hidden 8,4 --no-progress --clip-value 2 --clip-norm --optimizer adam --lr 0.1 --json"
    from_flags = told(["train", *flags.split()], capsys)
    assert from_file["optimizers"] == from_flags["optimizers"]
    assert [clip["name"] for clip in from_file["optimizers"][0]["clips"]] == ["clip_value", "clip_norm"]
    assert curves(from_file) == curves(from_flags)


@pytest.mark.cpu
def test_the_recorded_command_does_without_the_file(file, capsys):
    document = told(["train", "--config", str(file), "--seed", "3"], capsys)
    again = shlex.split(document["command"])
    file.unlink()
    assert "--config" not in document["command"]
    repeated = told(again[1:], capsys)
    assert repeated["optimizers"] == document["optimizers"]
    assert curves(repeated) == curves(document)


@pytest.mark.cpu
def test_the_command_line_wins(file, capsys):
    options = ["--lr", "0.5", "--iterations", "3", "--optimizer=sgd"]
    document = told(["train", *options, "--config", str(file)], capsys)
    (arm,), (row,) = document["optimizers"], document["results"]
    assert (arm["name"], row["lr"], row["runs"][0]["iterations"]) == ("sgd", 0.5, 3)


@pytest.mark.cpu
def test_compare_reads_its_own_table(file, tmp_path, capsys):
    document = told(["compare", "--config", str(file), "--json", "--out", str(tmp_path / "out")], capsys)
    assert [row["name"] for row in document["optimizers"]] == ["sgd", "adam"]
    assert {row["lr"] for row in document["results"]} <= {0.01, 1.0}


def test_what_has_commas_may_be_a_list(file, capsys):
    file.write_text('tasks = ["cancer-logreg", "quadratic"]\nschedules = ["constant", "linear"]', encoding="utf-8")
    assert main(["compare", "--config", str(file)]) == 2
    assert "'linear' is none of constant, cosine" in capsys.readouterr().err
    file.write_text('tasks = ["cancer-logreg", "quadratic"]\nclip = ["none", 0]', encoding="utf-8")
    assert main(["compare", "--config", str(file)]) == 2
    assert "'0' is not a number greater than 0" in capsys.readouterr().err
