"""The table of families in the documentation is that of package and tests."""

import re
from pathlib import Path

from tokenauction_jax.agents.checkpoints.families import FAMILIES
from tokenauction_jax.agents.checkpoints.gguf import ARCHITECTURES

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def rows():
    lines = re.findall(r"^\| (`.*) \|$", PAGE.read_text(), re.MULTILINE)
    cells = [line.split(" | ") for line in lines if not line.startswith("`model_type`")]
    return {name.strip("`"): rest for name, *rest in cells}


def test_the_table_has_all_families():
    assert list(rows()) == list(FAMILIES)


def test_the_table_has_all_architectures_of_gguf_files():
    named = {re.match("`(.*?)`", cells[1])[1]: name for name, cells in rows().items()}
    assert set(named) == set(ARCHITECTURES)
    for architecture, family in ARCHITECTURES.items():
        assert f"`{architecture}`" in rows()[family][1]


def test_every_family_is_compared_with_transformers(compared):
    classes = {kind.architecture for kind in FAMILIES.values()}
    named = {name.removesuffix("Text") for name, _ in compared.values()}
    assert {re.split("ForCausal|LMHead", name)[0] for name in classes} == named
    assert all(float(cells[2]) < 1e-4 for cells in rows().values())
