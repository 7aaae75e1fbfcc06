"""Notebooks run in a kernel of their own, and show what was saved with them."""

import json
import re

import nbclient
import pages
import pytest

import notebooks

PATHS = sorted((notebooks.ROOT / "notebooks").glob("*.ipynb"))
# Fewer auctions than a reader has: their claims hold all the same.
SMALL = {
    "01_one_auction": {"num_draws": 5_000},
    "02_paper": {
        "MODEL": "house",
        "NUM_AUCTIONS": 50,
        "NUM_DRAWS": 2_000,
        "NUM_INSTANCES": 20,
        "NUM_STEPS": 20,
        "NUM_TEXTS": 4,
        "NUM_TOKENS": 6,
        "VOCABULARIES": (2, 4),
    },
    "03_welfare_study": {"num_auctions": 512},
    "04_bid_optimisation": {"num_auctions": 200},
    "05_scaling": {"NUM_AUCTIONS": 1_000, "NUM_REPEATS": 2, "LARGEST_FACTOR": 2},
    "06_your_own_rule": {"num_instances": 32, "num_auctions": 512},
    "07_rivals": {
        "NUM_TEXTS": 100,
        "NUM_ADS": 4,
        "CANDIDATES": (4,),
        "AD_CANDIDATES": (),
        "NUM_INSTANCES": 20,
    },
}
MOST_BYTES, MOST_CELLS = 400_000, 16
# Deprecated by Jupyter's own packages, or left open by their sockets.
JUPYTER = ("ignore::DeprecationWarning", "ignore::ResourceWarning")
# They print how long something took.
TIMED = ("05_scaling",)
each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def kinds(cell):
    """What a cell shows: its outputs, and the forms that they have."""
    return [
        (output.output_type, output.get("name"), sorted(output.get("data", {})))
        for output in cell.outputs
    ]


def check_run(notebook):
    """Every cell ran, in order, without a warning."""
    cells = notebooks.code(notebook)
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error", output
            assert output.get("name") != "stderr", output.text


@each
@pytest.mark.filterwarnings(*JUPYTER)
def test_a_notebook_runs(path):
    """What it claims it asserts itself, in its last cell."""
    saved, fresh = notebooks.read(path), notebooks.read(path)
    notebooks.run(fresh, **SMALL.get(path.stem, {}))
    check_run(fresh)
    for one, other in zip(notebooks.code(saved), notebooks.code(fresh), strict=True):
        assert kinds(one) == kinds(other), one.source


@each
@pytest.mark.slow
@pytest.mark.filterwarnings(*JUPYTER)
def test_a_notebook_prints_what_was_saved(path):
    if path.stem in TIMED:
        pytest.skip("prints times")
    saved, fresh = notebooks.read(path), notebooks.read(path)
    notebooks.run(fresh)
    for one, other in zip(notebooks.code(saved), notebooks.code(fresh), strict=True):
        for text, printed in zip(
            notebooks.texts(one), notebooks.texts(other), strict=True
        ):
            pages.assert_agree(path.name, printed, text)


@each
def test_a_notebook_is_saved_with_what_it_shows(path):
    saved = notebooks.read(path)
    check_run(saved)
    assert len(notebooks.code(saved)) <= MOST_CELLS
    forms = [form for cell in notebooks.code(saved) for *_, form in kinds(cell)]
    assert any("image/png" in form for form in forms)
    assert path.stat().st_size < MOST_BYTES


@each
def test_a_notebook_says_nothing_of_the_machine(path):
    content = json.loads(path.read_text())
    assert content["metadata"]["language_info"] == {"name": "python"}
    for cell in content["cells"]:
        assert set(cell["metadata"]) <= {"tags"}
    assert not re.search(r"/(?:home|root|tmp|Users)/|site-packages", path.read_text())


@each
def test_links_of_a_notebook_lead_somewhere(path):
    for cell in notebooks.read(path).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#]+)[^)]*\)", cell.source):
                assert "://" in target or (path.parent / target).exists(), target


@pytest.mark.filterwarnings(*JUPYTER)
def test_parameters_are_set_and_failures_are_raised():
    notebook = notebooks.read(PATHS[0])
    parameters, last = notebooks.code(notebook)[:2]
    last.source = "print(auction)"
    notebook.cells = [parameters, last]
    notebooks.run(notebook, auction=17)
    assert notebooks.texts(last) == ["17\n"]
    last.source = "1 / 0"
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivision"):
        notebooks.run(notebook)
