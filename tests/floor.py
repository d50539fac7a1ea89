"""Print the lowest versions that pyproject.toml allows, as pip's constraints: `make test-floor` installs just those.

What our requirements require in turn is left to pip, which takes the newest.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
RUN = ("lab", "tensorboard", "gpu", "test")
"""What users need, and what runs the tests; the other extras are run at the versions in constraints.txt."""


def floors(text: str) -> dict[str, str]:
    """Return the lowest version of every requirement; each has one, written `name>=version`."""
    project = tomllib.loads(text)["project"]
    lines = [*project["dependencies"], *(line for extra in RUN for line in project["optional-dependencies"][extra])]
    found: dict[str, str] = {}
    for line in lines:
        if not line.startswith("steprule["):
            name, version = re.fullmatch(r"([\w.-]+)>=([\d.]+)(?:;.*)?", line.strip()).groups()
            found[name] = version
    return found


if __name__ == "__main__":
    print("\n".join(f"{name}=={version}" for name, version in floors(PROJECT.read_text(encoding="utf-8")).items()))
