"""The examples of docs/rivals.md, as a reader would run them."""

import re

import numpy as np
import pages


def test_the_examples_run():
    scope, printed = pages.run(pages.ROOT / "docs" / "rivals.md")
    names = re.findall(r"^\w+", printed, re.MULTILINE)
    assert names == ["mosaic", "single_winner", "best_of", "segment", "segment"]
    # Without replacement: two of three agents write a segment each.
    texts = scope["texts"]
    np.testing.assert_array_equal(texts.shares.sum((1, 2)), 2)
    assert (texts.shares.sum(1) <= 1).all()
    assert (np.asarray(texts.payments) > 0).any(0).all()
    # Of `best_of`, whose payments are certain.
    np.testing.assert_array_equal(scope["paid"], scope["expected"])
    assert scope["paid"].shape == (1_000, scope["reference"])
