import pathlib
import re

README = pathlib.Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_library_examples_run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    # One after the other, as a reader would: the second continues the first.
    scope = {}
    exec(EXAMPLES[0], scope)
    own_rule = dict(scope)
    exec(EXAMPLES[2], own_rule)
    assert own_rule["rollout"].tokens.shape == (100, 8)
    (study,) = (text for text in EXAMPLES if "studies.Study(" in text)
    exec(study, own_rule)
    assert own_rule["results"].factors["rule"][1].startswith("softened")
    assert (tmp_path / "effects.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "[0.4" in printed
    assert scope["rollout"].tokens.shape == (1000, 32)
    exec(EXAMPLES[1], scope)
    assert re.search("Alpha|Beta", capsys.readouterr().out)


def test_paths_that_are_named_exist():
    """Those of CI alone would be missed after the tests, an hour on."""
    root = README.parent
    texts = [README, root / ".ci/run", root / "pyproject.toml", root / "CHANGELOG.md"]
    for folder in ("docs", "benchmarks"):
        texts += sorted((root / folder).rglob("*.md"))
    inside = r"(?<![\w/.])(?:tests|docs|benchmarks|tokenauction_jax)/[\w./-]*\w"
    named = {path for text in texts for path in re.findall(inside, text.read_text())}
    assert len(named) > 20
    assert [path for path in sorted(named) if not (root / path).exists()] == []
