"""The command play: where it writes, what it opens, and how it ends where it cannot."""

import stat

import pytest

from steprule.__main__ import main
from steprule.play import command

pytestmark = pytest.mark.null


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A page that takes no time to make, and a browser that is only told."""
    opened = []
    monkeypatch.setattr(command, "page", lambda: "<!doctype html>the page")
    monkeypatch.setattr(command.webbrowser, "open", lambda url: opened.append(url) or True)
    return opened


def test_play_writes_where_it_is_told_and_opens_nothing_if_so_told(tmp_path, capsys, small):
    assert main(["play", "--out", str(tmp_path / "new"), "--no-browser"]) == 0
    path = tmp_path / "new" / command.NAME
    assert path.read_text() == "<!doctype html>the page"
    assert capsys.readouterr().out == f"{path}\n"
    assert small == []


def test_play_writes_to_a_private_place_and_opens_the_file(tmp_path, capsys, small, monkeypatch):
    monkeypatch.setenv("STEPRULE_CACHE", str(tmp_path / "cache"))
    assert main(["play"]) == 0
    path = tmp_path / "cache" / command.NAME
    assert small == [path.as_uri()]
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_play_says_that_no_browser_could_be_started(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command.webbrowser, "open", lambda url: False)
    assert main(["play", "--out", str(tmp_path)]) == 0
    assert "open this file" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_to_is_an_error_in_three_parts(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["play", "--out", str(tmp_path / "file" / "inside")]) == 2
    told = capsys.readouterr().err
    assert "the playground cannot be written" in told
    assert "--out" in told


def test_without_a_private_place_a_folder_is_asked_for(tmp_path, capsys, monkeypatch):
    (tmp_path / "cache").mkdir(mode=0o777)
    (tmp_path / "cache" / "kernels").mkdir()
    (tmp_path / "cache" / "kernels").chmod(0o777)
    monkeypatch.setenv("STEPRULE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(command.cache, "_untold", [])
    assert main(["play"]) == 2
    assert "give a folder with --out" in capsys.readouterr().err
