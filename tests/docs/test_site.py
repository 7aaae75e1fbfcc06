"""The documentation holds together: navigation, reference, links, and no network."""

import ast
import html.parser
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pages
import pytest

import tokenauction_jax as ta

PACKAGE = Path(ta.__file__).parent
CONFIG = (pages.ROOT / "mkdocs.yml").read_text()
ENTRY = re.compile(r"^::: tokenauction_jax\.([\w.]+)$", re.MULTILINE)


def public_names():
    """Where each name that a room offers comes from: ``import x as x`` means public."""
    for path in [PACKAGE / "__init__.py", *sorted(PACKAGE.glob("*/__init__.py"))]:
        room = ".".join(path.parent.relative_to(PACKAGE).parts)
        if room == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                of_package = node.module == "tokenauction_jax"
                for alias in node.names:
                    file = PACKAGE / alias.name / "__init__.py"
                    is_room = of_package and file.exists()
                    if alias.asname == alias.name and not is_room:
                        yield f"{room}.{alias.name}".lstrip(".")


def find(path):
    """The object at a path below the package."""
    *parts, name = path.split(".")
    found = ta
    for place, part in enumerate(parts):
        try:
            found = importlib.import_module(
                ".".join(["tokenauction_jax", *parts[: place + 1]])
            )
        except ModuleNotFoundError:
            found = getattr(found, part)
    return getattr(found, name)


def identity(path):
    """The same for all places that offer the same object; small numbers are shared."""
    return path.rpartition(".")[2], id(find(path))


def entries():
    text = "".join(path.read_text() for path in (pages.ROOT / "docs").rglob("*.md"))
    return ENTRY.findall(text)


def test_every_public_name_is_in_the_reference():
    names = sorted(set(public_names()) - {"__version__"})
    assert len(names) > 150
    listed = {identity(path) for path in entries()}
    missing = [name for name in names if identity(name) not in listed]
    assert not missing, f"no page of docs/reference lists {missing}"


def test_the_reference_has_each_name_once():
    paths = entries()
    assert len(set(paths)) == len(paths)


def test_the_reference_has_public_names_only():
    public = {identity(name) for name in public_names()}
    assert [path for path in entries() if identity(path) not in public] == []


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"^\s+- (?:.*: )?([\w./]+\.md)$", CONFIG, re.MULTILINE))
    docs = pages.ROOT / "docs"
    found = {str(path.relative_to(docs)) for path in docs.rglob("*.md")}
    assert found <= listed
    for path in listed - found:
        assert (pages.ROOT / path).exists()


@pytest.mark.parametrize(
    "path",
    [
        *sorted((pages.ROOT / "docs").rglob("*.md")),
        *(pages.ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    ],
    ids=lambda path: str(path.relative_to(pages.ROOT)),
)
def test_links_lead_somewhere(path):
    """As files: the way they are read in a checkout."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        place, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = path.parent / place if place else path
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text()), target


def anchors(text):
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    words = (re.sub(r"[^\w\s-]", "", heading.lower()) for heading in headings)
    return {re.sub(r"\s+", "-", word.strip()) for word in words}


class Assets(html.parser.HTMLParser):
    """What a page loads, where it links to, and what may be linked to."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self.names, self.formulas = [], [], set(), 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.names |= {found.get("id"), found.get("name")}
        self.formulas += tag == "math"
        if tag == "a":
            self.links.append(found.get("href"))
        elif tag == "link" and found.get("rel") != "canonical":
            self.loads.append(found.get("href"))
        elif "src" in found:
            self.loads.append(found["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    pytest.importorskip("latex2mathml", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict"]
    done = subprocess.run(
        [*command, "--site-dir", folder],
        cwd=pages.ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {path.resolve(): Assets(path.read_text()) for path in folder.rglob("*.html")}


def test_the_site_asks_the_network_for_nothing(site):
    for path, page in site.items():
        for source in page.loads:
            assert not urlsplit(source).netloc, f"{path}: {source}"
            if path.name != "404.html":
                assert (path.parent / unquote(urlsplit(source).path)).exists(), source


def test_links_of_the_site_lead_somewhere(site):
    for path, page in site.items():
        if path.name == "404.html":
            continue
        for link in filter(None, page.links):
            parts = urlsplit(link)
            if parts.scheme:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            file = file / "index.html" if file.is_dir() else file
            assert file.exists(), f"{path}: {link}"
            if parts.fragment and file in site:
                assert unquote(parts.fragment) in site[file].names, f"{path}: {link}"


def test_the_search_works_from_disk(site, browse):
    (page,) = (path for path in site if path.stem == "tutorial")
    dom = browse(page, "--dump-dom", "--virtual-time-budget=20000", query="q=second")
    assert re.search(r'md-search-result__meta">\s*\d+ matching documents', dom)


def test_formulas_are_typeset(site):
    (page,) = (page for path, page in site.items() if path.stem == "mathematics")
    assert page.formulas > 100
    for path in site:
        assert "arithmatex" not in path.read_text()
