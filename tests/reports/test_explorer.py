"""The page to explore kept auctions with: its data, its size, and in a browser."""

import dataclasses
import html
import json
import re

import numpy as np
import pandas as pd
import pytest
import toy_scenario as toy

import tokenauction_jax as ta
from tokenauction_jax.cli.main import main
from tokenauction_jax.files import StoreError
from tokenauction_jax.reports import explorer
from tokenauction_jax.scenarios import population
from tokenauction_jax.scenarios.population import Cast
from tokenauction_jax.studies import sweep

pytestmark = pytest.mark.usefixtures("one_device")

HOSTILE = (
    "</script><script>document.title = 'taken'</script>",
    "<!--\"'&<b>\u2028\x1b[2J",
)
MOST = 3_000_000


@pytest.fixture(scope="module")
def cast():
    pool = ta.agents.tabular(np.log(toy.TABLE), end_token=toy.END)
    return Cast(pool, toy.Letters(), (("A",), ("B",)))


@pytest.fixture(scope="module")
def swept(cast):
    """A scenario, its runs and results, and the same auctions token by token."""
    scenario = toy.scenario(rules=["linear", "log_linear"])
    runs, results = toy.run(scenario, sweep.SHARES)
    return scenario, runs, results, sweep.rollouts(scenario, cast, runs, 40)


@pytest.fixture(scope="module")
def file(swept, tmp_path_factory):
    scenario, _, results, rollouts = swept
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    titles = sweep.rule_titles(scenario)
    ta.reports.write_explorer(
        results, path, title=scenario.query, rollouts=rollouts, level_labels=titles
    )
    return path


def data_of(path):
    """What a page has to show."""
    pattern = '<script type="application/json" id="data">(.*?)</script>'
    (text,) = re.findall(pattern, path.read_text("utf-8"), flags=re.DOTALL)
    return json.loads(text)


def near(expected):
    return pytest.approx(np.asarray(expected, float).tolist(), rel=6e-3, abs=1e-6)


def test_the_page_needs_no_other_file(file):
    page = file.read_text("utf-8")
    assert not re.search(r"\b(src|href|srcset|action)=|@import|url\(", page)
    without_names = page.replace("http://www.w3.org/2000/svg", "")
    assert "http" not in without_names.replace("http-equiv", "")


def test_the_data_are_those_of_the_sweep(swept, file):
    scenario, runs, results, rollouts = swept
    data = data_of(file)
    slider, rules = data["factors"]
    assert slider["name"] == "weight of A"
    assert slider["numbers"] == list(sweep.SHARES)
    assert rules["levels"] == [
        "linear, payment second_price",
        "log_linear, payment clarke",
    ]
    summary = results.summary.set_index(["cell", "measure", "valuation", "agent"])
    found = {tuple(cell["levels"]): cell for cell in data["cells"]}
    for number, (run, rollout) in enumerate(zip(runs, rollouts, strict=True)):
        rule, share = divmod(number, len(sweep.SHARES))
        cell = found[share, rule]
        assert len(cell["texts"]) == cell["kept"] == scenario.num_auctions
        names = [measure["name"] for measure in data["measures"]]
        assert names == ["mention", "welfare", "revenue"]
        keys = [("mention", "", "A"), ("mention", "", "B")]
        keys += [("welfare", "total_variation", ""), ("expected_revenue", "", "")]
        estimates = [row for rows in cell["estimates"] for row in rows]
        for key, estimate in zip(keys, estimates, strict=True):
            row = summary.loc[(number, *key)]
            assert estimate == near(row[["mean", "low", "high"]])
        for text, (_, row) in zip(cell["texts"], run.auctions.iterrows(), strict=True):
            pieces = [data["pieces"][piece] for piece in text["tokens"]]
            assert pieces == list(row["pieces"])
            assert text["bids"] == near(run.bids)
            assert text["paid"] == near([row["payment/0"], row["payment/1"]])
            for owed, given in zip(text["owed"], row["attribution"], strict=True):
                assert owed == near(given)
            size, auction = len(pieces), row["auction"]
            assert text["logs"] == near(rollout.log_prob[auction, :size])
            paid = rollout.payments[auction].cumsum(axis=0)
            for i, so_far in enumerate(text["soFar"]):
                assert so_far == near(paid[i])


def test_tokens_that_a_rollout_draws_otherwise_are_not_described(swept):
    _, _, results, rollouts = swept
    wrong = [dataclasses.replace(x, tokens=x.tokens + 1) for x in rollouts]
    for cell in explorer.content(results, wrong)["cells"]:
        assert not any(text.get("logs") for text in cell["texts"])


def test_a_large_page_stays_small(swept, tmp_path):
    """5 shares, 2 rules, 50 texts, 40 tokens each: all of them different."""
    _, _, results, rollouts = swept
    generator = np.random.default_rng(0)

    def stretched(rollout):
        draw = generator.uniform
        return dataclasses.replace(
            rollout,
            tokens=np.tile(np.arange(40), (50, 1)),
            log_prob=-draw(size=(50, 40)),
            payments=draw(size=(50, 40, 2)),
        )

    first = results.auctions.query("auction == 0")
    rows = [
        row
        | {
            "auction": i,
            "tokens": np.arange(40),
            "pieces": [f"token{x}" for x in generator.integers(10_000, size=40)],
            "attribution": list(generator.uniform(size=(40, 2))),
        }
        for row in first.to_dict("records")
        for i in range(60)
    ]
    path = tmp_path / "page.html"
    shadow = with_auctions(results, pd.DataFrame(rows))
    ta.reports.write_explorer(shadow, path, rollouts=list(map(stretched, rollouts)))
    texts = [text for cell in data_of(path)["cells"] for text in cell["texts"]]
    assert len(texts) == 500
    assert all(len(text["logs"]) == 40 for text in texts)
    assert 500_000 < path.stat().st_size < MOST


def with_auctions(results, auctions):
    """The results as if these had been kept."""
    copy = dataclasses.replace(results)
    copy.__dict__["auctions"] = auctions
    return copy


def test_without_texts_and_without_a_swept_number(swept):
    """Tokens are numbers, and there is no slider."""
    scenario, *_ = swept
    _, results = toy.run(scenario)
    bare = with_auctions(results, results.auctions.assign(text=""))
    data = explorer.content(bare)
    (rules,) = data["factors"]
    assert (rules["key"], rules["numbers"]) == ("rule", None)
    assert data["separator"] == " "


def test_auctions_of_whole_texts_owe_their_tokens_to_nobody(swept):
    *_, results, _ = swept
    kept = results.auctions.copy()
    kept["attribution"] = [[] for _ in range(len(kept))]
    for cell in explorer.content(with_auctions(results, kept))["cells"]:
        assert not any(text["owed"] for text in cell["texts"])


def test_no_kept_auctions(swept, tmp_path):
    path = tmp_path / "page.html"
    *_, results, _ = swept
    with pytest.raises(StoreError, match="keep_auctions"):
        ta.reports.write_explorer(
            with_auctions(results, results.auctions.head(0)), path
        )
    assert not path.exists()


SCENARIO = """
query = "Where <to>?"
num_tokens = 6
rules = ["linear", "log_linear"]
[[agents]]
name = "A"
prompt = "a"
[[agents]]
name = "B"
prompt = "b"
"""


def test_the_command_on_a_scenario(cast, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(population, "load_cast", lambda _: cast)
    file, out = tmp_path / "scenario.toml", tmp_path / "page.html"
    file.write_text(SCENARIO)
    main(["explore", str(file), "--num-auctions", "40", "--out", str(out)])
    assert capsys.readouterr().out == f"Written to {out}\n"
    assert "<h1>Where &lt;to&gt;?</h1>" in out.read_text("utf-8")
    cells = data_of(out)["cells"]
    assert len(cells) == 10
    assert all("logs" in text for cell in cells for text in cell["texts"])


def test_the_command_on_a_simulation(swept, cast, file, tmp_path, monkeypatch):
    """The scenario that ran into the folder is swept."""
    monkeypatch.setattr(population, "load_cast", lambda _: cast)
    scenario, runs, results, _ = swept
    folder, out = tmp_path / "simulation", tmp_path / "page.html"
    sweep.write(folder, scenario, {}, runs, results)
    main(["explore", str(folder), "--out", str(out)])
    assert data_of(out) == data_of(file)


def test_the_command_on_a_study(swept, tmp_path, monkeypatch):
    monkeypatch.setattr(ta.studies, "load", lambda _: swept[2])
    out = tmp_path / "page.html"
    main(["explore", str(tmp_path), "--out", str(out)])
    assert data_of(out) == json.loads(json.dumps(explorer.content(swept[2])))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no scenario 'nowhere': give a TOML file or one of"),
        (["{folder}"], "manifest"),
        (["hawaii", "--out", "{folder}/page.txt"], "is not FILE.html"),
        (["hawaii", "--out", "{folder}/there.html"], "exists and is kept"),
        (["{folder}", "--seed", "3"], "is a study: leave out --seed"),
    ],
)
def test_bad_input_is_told_in_a_line(capsys, tmp_path, arguments, message):
    (tmp_path / "there.html").write_text("mine")
    given = [argument.format(folder=tmp_path) for argument in arguments]
    if "--out" not in given:
        given += ["--out", str(tmp_path / "new.html")]
    with pytest.raises(SystemExit) as stop:
        main(["explore", *given])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["there.html"]


# Run in the page: what it shows, before and after what a reader does.
PROBE = """<script>
const seen = { errors: [], blocked: [] };
addEventListener("error", (event) => seen.errors.push(event.message), true);
addEventListener("securitypolicyviolation", (e) => seen.blocked.push(e.blockedURI));
addEventListener("load", () => {
  const get = (id) => document.getElementById(id);
  const look = () => ({
    title: document.title, status: get("status").textContent,
    tokens: [...document.querySelectorAll("#text .token")].map((t) => t.textContent),
    spoken: [...document.querySelectorAll("#text .token")].map((t) => t.ariaLabel),
    looks: [...document.querySelectorAll("#text .token")].map((t) => t.className),
    token: get("token").innerText, legend: get("legend").innerText,
    means: [...document.querySelectorAll("#charts td")].map((t) => t.textContent),
    now: document.querySelector(".now")?.getAttribute("x1"), hash: location.hash,
    stops: [...document.querySelectorAll("#text [tabindex='0']")].length,
    focus: document.activeElement.textContent,
    scroll: document.documentElement.scrollWidth - innerWidth,
  });
  seen.first = look();
  const slider = get("slider");
  slider.value = 4;
  slider.dispatchEvent(new Event("input"));
  seen.slid = look();
  document.querySelector("input[type=radio]").click();
  seen.switched = look();
  document.querySelectorAll("button")[1].click();
  seen.next = look();
  document.querySelector("#text .token").focus();
  for (const key of ["ArrowRight", "ArrowRight", "ArrowLeft"]) {
    document.activeElement.dispatchEvent(
      new KeyboardEvent("keydown", { key, bubbles: true }));
  }
  seen.moved = look();
  const named = (e) => e.ariaLabel || e.labels?.length || e.textContent.trim();
  seen.unnamed = [...document.querySelectorAll("input, button, select, [role]")]
    .filter((e) => !named(e)).map((e) => e.outerHTML);
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
});
</script>"""


@pytest.fixture
def probe(browse, tmp_path):
    """What a reader sees of a page at a fragment of its address."""

    def run(page, fragment, *flags):
        path = tmp_path / "probed.html"
        probing = PROBE + f"<script>location.hash = '{fragment}';</script>"
        text = page.read_text("utf-8").replace("<head>", "<head>" + probing)
        path.write_text(text, "utf-8")
        dom = browse(path, "--dump-dom", *flags)
        (seen,) = re.findall('<pre id="probe">(.*?)</pre>', dom, flags=re.DOTALL)
        seen = json.loads(html.unescape(seen))
        assert seen["errors"] == seen["blocked"] == seen["unnamed"] == []
        return seen

    return run


def test_a_reader_moves_through_the_texts(probe, file):
    data = data_of(file)
    found = {tuple(cell["levels"]): cell for cell in data["cells"]}

    def words(share, rule, text):
        tokens = found[share, rule]["texts"][text]["tokens"]
        return [data["pieces"][token] for token in tokens]

    seen = probe(file, "#rule=1&share=3&text=2&token=1", "--window-size=500,900")
    first, slid, switched = seen["first"], seen["slid"], seen["switched"]
    assert first["tokens"] == words(3, 1, 2)
    assert "weight of A 0.75, rule log_linear" in first["status"]
    assert "Token 2 of" in first["token"]
    assert "log-probability" in first["token"]
    assert "paid so far" in first["token"]
    assert slid["tokens"] == words(4, 1, 2)
    assert float(slid["now"]) > float(first["now"])
    assert slid["means"] != first["means"]
    assert "share=4" in slid["hash"]
    # Who alone has influence is owed all.
    assert all("A 100 %" in label for label in slid["spoken"])
    assert all("agent0 mark0" in look for look in slid["looks"])
    assert switched["tokens"] == words(4, 0, 2)
    assert seen["next"]["tokens"] == words(4, 0, 3)
    assert "text 4 of 40" in seen["next"]["status"]
    assert seen["moved"]["stops"] == 1
    moved = max(0, min(2, len(words(4, 0, 3)) - 1) - 1)
    assert seen["moved"]["focus"] == words(4, 0, 3)[moved]
    assert f"token={moved}" in seen["moved"]["hash"]
    assert all(state["scroll"] <= 0 for state in seen.values() if "scroll" in state)


def test_wrong_links_show_the_nearest_text(probe, file):
    seen = probe(file, "#rule=99&share=-3&text=x&token=1e9")
    assert "weight of A 0, rule log_linear" in seen["first"]["status"]
    assert "text 1 of 40" in seen["first"]["status"]


@pytest.fixture
def hostile(swept, tmp_path):
    """A page whose names and texts try to act."""
    _, _, results, _ = swept
    kept = results.auctions.copy()
    kept["pieces"] = [[*HOSTILE] for _ in range(len(kept))]
    kept["attribution"] = [[[0.25, 0.75]] * 2 for _ in range(len(kept))]
    path = tmp_path / "page.html"
    titles = {"linear": HOSTILE[0], "log_linear": HOSTILE[1]}
    ta.reports.write_explorer(
        with_auctions(results, kept), path, title=HOSTILE[0], level_labels=titles
    )
    return path


def test_hostile_names_and_texts_are_data(hostile):
    page = hostile.read_text("utf-8")
    assert page.count("<script") == page.count("</script>") == 2
    assert "\x1b" not in page
    assert HOSTILE[0] in data_of(hostile)["pieces"]


def test_hostile_names_and_texts_are_only_shown(probe, hostile):
    seen = probe(hostile, "")["next"]
    assert seen["title"] == f"{HOSTILE[0]}: token auctions to explore"
    assert seen["tokens"] == data_of(hostile)["pieces"]
    assert all("B 75 %" in label for label in seen["spoken"])
    assert all("agent1 mark1" in look for look in seen["looks"])
