import dataclasses
import html
import json
import math
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from markupsafe import escape
from matplotlib import image
from small_results import NUM_AUCTIONS, small_results

from tokenauction_jax.files import StoreError
from tokenauction_jax.reports import figures, labels, writer
from tokenauction_jax.reports import pages as report

HOSTILE = '<script>document.title = "taken"</script>', "B\"'&<img src=https://x.test/y>"
WORDS = ["Fly", " Alpha", "</span>", "<script>alert(1)</script>", "\n", "& more", "."]
SECTIONS = {
    *("about", "headline", "effects", "figures", "variance", "measures"),
    *("texts", "performance"),
}
FIGURES = ("welfare", "regret", "weight", "revenue-welfare", "effects", "shortfalls")


def written(folder, *args, **changes):
    """The page of a study."""
    results = small_results(*args, **changes)
    return report.write_report(results, folder / "report").read_text("utf-8")


def without_figures(page):
    """The text of a page."""
    page = re.sub("<(svg|script|style).*?</\\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub("<[^>]*>", " ", page).split())


@pytest.fixture
def no_figures(monkeypatch):
    """Leaves them out where only tables matter."""
    monkeypatch.setattr(figures, "charts", lambda _: [])


class Reader(HTMLParser):
    """Collects links, ids, and the attributes and texts of tokens."""

    def __init__(self, page):
        super().__init__()
        self.links, self.ids, self.tokens = [], [], []
        self._in_token = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        names = ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
        self.links += [attrs[name] for name in names if name in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        self._in_token = tag == "span" and "title" in attrs
        if self._in_token:
            self.tokens.append([attrs["class"], attrs["style"], attrs["title"], ""])

    def handle_data(self, data):
        if self._in_token:
            self.tokens[-1][-1] += data

    def handle_endtag(self, tag):
        self._in_token = False


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report with names and texts that are no HTML."""
    results = small_results("misreport", HOSTILE, words=WORDS)
    description = "a < b & <b>c</b>"
    results.study = dataclasses.replace(results.study, description=description)
    path = tmp_path_factory.mktemp("hostile") / "report"
    assert report.write_report(results, path) == path / "index.html"
    return path


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "index.html").read_text("utf-8")


def test_a_report_has_a_page_and_each_figure_twice(folder):
    names = {file.name for file in folder.iterdir()}
    assert names == {"index.html"} | {
        f"{name}.{kind}" for name in FIGURES for kind in ("svg", "png")
    }
    assert [file.name for file in folder.parent.iterdir()] == ["report"]


def test_the_page_needs_no_other_file(page):
    reader = Reader(page)
    assert len(reader.links) > 100
    assert all(link.startswith("#") for link in reader.links)
    assert not re.search(r"@import|url\((?!#)", page)
    assert len(reader.ids) == len(set(reader.ids))
    assert {link[1:] for link in reader.links} <= set(reader.ids)


def test_names_and_texts_are_text(page):
    assert page.count("<script>") == 1
    assert page.count("<img") == 0
    for text in (*HOSTILE, "a < b & <b>c</b>"):
        assert text not in page
        assert str(escape(text)) in page
    assert WORDS[3] not in page
    # Which words are drawn is by chance.
    drawn = {piece for *_, piece in Reader(page).tokens} & {*WORDS[2:4], WORDS[5]}
    assert drawn
    for text in drawn:
        assert str(escape(text)) in page


def test_tokens_have_the_colour_and_share_of_the_agent_they_are_owed_to(page):
    tokens = Reader(page).tokens
    results = small_results("misreport", HOSTILE, words=WORDS)
    first = results.auctions[results.auctions["cell"] == 1].iloc[0]
    # Three texts of three words of each cell.
    assert len(tokens) == 16 * 3 * 3
    # Factor 0, in cell 1, is shown first.
    shown = tokens[:3]
    assert [piece for *_, piece in shown] == list(first["pieces"])
    for (style, opacity, title, _), agent, shares in zip(
        shown, first["favoured_by"], first["attribution"], strict=True
    ):
        assert style == f"token agent{agent}"
        assert opacity == f"--s:{shares[agent]:.2f}"
        names = [f"{n} {100 * s:.0f} %" for n, s in zip(HOSTILE, shares, strict=True)]
        assert title == ", ".join(names)


def test_every_cell_is_in_the_headline_table_with_interval_and_n(page):
    results = small_results("misreport", HOSTILE, words=WORDS)
    table = page[page.index('id="headline"') : page.index('id="effects"')]
    assert table.count("<tr>") == 17
    rows = results.summary.query(
        "measure == 'welfare' and valuation == 'total_variation'"
    )
    text = without_figures(table).replace("−", "-")  # noqa: RUF001
    for row in rows.itertuples():
        mean, interval = labels.interval(row._asdict())
        assert f"{mean} {interval}".replace("−", "-") in text  # noqa: RUF001
    assert text.count(f" {NUM_AUCTIONS} ") == 16
    assert table.count(f'title="n = {NUM_AUCTIONS}"') == 16 * 5


def test_a_study_of_one_cell(tmp_path):
    text = without_figures(written(tmp_path, "single"))
    assert f"{NUM_AUCTIONS} in one cell" in text
    assert "all auctions" in text
    assert "Effects" not in text


@pytest.mark.slow
def test_a_study_of_many_cells_and_groups_of_agents(tmp_path, no_figures):
    page = written(tmp_path, "welfare")
    assert f"{NUM_AUCTIONS} in each of 6 cells" in page
    assert "Misreports" not in page
    assert "Paired differences" in page


def test_missing_infinite_and_undefined_numbers(tmp_path, no_figures):
    results = small_results("lambda")
    for name in ("summary", "differences", "effects", "variance_ratios"):
        frame = getattr(results, name)
        numbers = frame.select_dtypes("float").columns
        frame.loc[frame.index % 3 == 0, numbers] = math.nan
        frame.loc[frame.index % 3 == 0, "n"] = 0
        frame.loc[frame.index % 3 == 1, ["low", "high"]] = -math.inf, math.inf
    chosen = results.summary["measure"] == "minimum_welfare"
    results.summary.loc[chosen, "infinite"] = 1234
    results.summary.loc[results.summary["cell"] == 3, "undefined"] = 2345
    results.performance.loc[0, "peak_memory_mib"] = math.nan
    results.auctions = results.auctions.iloc[:0]
    page = report.write_report(results, tmp_path / "report").read_text("utf-8")
    text = without_figures(page)
    assert not re.search(r"\b(nan|inf|None|NaT)\b", text, flags=re.IGNORECASE)
    headline = page[page.index('id="headline"') : page.index('id="effects"')]
    assert headline.count("1,234 infinite left out") == 10
    assert (
        f"share of the first agent's value 0.75: 2,345 of {NUM_AUCTIONS}."
        in html.unescape(text)
    )
    assert "No texts were kept" in text
    assert 'title="n = 0"' in page
    assert "∞" in text


def test_undefined_and_infinite_are_not_mentioned_without_any(page):
    headline = page[page.index('id="headline"') : page.index('id="effects"')]
    assert "infinite" not in headline
    assert "undefined" not in headline


@pytest.mark.parametrize("finished", [True, False])
def test_an_interrupted_study_says_so(tmp_path, finished):
    page = written(tmp_path, "single", finished=finished, num_auctions=32)
    assert ("interrupted: 32 auctions so far" in page) != finished
    assert ('class="alarm" id="interrupted"' in page) != finished


@pytest.mark.parametrize("sequential", [True, False])
def test_what_the_intervals_are(tmp_path, sequential):
    page = written(tmp_path, "single", sequential=sequential)
    assert ("95 % confidence sequences" in page) == sequential
    assert ("fixed in advance" in page) != sequential


def test_an_undefined_auction_and_one_without_tokens(tmp_path):
    empty = {"pieces": [], "favoured_by": [], "attribution": [], "text": "", "cell": 0}
    auctions = pd.DataFrame([empty | {"auction": 4, "valid": False}])
    page = written(tmp_path, "single", auctions=auctions)
    assert "<em>no tokens</em> <em" in page
    assert "then undefined" in page


def test_an_earlier_report_is_replaced_whole(tmp_path):
    written(tmp_path, "single")
    (tmp_path / "report" / "weight.svg").write_text("an earlier figure")
    written(tmp_path, "single")
    assert not (tmp_path / "report" / "weight.svg").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["report"]


def test_nothing_but_a_report_is_replaced(tmp_path):
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "index.html").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="other files"):
        written(tmp_path, "single")
    assert (folder / "index.html").read_text() == "mine"
    with pytest.raises(StoreError, match="is not a folder: create it"):
        written(tmp_path / "no", "single")
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "report").write_text("mine")
    with pytest.raises(StoreError, match="is not a folder"):
        written(tmp_path / "file", "single")


def test_a_failed_write_leaves_the_earlier_report(tmp_path, monkeypatch):
    before = written(tmp_path, "single")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "save", full)
    with pytest.raises(StoreError, match="No space left"):
        written(tmp_path, "single", num_auctions=1)
    assert (tmp_path / "report" / "index.html").read_text("utf-8") == before
    assert [file.name for file in tmp_path.iterdir()] == ["report"]


# Run in the page: what went wrong, what was asked for, and whether the table works.
PROBE = """<script>
const seen = {errors: [], blocked: []};
addEventListener("error", (event) => seen.errors.push(event.message), true);
addEventListener("securitypolicyviolation", (e) => seen.blocked.push(e.blockedURI));
addEventListener("load", () => {
  const table = document.getElementById("all-measures");
  const column = (i) => [...table.tBodies[0].rows].filter((row) => !row.hidden)
    .map((row) => row.cells[i].textContent);
  seen.title = document.title;
  seen.sections = [...document.querySelectorAll("section, header")].map((e) => e.id);
  seen.figures = [...document.querySelectorAll("figure svg")].map((svg) => {
    const box = svg.getBoundingClientRect();
    return [box.width, box.height];
  });
  seen.width = innerWidth;
  seen.scroll = document.documentElement.scrollWidth - innerWidth;
  seen.scripts = document.scripts.length;
  seen.images = document.images.length;
  seen.resources = performance.getEntriesByType("resource").map((e) => e.name);
  const heads = [...table.tHead.rows[0].cells].map((head) => head.textContent);
  const mean = heads.indexOf("mean");
  table.tHead.rows[0].cells[mean].querySelector("button").click();
  seen.ascending = column(mean);
  const filter = document.getElementById("filter");
  filter.value = "worst reverse";
  filter.dispatchEvent(new Event("input"));
  seen.filtered = column(heads.indexOf("measure"));
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
});
</script>"""


def probe(browse, path, page, *flags):
    """What the probe saw in a page."""
    path.write_text(page.replace("<head>", "<head>" + PROBE), encoding="utf-8")
    dom = browse(path, "--dump-dom", *flags)
    (seen,) = re.findall('<pre id="probe">(.*?)</pre>', dom, flags=re.DOTALL)
    return json.loads(html.unescape(seen))


@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_in_a_browser(browse, page, tmp_path, width):
    seen = probe(browse, tmp_path / "page.html", page, f"--window-size={width},900")
    assert seen["errors"] == seen["blocked"] == seen["resources"] == []
    assert seen["title"] == "misreport: study of token auctions"
    assert seen["width"] == width
    assert (seen["scripts"], seen["images"]) == (2, 0)
    assert set(seen["sections"]) == SECTIONS | {"misreports"}
    assert len(seen["figures"]) == len(FIGURES)
    assert all(w > 300 and h > 100 for w, h in seen["figures"])
    # Wide tables and figures scroll in their own boxes, not the page.
    assert seen["scroll"] <= 0
    means = [
        float(text.replace("−", "-").replace(",", ""))  # noqa: RUF001
        for text in seen["ascending"]
    ]
    assert len(means) > 800
    assert means == sorted(means)
    assert seen["filtered"] == ["welfare of the worst-off agent"] * 16


def test_the_probe_sees_requests_and_errors(browse, page, tmp_path):
    bad = '<img src="https://x.test/y.png"><script>missing()</script></body>'
    seen = probe(browse, tmp_path / "page.html", page.replace("</body>", bad))
    assert seen["blocked"] == ["https://x.test/y.png"]
    assert any("missing is not defined" in error for error in seen["errors"])


@pytest.mark.parametrize(("scheme", "light"), [(1, True), (0, False)])
def test_a_screenshot_is_not_blank(browse, folder, tmp_path, scheme, light):
    path = tmp_path / "page.png"
    browse(
        folder / "index.html",
        f"--screenshot={path}",
        "--window-size=1280,3000",
        f"--blink-settings=preferredColorScheme={scheme}",
    )
    pixels = image.imread(path)[..., :3]
    assert pixels.shape == (3000, 1280, 3)
    assert (pixels[5, 5] > 0.9).all() == light
    # Text and tables everywhere: no band of the page has one colour only.
    assert (pixels.reshape(10, 300, 1280, 3).std(axis=(1, 2)) > 0.02).all()
