"""Texts that tokenizers get wrong: scripts, spaces, numbers, and special tokens."""

import numpy as np

TEXTS = [
    "",
    "Hello, world!",
    "In 2024: 12345 + 678 = 13023, about 3.14e-10.",
    "def f(x):\n\treturn x**2  # squared\n\n\n    pass",
    "  leading,   inner    and trailing spaces   ",
    "ünïcödé, 漢字, العربية, עברית, ไทย, 🌺🏝️👩‍👩‍👧 and “quotes” — it's, they'LL, I'd",
    "<|im_start|>user\nhi<|im_end|> <|im_end",
    "a\r\nb\u00a0c\u200bd\ufffde\x00f",
]
_PIECES = [
    *("a", "the", " the", "Hawaii", "HELLO", "Alpha Airlines", "x", "I'd", "they'LL"),
    *(" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\u00a0", "\u200b", "\u3000", "▁"),
    *("é", "e\u0301", "n\u0303", "ß", "ǅ", "Å", "\u212b", "ﬁ", "漢字", "かな", "한국"),
    *("عربية", "\u200fעברית", "ไทย", "हिन्दी", "🌺", "🏝️", "👩\u200d👩\u200d👧", "🇳🇱"),  # noqa: RUF001
    *("7", "2024", "3.14", "Ⅷ", "½", "٣", "!", "...", "—", "'s", "'", '"', "/", "\\"),
    *("\ufffd", "\x00", "\U0010ffff", "<", ">", "<|", "|>", "<0x0A>"),
]


def random_texts(count, special=(), seed=0):
    """Texts of up to 12 pieces, a sixth of which are among the `special` tokens."""
    rng = np.random.default_rng(seed)

    def piece():
        if special and rng.integers(6) == 0:
            return special[rng.integers(len(special))]
        return _PIECES[rng.integers(len(_PIECES))]

    return ["".join(piece() for _ in range(rng.integers(13))) for _ in range(count)]
