"""How byte-level tokenizers split text before they merge, by llama.cpp's names."""

from __future__ import annotations

from typing import NamedTuple

from tokenizers import Regex
from tokenizers.pre_tokenizers import (
    ByteLevel,
    Digits,
    PreTokenizer,
    Sequence,
    Split,
)


class Splitting(NamedTuple):
    """What a family does with a text before its merges.

    Attributes:
      pre_tokenizer: Splits it into words, spelled in bytes.
      composes: Whether letters and their accents become one character first.
      keeps_words: Whether words of the vocabulary stay whole even if no merges make
        them.
      begins: Whether texts begin with a token of their own unless the file says no.
    """

    pre_tokenizer: PreTokenizer
    composes: bool = False
    keeps_words: bool = False
    begins: bool = False


def _split(regex: str) -> PreTokenizer:
    spell = ByteLevel(add_prefix_space=False, use_regex=False)
    return Sequence([Split(Regex(regex), behavior="isolated"), spell])


_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_AFTER = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_TEKKEN = rf"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\p{{N}}{_AFTER}"
_GPT4O = (
    rf"{_BEFORE}{_UPPER}*{_LOWER}+{_ENDING}|{_BEFORE}{_UPPER}+{_LOWER}*{_ENDING}"
    rf"|\p{{N}}{{1,3}}{_AFTER}"
)

_plain = ByteLevel(add_prefix_space=False)
_GPT2_WORDS = Splitting(_plain)
_NEOX_WORDS = Splitting(_plain, composes=True)
_DIGIT_WORDS = Splitting(Sequence([Digits(individual_digits=True), _plain]))
_QWEN2_WORDS = Splitting(_split(_QWEN2), composes=True)
_LLAMA3_WORDS = Splitting(_split(_LLAMA3), keeps_words=True, begins=True)
_GPT4_WORDS = Splitting(_split(_LLAMA3))
_GPT4O_WORDS = Splitting(_split(_GPT4O))

# Values of `tokenizer.ggml.pre`, as `llama_vocab::impl::load` of llama.cpp groups them.
SPLITTINGS: dict[str, Splitting] = {
    "gpt-2": _GPT2_WORDS,
    "phi-2": _GPT2_WORDS,
    "mpt": _NEOX_WORDS,
    "olmo": _NEOX_WORDS,
    "smollm": _DIGIT_WORDS,
    "starcoder": _DIGIT_WORDS,
    "refact": _DIGIT_WORDS,
    "qwen2": _QWEN2_WORDS,
    "deepseek-r1-qwen": _QWEN2_WORDS,
    "kormo": _QWEN2_WORDS,
    "megrez": _QWEN2_WORDS,
    "stablelm2": _QWEN2_WORDS,
    "llama-bpe": _LLAMA3_WORDS,
    "llama3": _LLAMA3_WORDS,
    "llama-v3": _LLAMA3_WORDS,
    "falcon3": _LLAMA3_WORDS,
    "dbrx": _GPT4_WORDS,
    "smaug-bpe": _GPT4_WORDS,
    "gpt-4o": _GPT4O_WORDS,
    "llama4": _GPT4O_WORDS,
    "tekken": Splitting(_split(_TEKKEN), keeps_words=True, begins=True),
}
