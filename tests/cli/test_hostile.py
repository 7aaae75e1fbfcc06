"""Whatever names, texts and files hold, a terminal and a spreadsheet only show it."""

import csv
import json
import re
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console
from tiny_checkpoint import write_checkpoint

from tokenauction_jax.cli.main import main
from tokenauction_jax.outside import visible

pytestmark = pytest.mark.usefixtures("one_device")

# Escape sequences, C1, writing direction, markup, a formula; none in a file's name.
HOSTILE = "=1+1\x1b[2J\x1b]8;;http://x\x07[/b][red]\x9b31m\u202e\u2066\x7f\t{0}%s</b>&"
# What Rich itself writes on a terminal.
OWN = re.compile(r"\x1b\[(\d+(;\d+)*)?m|\x1b\[2K|\x1b\[1A|\x1b\[\?25[lh]|\r")


@pytest.fixture(params=[True, False], ids=["terminal", "no terminal"])
def live(request, monkeypatch):
    monkeypatch.setattr(Console, "is_terminal", request.param)
    return request.param


def check_shown(capsys, live=False):
    """What was printed, in which nothing acts."""
    out, err = capsys.readouterr()
    for text in (out, err):
        shown = OWN.sub("", text) if live else text
        assert visible(shown, keep="\n") == shown
    return out, err


def toml(text):
    """A string for TOML."""
    return json.dumps(text).replace("\x7f", "\\u007f")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def scenario(tmp_path, model):
    name = toml(HOSTILE)
    agents = "".join(
        f"[[agents]]\nname = {toml(HOSTILE + str(i))}\nprompt = {name}\n"
        f"mentions = [{name}]\n"
        for i in range(2)
    )
    file = tmp_path / "\x1b[2J[b]\u202e.toml"
    file.write_text(
        f"query = {name}\ndescription = {name}\nmodel = '{model}'\n"
        f"num_auctions = 3\nnum_tokens = 5\nrules = ['linear']\n{agents}"
    )
    return file


def test_simulate_shows_names_and_texts(capsys, live, scenario, tmp_path):
    """The texts of a random model of bytes have all control characters."""
    out = tmp_path / "\x1b[2J[b]"
    main(["simulate", str(scenario), "--out", str(out)])
    printed, _ = check_shown(capsys, live)
    assert "[/b][red]" in printed
    with (out / "summary.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert any(cell.startswith("'=1+1\\x1b[2J") for row in rows for cell in row)
    assert not any(cell[:1] in "=+@\t\r" for row in rows for cell in row if cell)


def test_sweeps_name_cells_in_progress_lines(capsys, live, scenario, monkeypatch):
    from tokenauction_jax.cli.displays import progress

    monkeypatch.setattr(progress, "_LINE_EVERY", -1.0)
    main(["simulate", str(scenario), "--sweep"])
    _, err = check_shown(capsys, live)
    assert "auctions/s" in err


POOL = """
import jax.numpy as jnp, tokenauction_jax as ta
pool = ta.agents.tabular(jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]])))
"""


def test_studies_and_reports_show_names(capsys, live, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(POOL)
    names = [toml(HOSTILE), toml("[/b]")]
    (tmp_path / "[b]\u202e.toml").write_text(
        f"name = 'x'\ndescription = {names[0]}\nnum_auctions = 64\nnum_tokens = 2\n"
        "[agents]\nkind = 'pool'\npool = 'mine.py:pool'\n"
        f"names = [{', '.join(names)}]\n[factors]\nvalues.sigma = [0.5, 1.0]\n"
    )
    main(["study", "check", "[b]\u202e.toml"])
    main(["study", "run", "[b]\u202e.toml", "--out", "\x1b[2J"])
    main(["study", "report", "\x1b[2J"])
    printed, _ = check_shown(capsys, live)
    assert "[/b][red]" in printed
    assert "\\x1b[2J" in printed
    folder = tmp_path / "\x1b[2J"
    for table in (folder / "tables").iterdir():
        with table.open(newline="") as file:
            for cell in (cell for row in csv.reader(file) for cell in row):
                assert visible(cell) == cell
                assert cell[:1] not in ("=", "+", "@")
    page = (folder / "report" / "index.html").read_text()
    assert visible(page, keep="\n") == page
    assert "</b>&" not in page
    assert "&lt;/b&gt;&amp;" in page
    figures = list((folder / "report").glob("*.svg"))
    assert figures
    for figure in figures:
        text = figure.read_text()
        ET.fromstring(text)
        assert visible(text, keep="\n") == text


def test_optimise_shows_names(capsys, live, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pool.py").write_text(
        "import jax.numpy as jnp, tokenauction_jax as ta\n"
        "mine = lambda: ta.agents.tabular(jnp.log(jnp.eye(2)))\n"
    )
    names = ", ".join(toml(HOSTILE + str(i)) for i in range(2))
    (tmp_path / "game.toml").write_text(
        f"description = {toml(HOSTILE)}\nnum_tokens = 1\nnum_auctions = 1\n"
        f'[agents]\nkind = "pool"\npool = "pool.py:mine"\nnames = [{names}]\n'
        '[values]\nkind = "fixed"\namounts = [2.0, 1.0]\n'
        '[rule]\naggregation = "linear"\npayment = "pay_your_bid"\n'
        '[goal]\nkind = "best_response"\n'
    )
    main(["optimise", "game.toml"])
    printed, _ = check_shown(capsys, live)
    assert "[/b][red]" in printed
    with (tmp_path / "game" / "tables" / "answers.csv").open(newline="") as file:
        (_, row) = csv.reader(file)
    assert row[0].startswith("'=1+1\\x1b[2J")
    page = (tmp_path / "game" / "report" / "index.html").read_text("utf-8")
    assert visible(page, keep="\n") == page
    assert "<script" not in page


LONG = "x" * 5000
DEEP = "/".join([HOSTILE.replace("/", "")] * 40)
WORDS = (HOSTILE, LONG, DEEP, "\udc80", "a b " * 900)
COMMANDS = (
    *(["{}"], ["simulate", "{}"], ["simulate", "--model", "{}"], ["simulate", "--{}"]),
    *(["simulate", "--seed", "{}"], ["simulate", "hawaii", "--out", "{}/x"]),
    *(["study", "{}"], ["study", "check", "{}"], ["study", "run", "{}"]),
    *(["study", "resume", "{}"], ["study", "report", "{}"], ["study", "new", "{}/x"]),
    *(["study", "new", "x.toml", "--template", "{}"], ["models", "{}"]),
    *(["audit", "{}"], ["audit", "{}:x"], ["audit", "{}.py:x"], ["audit", "a:{}"]),
    *(["audit", "linear", "--payment", "{}"], ["audit", "--out", "{}/x"]),
    *(["audit", "linear", "--payment", "myerson({})"], ["audit", "power_mean({})"]),
    *(["audit", "mosaic({})"], ["audit", "best_of", "--payment", "{}"]),
    *(["optimise", "{}"], ["optimise", "contest", "--resume", "--out", "{}"]),
    *(["train", "{}"], ["train", "{}", "--out", "x"]),
    ["train", "x.jsonl", "--out", "x", "--model", "{}"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("word", WORDS, ids=range(len(WORDS)))
def test_errors_are_one_visible_line(capsys, tmp_path, monkeypatch, command, word):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main([part.replace("{}", word) for part in command])
    assert stopped.value.code == 2
    out, err = check_shown(capsys)
    assert not out
    assert err.startswith("tokenauction: ")
    assert len(err) <= 500
    assert err.count("\n") == 1


@pytest.mark.parametrize("word", [HOSTILE, LONG], ids=["hostile", "long"])
@pytest.mark.parametrize(
    "text",
    [
        *(
            "{} = 1",
            "seed = {}",
            "name = {}",
            "[{}]\na = 1",
            "agents = {}",
            "rule = {}",
        ),
        *("valuation = {}", "values = {}", "bids = {}", "reference = {}", "stop = {}"),
        *("[agents]\nkind = {}", "[agents]\nkind = 'scenario'\nscenario = {}"),
        *("[rule]\naggregation = {}", "[rule]\naggregation = 'linear'\npayment = {}"),
        *("[stop]\nhalf_width = 1.0\nmeasure = {}", "[factors]\n{} = [1]"),
        *("[factors]\nrule = [{0}, {0}]", "[factors]\nvalues.sigma = [{}]", "{}"),
        *("query = 'q'\nagents = [{{ name = {0}, prompt = {0}, bid = -1 }}]",),
        *("query = 'q'\nagents = [{{ name = {0}, prompt = {0}, {0} = 1 }}]",),
    ],
)
def test_errors_in_files_are_one_visible_line(capsys, tmp_path, text, word):
    file = tmp_path / "\x1b[2J[b]\u202e.toml"
    file.write_text(text.format(toml(word)))
    for command in (["simulate"], ["study", "check"], ["study", "run"]):
        with pytest.raises(SystemExit) as stopped:
            main([*command, str(file)])
        assert stopped.value.code == 2
        out, err = check_shown(capsys)
        assert not out
        assert len(err) <= 500
        assert err.count("\n") == 1


def test_training_data_is_shown(capsys, tmp_path, model):
    prompts = (HOSTILE, LONG)
    for line in (*(f'{{"prompt": {json.dumps(x)}}}' for x in prompts), "{\x1b"):
        file = tmp_path / "\x1b[2J[b].jsonl"
        file.write_text(line)
        with pytest.raises(SystemExit):
            main(["train", str(file), "--out", str(tmp_path / "o"), "--model", model])
        _, err = check_shown(capsys)
        assert "line 1" in err
        assert len(err) <= 500


def test_a_scenario_without_any_auction_ends_with_1(capsys, tmp_path, model):
    """Each agent insists on a token of its own."""
    agents = "".join(
        f"[[agents]]\nname = '{x}'\nprompt = '{x}'\nsampling = {{ top_k = 1 }}\n"
        for x in ("to the sea", "hills!")
    )
    (tmp_path / "lost.toml").write_text(
        f"query = 'q'\nmodel = '{model}'\nnum_auctions = 3\nnum_tokens = 5\n"
        f"rules = ['log_linear']\n{agents}"
    )
    with pytest.raises(SystemExit) as stopped:
        main(["simulate", str(tmp_path / "lost.toml"), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 1
    _, err = check_shown(capsys)
    assert "every auction became undefined in 1 of 1 cells (log_linear)" in err
    assert (tmp_path / "out" / "summary.csv").exists()


def test_a_cell_without_any_auction_ends_the_run_with_1(capsys, live, tmp_path):
    """Agents with no token in common have no geometric mean; results are kept."""
    file = tmp_path / "lost.toml"
    file.write_text(
        "num_auctions = 64\nnum_tokens = 2\nrule = 'log_linear'\n"
        "[agents]\nkind = 'table'\nprobs = [[1.0, 0.0], [0.0, 1.0]]\n"
        "[factors]\nrule = ['linear', 'log_linear']\n"
    )
    for command in (["run", str(file), "--out"], ["resume"]):
        with pytest.raises(SystemExit) as stopped:
            main(["study", *command, str(tmp_path / "out")])
        assert stopped.value.code == 1
        _, err = check_shown(capsys, live)
        last = err.strip().splitlines()[-1]
        assert "every auction became undefined in 1 of 2 cells (log_linear)" in last
    assert (tmp_path / "out" / "tables" / "summary.csv").exists()
