import pytest

from tokenauction_jax.measures import mentions


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Fly with alpha air!", True),
        ("ALPHA AIR.", True),
        ("Alpha Airlines", False),
        ("an alpha, air", False),
        ("the AA fleet", True),
        ("", False),
    ],
)
def test_mentions_are_whole_words_in_any_case(text, named):
    assert mentions(text, ("Alpha Air", "AA")) is named


def test_phrases_are_text_not_patterns():
    assert mentions("a (b) c", ("(b)",))
    assert not mentions("abc", ("a.c",))
