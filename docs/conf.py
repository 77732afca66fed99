"""The documentation site: ``make docs`` writes it to build/docs.

The source folder is the repository, so a link means the same file on the site and in the repository.
"""

import pkgutil
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config as Napoleon
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.util.docutils import SphinxDirective
from sphinx.util.parsing import nested_parse_to_nodes

import worldcompass

ROOT = Path(__file__).parent.parent
project = "WorldCompass"
author = "The WorldCompass authors"
project_copyright = "The WorldCompass authors. Apache-2.0"
release = version = worldcompass.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "worldcompass/**.md",
]
exclude_patterns = [".*", "build", "runs", "data", "dist", "tests", "benchmarks", "**/__pycache__"]

# References must resolve, but for names of other projects: the build needs no network.
nitpicky = True
ELSEWHERE = "types|contextlib|torch|numpy|gymnasium|collections|concurrent|pathlib|rich|urllib|weakref"
INTERNAL = "audit|media|parallel|player|serving|worlds"
nitpick_ignore_regex = [
    ("py:.*", rf"({ELSEWHERE})\..*"),
    ("py:.*", rf"worldcompass\.({INTERNAL})\..*"),
    ("py:.*", r".*\.[A-Z]"),  # a type variable
    ("py:.*", r"[^.]+"),  # imported for the type checker alone
]
suppress_warnings = ["ref.python"]  # two classes of one name, of which an annotation names one
# Every page carries the whole tree of contents. With all functions in it, the build would take four times as long.
toc_object_entries = False

myst_heading_anchors = 4
myst_enable_extensions = ["html_image"]
smartquotes = False
default_role = "literal"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90

html_theme = "furo"
html_title = "WorldCompass"
html_copy_source = False
html_additional_pages = {"index": "redirect.html"}  # the site's pages lie in docs/
templates_path = ["_templates"]

# The order of the site. It stands here so that the pages stay plain Markdown, as a repository shows it.
API_PAGES = ("five_lines", "vocabulary", "imagine", "checks", "training", "rewards", "runs", "worlds")
CONTENTS = {
    "docs/index": {
        "Start": ["/docs/getting_started", "/docs/scope", "/docs/glossary"],
        "Tutorials": [
            "/docs/your_first_run",
            "/docs/your_own_world",
            "/docs/your_own_critic",
            "/docs/tutorials/pusht",
        ],
        "Guides": [
            "/docs/python",
            "/docs/player",
            "/docs/votes",
            "/docs/rewards",
            "/docs/inverse_dynamics",
            "/docs/audits",
            "/docs/judge",
            "/docs/horizon",
            "/docs/signal",
            "/docs/doctor",
            "/docs/ablations",
            "/docs/reliability",
            "/docs/performance",
            "/docs/scaling",
            "/docs/remote_rewards",
            "/docs/worlds",
            "/docs/worldplay",
            "/docs/minwm",
            "/docs/matrix_game",
            "/docs/waypoint",
            "/docs/nano",
            "/docs/levels",
            "/docs/hands",
        ],
        "Help": ["/docs/troubleshooting", "/docs/faq"],
        "Reference": ["/docs/architecture", "/docs/api/index"],
        "Evidence": [
            "/docs/results",
            "/docs/results/ablation/predictions",
            "/docs/critics",
            "/worldcompass/worlds/doom/weights/MODEL_CARD",
            "/worldcompass/worlds/hands/weights/MODEL_CARD",
            "/docs/decisions/index",
            "/docs/log/index",
        ],
        "Project": ["/CHANGELOG", "/CONTRIBUTING", "/SECURITY", "/README"],
    },
    "docs/api/index": {"": [f"/docs/api/{page}" for page in API_PAGES]},
    "docs/decisions/index": {"": ["/docs/decisions/0*"]},
    "docs/log/index": {"": ["/docs/log/0*"]},
}


class Modules(SphinxDirective):
    """One section of reference for every module named, and for all that a named package holds."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """The sections."""
        lines = StringList()
        for name in self.content:
            for module in _modules(name.strip()):
                # What a package passes on is described where it is defined.
                members = [] if _folder(module).is_dir() else ["   :members:"]
                for line in (module, "-" * len(module), "", f".. automodule:: {module}", *members, ""):
                    lines.append(line, "modules")
        return nested_parse_to_nodes(self.state, lines, allow_section_headings=True)


def _modules(name: str) -> list[str]:
    """The public modules: this one, and where it is a package, those in it."""
    inside = [m.name for m in pkgutil.iter_modules([str(_folder(name))]) if not m.name.startswith("_")]
    return [name, *(found for below in sorted(inside) for found in _modules(f"{name}.{below}"))]


def _folder(module: str) -> Path:
    return ROOT.joinpath(*module.split("."))


def _add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    for caption, pages in CONTENTS.get(page, {}).items():
        title = [f":caption: {caption}"] if caption else []
        source[0] += "\n".join(["\n```{toctree}", ":hidden:", ":glob:", *title, "", *pages, "```\n"])


def _google_style(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Sections such as ``Args:``. What stands below a field is text, also before its first colon."""
    what = "" if what in ("attribute", "property", "data") else what
    settings = Napoleon(napoleon_use_rtype=False, napoleon_use_ivar=True)
    lines[:] = GoogleDocstring(lines, settings, app, what, name, obj, options).lines()


def _link_sources(app: Sphinx, tree: nodes.document) -> None:
    """A link to a module's file leads to its reference."""
    for link in list(tree.findall(addnodes.download_reference)):
        target = Path(link["reftarget"])
        parts = [part for part in target.with_suffix("").parts if part != ".."]
        if target.suffix == ".py" and parts[0] == "worldcompass":
            module = ".".join(parts)
            found = addnodes.pending_xref(
                "", *link.children, refdomain="py", reftype="mod", reftarget=module, refdoc=app.env.docname,
                refexplicit=True, refwarn=True,
            )  # fmt: skip
            link.replace_self(found)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the above."""
    app.add_directive("modules", Modules)
    app.connect("source-read", _add_contents)
    app.connect("autodoc-process-docstring", _google_style)
    app.connect("doctree-read", _link_sources)
    return {"parallel_read_safe": True}
