"""The documentation is true: its code runs, prints what it says, and its links lead somewhere.

A ```python block is run, in the namespace of the blocks above it on the same page; a ```text block right
below it is what it prints. Lines of a ```console block that begin with `$ steprule` are run too.
`python tests/test_docs.py` rewrites those outputs, and the tables that are made from the code and from records.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import linecache
import pkgutil
import re
import runpy
import shlex
import tempfile
import textwrap
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import torch

import page_tables
import steprule as sr
from page_tables import TABLES, parts
from steprule.__main__ import main
from steprule.lab.cli import cli

ROOT = Path(__file__).parent.parent
MADE = ROOT / "docs/look-up/optimisers"
"""Pages that the site's build writes."""
PAGES = sorted([*ROOT.glob("*.md"), *(page for page in ROOT.glob("docs/**/*.md") if page.parent != MADE)])
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(sr.__path__, "steprule.") if not module.name.endswith("__main__")
)
EXAMPLES = sorted(ROOT.glob("examples/*.py"))

named = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line numbers of its two fences."""

    language: str
    text: str
    first: int
    last: int


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    opened, language = 0, ""
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if line.lstrip().startswith("```"):
            if opened:
                text = textwrap.dedent("\n".join(lines[opened : number - 1]) + "\n")
                found.append(Block(language, text, opened, number))
                opened = 0
            else:
                opened, language = number, line.strip("` ")
    assert not opened, f"{page.name}: the block at line {opened} is never closed"
    return found


def tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def run_python(block: Block, page: Path, namespace: dict[str, object]) -> str:
    """Run a block under a name that `linecache` knows, since rules quote their own lines."""
    name = f"<{page.name}, line {block.first}>"
    linecache.cache[name] = (len(block.text), None, block.text.splitlines(keepends=True), name)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(block.text, name, "exec"), namespace)  # noqa: S102
    return printed.getvalue()


def run_console(block: Block) -> tuple[str, str]:
    """Run a block's steprule commands; return what the page says they print, and what they print."""
    said: list[str] = []
    printed = io.StringIO()
    for line in block.text.splitlines():
        if not line.startswith("$ "):
            said.append(line)
        elif line.startswith("$ steprule "):
            with contextlib.redirect_stdout(printed):
                assert main(shlex.split(line.removeprefix("$ steprule "))) == 0, line
    return "\n".join(said), printed.getvalue()


def run_page(page: Path) -> list[tuple[Block, str, str]]:
    """Run a page where it may write files; return each block that shows an output, with what it says and printed."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        return list(_run(page))


def _run(page: Path) -> Iterator[tuple[Block, str, str]]:
    namespace: dict[str, object] = {"__name__": page.stem}
    printed, ended = "", 0
    for block in blocks(page):
        if block.language == "python":
            printed, ended = run_python(block, page, namespace), block.last
        elif block.language == "text" and block.first - ended in {1, 2}:
            yield block, block.text, printed
        elif block.language == "console":
            yield block, *run_console(block)


@pytest.mark.cpu
@named
def test_code_blocks_run_and_print_what_the_page_says(page: Path) -> None:
    for block, said, printed in run_page(page):
        assert tidy(said) == tidy(printed), f"{page.name}, line {block.first}: run python tests/test_docs.py"


@pytest.mark.cpu
@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_are_true(name: str) -> None:
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    told = io.StringIO()
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        runner.run(test, out=told.write)
    assert runner.summarize(verbose=False).failed == 0, told.getvalue()


def test_the_public_face_has_an_example_each() -> None:
    """What one calls to write, run or see a rule is shown in use."""
    for one in (
        sr.rule,
        sr.transform,
        sr.chain,
        sr.hyper,
        sr.slot,
        sr.choice,
        sr.Optimizer,
        sr.explain,
        sr.weight_decay,
    ):
        assert ">>>" in (one.__doc__ or ""), one


def anchors(page: Path) -> set[str]:
    """Return the names that a page's headings can be linked by, those of a page that it includes too."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    included = re.findall(r"^```{include} (\S+)$", text, flags=re.MULTILINE)
    names = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return names.union(*(anchors(page.parent / one) for one in included))


@pytest.mark.null
@named
def test_relative_links_resolve(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        linked = (page.parent / place).resolve() if place else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name} links to {target}"


@pytest.mark.null
def test_readme_begins_with_code_that_is_short() -> None:
    first = next(block for block in blocks(ROOT / "README.md") if block.language == "python")
    assert first.last <= 25
    assert len(first.text.splitlines()) <= 15


@pytest.mark.null
@named
def test_make_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    asked = re.findall(r"^\$? ?make ([a-z]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    asked += re.findall(r"`make ([a-z]+)[^`]*`", page.read_text(encoding="utf-8"))
    assert set(asked) <= targets


@pytest.mark.null
@named
def test_commands_of_a_page_have_the_options_that_it_names(page: Path) -> None:
    """What a page does not run, since it takes minutes, is parsed."""
    for block in blocks(page):
        for line in block.text.splitlines() if block.language == "sh" else []:
            if line.startswith("steprule "):
                name, *rest = shlex.split(line, comments=True)[1:]
                command = cli.get_command(click.Context(cli), name)
                assert command, line
                command.make_parser(click.Context(command)).parse_args(rest)


@pytest.mark.cpu
def test_readme_rule_is_adamw() -> None:
    namespace: dict[str, object] = {"__name__": "readme"}
    page = ROOT / "README.md"
    run_python(blocks(page)[0], page, namespace)
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((7, 3), (5,))]
    theirs = [torch.nn.Parameter(tensor.detach().clone()) for tensor in ours]
    adamw = namespace["adamw"].optimizer(ours, lr=1e-2)  # type: ignore[attr-defined]
    reference = torch.optim.AdamW(theirs, lr=1e-2)
    for _ in range(20):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        adamw.step()
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)


# Tables made from the code and from records ---------------------------------------------------------------


@pytest.mark.null
@pytest.mark.parametrize("name", TABLES)
def test_tables_of_pages_say_what_code_and_records_say(name: str) -> None:
    place, table = TABLES[name]
    assert parts((ROOT / place).read_text(encoding="utf-8"), name)[1] == table(), "run: python tests/test_docs.py"


# Around the package --------------------------------------------------------------------------------------


@pytest.mark.cpu
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_run(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runpy.run_path(str(path), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) >= 5


@pytest.mark.null
def test_citation_names_this_version() -> None:
    assert f"\nversion: {sr.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.null
def test_constraints_pin_every_requirement() -> None:
    """What pyproject.toml asks for is pinned, exactly, on no platform's own build; the GPU's extra is not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(one for name, extra in project["optional-dependencies"].items()
                                          if name != "gpu" for one in extra)]  # fmt: skip
    names = {re.split(r"[\[<>=!~ ]", one)[0] for one in asked} - {"steprule"}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9a-z.]+", pin) for pin in pins)
    assert names <= {pin.split("==")[0].lower().replace("_", "-") for pin in pins}


def rewrite() -> None:
    """Write what the code says now into the pages: printed outputs, and tables."""
    for page in PAGES:
        lines = page.read_text(encoding="utf-8").splitlines()
        for block, _, printed in reversed(run_page(page)):
            if block.language == "text":
                lines[block.first : block.last - 1] = tidy(printed).splitlines()
        page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    page_tables.rewrite()


if __name__ == "__main__":
    rewrite()
