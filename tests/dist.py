"""Build what an index is given, from the last commit, and check it: `make dist`.

The tracked files are taken out of git into a folder of their own; there the source distribution is built, and from that
the wheel. Both must hold what git tracks, and nothing besides; their descriptions must render. Then the wheel is
installed into a fresh environment that has what it depends on but not this repository, and takes a step.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "dist"
OUT = ROOT / "dist"
SMOKE = """
import importlib.metadata, steprule as sr, torch
assert "site-packages" in sr.__file__, sr.__file__
assert importlib.metadata.version("steprule") == sr.__version__
model = torch.nn.Linear(4, 2)
optimizer = sr.optim.AdamW(model.parameters(), lr=1e-2, clip=1.0)
before = model.weight.detach().clone()
model(torch.ones(1, 4)).sum().backward()
optimizer.step()
assert not torch.equal(before, model.weight)
"""


def run(*words: str | Path, cwd: Path = ROOT) -> str:
    """Run a command and return what it prints; one that fails ends everything."""
    done = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"dist: {' '.join(map(str, words))} failed\n{done.stdout}{done.stderr}")
    return done.stdout


def tracked() -> set[str]:
    """Return the files that git tracks, each of which must be as it was committed."""
    if changed := run("git", "status", "--porcelain").strip():
        sys.exit(f"dist: commit first, since what is built is what was committed\n{changed}")
    return set(run("git", "ls-files").splitlines())


def built(tree: Path) -> tuple[Path, Path]:
    """Build both from a tree: the source distribution, and from that the wheel."""
    tree.mkdir(parents=True)
    run("git", "archive", "--output", WORK / "tree.tar", "HEAD")
    with tarfile.open(WORK / "tree.tar") as archive:
        archive.extractall(tree, filter="data")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", OUT, tree)
    (source,), (wheel,) = OUT.glob("*.tar.gz"), OUT.glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", source, wheel)
    return source, wheel


def members(source: Path, wheel: Path) -> tuple[set[str], set[str]]:
    """Return the files of both, by their names in the repository; what describes the package is left out."""
    with tarfile.open(source) as archive:
        names = {one.name.partition("/")[2] for one in archive.getmembers() if one.isfile()}
    with zipfile.ZipFile(wheel) as archive:
        own = {f"src/{name}" for name in archive.namelist() if ".dist-info/" not in name}
    return names - {"PKG-INFO"}, own


def described(wheel: Path) -> None:
    """Render what an index shows; end if it leads to files that are not beside it."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode().partition("\n\n")[2]
    shown = MarkdownIt("commonmark").enable("table").render(text)
    if found := re.findall(r'(?:href|src)="(?!https?:)[^"]*"', shown):
        sys.exit("\n".join(["dist: the description leads nowhere at an index", *found]))


def compare(what: str, found: set[str], wanted: set[str]) -> None:
    """End with the names that are missing, or that nobody tracks."""
    wrong = [f"missing {name}" for name in sorted(wanted - found)] + [
        f"too many {name}" for name in sorted(found - wanted)
    ]
    if wrong:
        sys.exit("\n".join([f"dist: the {what} is not what git tracks", *wrong]))


def installed(wheel: Path, words: Sequence[str]) -> None:
    """Install the wheel where this repository is not, and try it. With --index pip fetches what it depends on."""
    home = WORK / "venv"
    run(sys.executable, "-m", "venv", home)
    python = home / "bin" / "python"
    if "--index" in words:
        run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", f"{wheel}[lab]")
    else:
        (place,) = home.glob("lib/python*/site-packages")
        others = [path for path in sys.path if path.endswith("site-packages")]
        (place / "others.pth").write_text("\n".join(others) + "\n", encoding="utf-8")
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", wheel)
    run(python, "-c", SMOKE, cwd=WORK)
    told = run(home / "bin" / "steprule", "explain", "adam", cwd=WORK)
    assert "θₜ" in told, told


def main(words: Sequence[str]) -> None:
    """Build, check, install, try; say where the files are."""
    files = tracked()
    for folder in (WORK, OUT):
        shutil.rmtree(folder, ignore_errors=True)
    source, wheel = built(WORK / "tree")
    in_source, in_wheel = members(source, wheel)
    compare("source distribution", in_source, files)
    compare("wheel", in_wheel, {name for name in files if name.startswith("src/")})
    described(wheel)
    installed(wheel, words)
    print(f"{source.relative_to(ROOT)}: {len(in_source)} files; {wheel.relative_to(ROOT)}: {len(in_wheel)} files.")


if __name__ == "__main__":
    main(sys.argv[1:])
