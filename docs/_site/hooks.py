"""What the documentation needs beyond MkDocs: formulas, and pages from elsewhere.

Formulas between dollars become MathML when the site is built, so that a page needs
neither scripts nor fonts for them. Pages that belong to the repository, not to `docs`,
such as the changelog, are part of the site at the same path.
"""

import html
import logging
import re
from pathlib import Path

import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
# Pages from outside `docs`, under the paths that they have in the repository.
OUTSIDE = (
    *("CHANGELOG.md", "CONTRIBUTING.md", "tokenauction_jax/agents/house/README.md"),
    *sorted(
        str(path.relative_to(ROOT)) for path in ROOT.glob("benchmarks/results/*.md")
    ),
)
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL
)
log = logging.getLogger("mkdocs.formulas")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from outside."""
    for path in OUTSIDE:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    picture = File.generated(
        config, "assets/simulate.svg", content=_without_fonts(".github/simulate.svg")
    )
    files.append(picture)
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Links between `docs` and the rest of the repository, as the site has them."""
    if page.file.src_uri in OUTSIDE:
        return re.sub(r"\]\((?:\.\./)*docs/", "](" + _up(page.file.src_uri), markdown)
    depth = page.file.src_uri.count("/")
    here, outside = "../" * depth, "../" * (depth + 1)
    markdown = markdown.replace(f"]({outside}.github/", f"]({here}assets/")
    for path in OUTSIDE:
        markdown = markdown.replace(f"]({outside}{path}", f"]({here}{path}")
    return markdown


def on_page_content(
    content: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Formulas as MathML."""

    def convert(found: re.Match[str]) -> str:
        display = "block" if found[1] == "div" else "inline"
        formula = html.unescape(found[2]).strip()
        try:
            converted = latex2mathml.converter.convert(formula, display=display)
        except Exception as error:
            log.warning("%s: %r in formula %s", page.file.src_uri, error, formula)
            return found[0]
        # What the converter does not know, it passes on.
        if re.search(r"\\|<mi>&</mi>", converted):
            log.warning("%s: unknown in formula %s", page.file.src_uri, formula)
        return converted

    return FORMULA.sub(convert, content)


def _up(path: str) -> str:
    return "../" * path.count("/")


def _without_fonts(path: str) -> str:
    """A picture that asks the network for no font."""
    text = (ROOT / path).read_text()
    return re.sub(r",\s*url\(\"https?:[^)]*\)[^,;]*", "", text)
