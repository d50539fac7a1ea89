"""The settings of the documentation; `make docs` builds it, without a network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
from house import DARK, LIGHT

from steprule import __version__ as release

project = "steprule"
author = "The steprule founders"
copyright = author  # noqa: A001 - Sphinx asks for it by this name
language = "en"

extensions = [
    "myst_parser",
    "sphinx_copybutton",
    "formulas",
    "look_up",
    "drawn",
    "playground",
    "included",
    "usable",
    "links",
]
root_doc = "index"
exclude_patterns = ["_ext", "_static", "_templates"]
templates_path = ["_templates"]
default_role = "code"
smartquotes = False
nitpicky = True
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = f"steprule {release}"
html_static_path = ["_static"]
html_css_files = ["katex/katex.css", "house.css"]
html_baseurl = os.environ.get("DOCS_URL", "")
"""Where the site will stand, if that is known: pages link to one another relatively, and only 404.html needs it."""
html_additional_pages = {"404": "404.html"}
html_math_renderer = "katex"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"light_css_variables": LIGHT, "dark_css_variables": DARK}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
