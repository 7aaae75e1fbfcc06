"""The examples of docs/rivals.md, as a reader would run them."""

import pathlib
import re

import numpy as np

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "rivals.md"


def test_the_examples_run(capsys):
    scope = {}
    for example in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(example, scope)
    printed = capsys.readouterr().out
    assert "mosaic" in printed
    assert "best_of" in printed
    # Of `best_of`, whose payments are certain.
    np.testing.assert_array_equal(scope["paid"], scope["expected"])
    assert scope["written"].tokens.shape == (1_000, 1, 6)
    np.testing.assert_array_equal(scope["payments"], [0.5, 0, 0])
    assert (scope["paid"][:, scope["reference"]] == 0).all()
