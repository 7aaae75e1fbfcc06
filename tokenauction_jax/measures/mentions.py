"""Which agents finished texts name."""

import re
from collections.abc import Sequence


def mentions(text: str, phrases: Sequence[str]) -> bool:
    """Whether a text has one of the phrases, in any case and as whole words."""
    found = "|".join(map(re.escape, phrases))
    return re.search(rf"(?<!\w)(?:{found})(?!\w)", text, re.IGNORECASE) is not None
