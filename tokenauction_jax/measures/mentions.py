"""What finished texts say: their tokens, and which agents they name."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def text_tokens(
    tokens: Iterable[np.ndarray], lengths: Iterable[int], end_tokens: Sequence[int]
) -> list[list[int]]:
    """The tokens of each text, without the one that ended it.

    Args:
      tokens: A row a text, of which only the first `lengths` are its own.
      lengths: Of the texts, the end token included.
      end_tokens: Those that end a text.
    """
    found = []
    for row, length in zip(tokens, lengths, strict=True):
        ended = length and int(row[length - 1]) in end_tokens
        found.append(row[: length - 1 if ended else length].tolist())
    return found


def decode_texts(
    tokenizer: Any, tokens: Iterable[np.ndarray], lengths: Iterable[int]
) -> list[str]:
    """Texts, of the tokens that `text_tokens` keeps."""
    kept = text_tokens(tokens, lengths, tokenizer.end_tokens)
    return [tokenizer.decode(text) for text in kept]


def mentions(text: str, phrases: Sequence[str]) -> bool:
    """Whether a text has one of the phrases, in any case and as whole words."""
    found = "|".join(map(re.escape, phrases))
    return re.search(rf"(?<!\w)(?:{found})(?!\w)", text, re.IGNORECASE) is not None
