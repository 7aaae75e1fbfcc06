"""The page of an optimisation, and what the command prints."""

import re

import pytest

import tokenauction_jax as ta
from tokenauction_jax.cli.main import main
from tokenauction_jax.reports import optimisations

FIGURES = {
    "best_response": {"best-responses"},
    "equilibrium": {"best-responses", "trajectories", "gap"},
    "optimizer": {"best-responses", "trajectories"},
    "pacing": {"trajectories", "spent-over-text", "bid-over-text"},
}


@pytest.mark.sweep(1)
def test_page(whole, tmp_path):
    page = ta.reports.write_report(whole.results, tmp_path / "report")
    text = page.read_text("utf-8")
    found = set(re.findall(r'<figure id="figure-([^"]+)"', text))
    assert found == FIGURES[whole.name]
    for name in found:
        for kind in ("svg", "png"):
            assert (tmp_path / "report" / f"{name}.{kind}").stat().st_size > 1000
    # It needs no other file.
    assert not re.search(r'(src|href)="(?!#)', text)
    for agent in ("agent 0", "agent 1")[whole.name == "best_response" :]:
        assert agent in text
    before = text
    ta.reports.write_report(whole.results, tmp_path / "report")
    assert page.read_text("utf-8") == before


def test_page_of_an_interrupted_run(whole, tmp_path):
    place = whole.killed(0, tmp_path / "run")
    page = ta.reports.write_report(ta.optimisation.load(place), tmp_path / "report")
    text = page.read_text("utf-8")
    assert "This run was interrupted" in text
    assert "no gap was measured yet" in text


def test_verdicts(equilibrium):
    told = [line for line, _ in optimisations.verdicts(equilibrium.results)]
    assert len(told) == 1
    assert re.search("his is an equilibrium: all deviations together gain", told[0])
    (contest,) = (line for line, _ in verdicts_of_contest() if "known" in line)
    assert contest == "The answer is as it is known (w_1^2 w_2 / (w_1 + w_2)^2)."


def verdicts_of_contest():
    return optimisations.verdicts(ta.optimisation.run("contest"))


def test_command(equilibrium, tmp_path, monkeypatch, capsys):
    """Prints the answer, and goes on with what was interrupted."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "game.toml"
    file.write_text(equilibrium.file.read_text())
    main(["optimise", str(file)])
    shown = capsys.readouterr().out
    assert re.search("agent 0 +0.", shown)
    assert "report/index.html" in shown
    with pytest.raises(SystemExit) as stop:
        main(["optimise", str(file)])
    assert stop.value.code == 2
    assert "--resume goes on in it" in capsys.readouterr().err
    main(["optimise", str(file), "--resume"])
    assert capsys.readouterr().out == shown


def test_command_without_the_known_answer(tmp_path, capsys):
    file = tmp_path / "wrong.toml"
    text = ta.optimisation.reading.text_of("contest")
    file.write_text(text.replace("bids = [0.4444444444444444,", "bids = [0.5,"))
    with pytest.raises(SystemExit) as stop:
        main(["optimise", str(file), "--out", str(tmp_path / "out")])
    assert stop.value.code == 1
    told = capsys.readouterr()
    assert "which is NOT what is known" in told.out
    assert "the answer is not what is known" in told.err


def test_refusals_of_the_command(tmp_path, capsys):
    for arguments, match in (
        (["contst"], "no file 'contst': did you mean 'contest'"),
        (
            ["contest", "--resume", "--out", str(tmp_path / "none")],
            "is not the folder of",
        ),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["optimise", *arguments])
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert match in line
