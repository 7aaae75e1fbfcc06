"""The code of the documentation runs, and prints what the pages say."""

import ast
import importlib
import re

import pages
import pytest

DOCS = sorted((pages.ROOT / "docs").rglob("*.md"))
ALL = [*DOCS, pages.ROOT / "README.md"]
# These have tests of their own, beside what they are about.
ELSEWHERE = {"rivals.md", "scaling.md"}
RUN = [
    path
    for path in DOCS
    if path.name not in ELSEWHERE
    and any(example.mark != "not run" for example in pages.examples(path.read_text()))
]
SLOW = [
    path
    for path in RUN
    if any(example.mark == "slow" for example in pages.examples(path.read_text()))
]


def name_of(path):
    return str(path.relative_to(pages.ROOT))


@pytest.mark.parametrize("path", RUN, ids=name_of)
def test_the_code_of_a_page_runs(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    pages.run(path)


@pytest.mark.slow
@pytest.mark.parametrize("path", SLOW, ids=name_of)
def test_all_code_of_a_page_runs(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    pages.run(path, slow=True)


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_names_in_the_code_of_a_page_exist(path):
    """Also in blocks that are not run."""
    for example in pages.examples(path.read_text()):
        for node in ast.walk(ast.parse(example.code)):
            if isinstance(node, ast.Attribute):
                parts = ast.unparse(node).split(".")
                if parts[0] in ("ta", "bidding", "testing"):
                    assert exists(parts), f"{path.name}:{example.line}: {parts}"


def exists(parts):
    found = importlib.import_module("tokenauction_jax")
    for part in parts[parts[0] == "ta" :]:
        if not part.isidentifier():
            return True
        # What an object of the package has is seen when the code runs.
        if isinstance(found, type) or not hasattr(found, "__path__"):
            return True
        try:
            found = getattr(found, part)
        except AttributeError:
            return False
    return True


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_blocks_of_code_say_what_they_are(path):
    """A block without a language is not run, and nobody would notice."""
    fences = re.findall(r"^```(.*)$", path.read_text(), re.MULTILINE)
    known = {"python", "text", "sh", "bash", "toml", "yaml", ""}
    assert set(fences) <= known
    assert len(fences) % 2 == 0


def test_what_a_page_says_is_compared():
    pages.assert_agree("here", "bid 0.5001: [1. 2.]\n", "bid 0.5: [1.  2.]\n")
    for other in ("bid 0.51: [1. 2.]", "bad 0.5: [1. 2.]", "bid 0.5: [1. 2. 3.]"):
        with pytest.raises(AssertionError, match="and the page says"):
            pages.assert_agree("here", "bid 0.5: [1. 2.]", other)
