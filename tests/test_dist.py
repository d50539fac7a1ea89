"""What an index is given is looked at by `make dist`; here it is tried on what is wrong."""

from __future__ import annotations

import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import dist

pytestmark = pytest.mark.null


def archives(folder: Path, files: set[str], text: str = "Words.") -> tuple[Path, Path]:
    """Make both archives of a package of these files, with a description."""
    source, wheel = folder / "one-1.tar.gz", folder / "one-1.whl"
    own = folder / "own"
    own.write_text("", encoding="utf-8")
    with tarfile.open(source, "w:gz") as archive:
        for name in [*files, "PKG-INFO"]:
            archive.add(own, f"one-1/{name}")
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in files:
            if name.startswith("src/"):
                archive.writestr(name.removeprefix("src/"), "")
        archive.writestr("one-1.dist-info/METADATA", f"Name: one\n\n{text}")
    return source, wheel


def test_files_are_named_as_in_the_repository_and_every_difference_ends_it(tmp_path: Path) -> None:
    files = {"README.md", "src/one/a.py", "src/one/page.css"}
    in_source, in_wheel = dist.members(*archives(tmp_path, files))
    assert (in_source, in_wheel) == (files, files - {"README.md"})
    dist.compare("wheel", in_wheel, files - {"README.md"})
    with pytest.raises(SystemExit, match=r"not what git tracks\nmissing src/one/b.py\ntoo many src/one/page.css"):
        dist.compare("wheel", in_wheel, {"src/one/a.py", "src/one/b.py"})


def test_a_description_that_leads_to_a_file_beside_it_ends_it(tmp_path: Path) -> None:
    dist.described(archives(tmp_path, set(), "[one](https://example.org) and `x[0](y)`")[1])
    for wrong in ("See [the house](ARCHITECTURE.md).", "![Curves](docs/compare.png)", "[down](#below)"):
        with pytest.raises(SystemExit, match="leads nowhere"):
            dist.described(archives(tmp_path, set(), wrong)[1])


def test_readme_at_an_index_has_its_words_and_no_pictures() -> None:
    project = tomllib.loads((dist.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    text = (dist.ROOT / "README.md").read_text(encoding="utf-8")
    assert "![Loss curves" in text
    for one in project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(one["pattern"], one["replacement"], text)
    assert "Loss curves" not in text
    assert "[optax](https://github.com/google-deepmind/optax)" in text
    assert "a rule of your own, one kernel whatever is chained" in text
    assert not re.findall(r"\]\((?!https:)", text)
