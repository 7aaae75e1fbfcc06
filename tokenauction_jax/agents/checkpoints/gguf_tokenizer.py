"""Tokenizers from the metadata of GGUF files: byte-level BPE and SentencePiece."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from pydantic import Field
from tokenizers import AddedToken, decoders, normalizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing

from tokenauction_jax.agents.checkpoints.end_tokens import end_tokens
from tokenauction_jax.agents.checkpoints.pre_tokenizers import SPLITTINGS, Splitting
from tokenauction_jax.agents.checkpoints.reading import (
    CheckpointError,
    Settings,
    TokenId,
    parse,
)
from tokenauction_jax.agents.checkpoints.text import Tokenizer, refusing

# Values of `tokenizer.ggml.token_type`.
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5
# Names in chat templates, and in GGUF files.
_SPECIAL_TOKENS = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "pad_token": "padding",
}
# How SentencePiece writes a space, and longer than any piece of a text.
_SPACE, _LONGEST_PIECE = "▁", 256


class _Vocabulary(Settings):
    """What all tokenizers have in the metadata of a GGUF file."""

    architecture: str = ""
    tokens: list[str] = Field(min_length=1)
    token_type: list[int] = Field([])
    add_bos_token: bool | None = None
    add_eos_token: bool = False
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | None = None
    eot_token_id: TokenId | None = None
    eom_token_id: TokenId | None = None
    unknown_token_id: TokenId | None = None
    padding_token_id: TokenId | None = None

    @property
    def begins(self) -> bool:
        """Whether texts begin with a token of their own if the file does not say."""
        raise NotImplementedError

    @property
    def spelled(self) -> list[str]:
        """The tokens as the tokenizer spells them."""
        return self.tokens

    def model(self) -> tokenizers.Tokenizer:
        """The tokenizer, without added tokens."""
        raise NotImplementedError

    def token(self, key: str) -> str | None:
        """The spelling of a special token, None if there is none."""
        place = getattr(self, f"{key}_token_id")
        if place is None:
            return None
        if place >= len(self.tokens):
            raise CheckpointError(
                f"tokenizer.ggml: {key}_token_id is {place}, outside the vocabulary of "
                f"{len(self.tokens)}: get it again"
            )
        return self.spelled[place]

    @property
    def ids(self) -> dict[str, int]:
        """The tokens and their ids, without those that fill up the embedding."""
        types = dict(enumerate(self.token_type))
        return {
            token: id
            for id, token in enumerate(self.spelled)
            if types.get(id) != _UNUSED or not re.fullmatch(r"\[PAD\d+\]", token)
        }


class _BytePairs(_Vocabulary):
    """Byte-level BPE, as GPT-2 has it."""

    pre: str
    merges: list[str]

    @property
    def splitting(self) -> Splitting:
        if self.pre not in SPLITTINGS:
            raise CheckpointError(
                f"unknown pre-tokenizer {self.pre!r} (known: {', '.join(SPLITTINGS)}): "
                "use the checkpoint's Hugging Face directory instead"
            )
        return SPLITTINGS[self.pre]

    @property
    def begins(self) -> bool:
        return self.splitting.begins

    def model(self) -> tokenizers.Tokenizer:
        splitting, merges = self.splitting, [_pair(merge) for merge in self.merges]
        model = BPE(self.ids, merges, ignore_merges=splitting.keeps_words)
        backend = tokenizers.Tokenizer(model)
        if splitting.composes:
            backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = splitting.pre_tokenizer
        backend.decoder = decoders.ByteLevel()
        return backend


class _Pieces(_Vocabulary):
    """SentencePiece, which merges what makes the piece with the highest score."""

    scores: list[float]
    merges: list[str] | None = None
    add_space_prefix: bool = True

    @property
    def begins(self) -> bool:
        return True

    @property
    def is_gemma(self) -> bool:
        return self.architecture.startswith("gemma")

    @property
    def spelled(self) -> list[str]:
        if not self.is_gemma:
            return self.tokens
        # Its files spell runs of spaces as such.
        return [x if x.strip(" ") else _SPACE * len(x) for x in self.tokens]

    @property
    def ranked(self) -> list[tuple[str, str]]:
        """The merges of the file, or those that the scores imply."""
        if self.merges is not None:
            return [_pair(merge) for merge in self.merges]
        if len(self.scores) < len(self.tokens):
            raise CheckpointError(
                f"tokenizer.ggml: {len(self.scores)} scores for {len(self.tokens)} "
                "tokens: get it again"
            )
        # Gemma's merges are in the order of its pieces, its scores are not.
        scores = range(0, -len(self.tokens), -1) if self.is_gemma else self.scores
        return _merges(self.ids, scores)

    def model(self) -> tokenizers.Tokenizer:
        unknown = self.token("unknown")
        model = BPE(
            self.ids, self.ranked, unk_token=unknown, fuse_unk=True, byte_fallback=True
        )
        backend = tokenizers.Tokenizer(model)
        prefix = self.add_space_prefix and not self.is_gemma
        if self.architecture == "phi3" and prefix:
            # It puts a space before what follows each special token, too.
            steps = [normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)]
            backend.normalizer = normalizers.Sequence(steps)
        else:
            scheme = "first" if prefix else "never"
            backend.pre_tokenizer = Metaspace(_SPACE, scheme, split=False)
        steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback()]
        strip = [decoders.Strip(" ", 1, 0)] if prefix else []
        backend.decoder = decoders.Sequence([*steps, decoders.Fuse(), *strip])
        return backend


class _Template(Settings):
    chat_template: str | None = Field(None, alias="tokenizer.chat_template")


# By `tokenizer.ggml.model`.
_KINDS: dict[str, type[_BytePairs] | type[_Pieces]] = {
    "gpt2": _BytePairs,
    "llama": _Pieces,
}


def from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer described by the metadata of a GGUF file.

    Raises:
      CheckpointError: If it is neither byte-level BPE nor SentencePiece, its
        pre-tokenizer is unknown, or something is missing or makes no sense.
    """
    fields = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    fields["architecture"] = metadata.get("general.architecture", "")
    kind = fields.get("model", "gpt2")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise CheckpointError(
            f"unknown tokenizer model {kind!r} (known: gpt2, byte-level BPE; llama, "
            "SentencePiece): use the checkpoint's Hugging Face directory instead"
        )
    given = parse(_KINDS[kind], fields, "tokenizer.ggml")
    special = {name: given.token(key) for name, key in _SPECIAL_TOKENS.items()}
    special = {name: token for name, token in special.items() if token is not None}
    begins = given.begins if given.add_bos_token is None else given.add_bos_token
    for adds, name in ((begins, "bos"), (given.add_eos_token, "eos")):
        if adds and f"{name}_token" not in special:
            raise CheckpointError(
                f"tokenizer.ggml has no '{name}_token_id': get it again"
            )
    with refusing("tokenizer.ggml"):
        backend = given.model()
        _add_tokens(backend, given.spelled, given.token_type)
        backend.add_special_tokens([_whole(token) for token in special.values()])
        first = [special["bos_token"]] if begins else []
        last = [special["eos_token"]] if given.add_eos_token else []
        if first or last:
            _surround(backend, first, last)
    stated = (given.eos_token_id, given.eot_token_id, given.eom_token_id)
    stated = [end for end in stated if end is not None]
    return Tokenizer(
        backend,
        end_tokens=end_tokens(backend, stated, special.get("unk_token")),
        chat_template=parse(_Template, metadata, "GGUF metadata").chat_template,
        special_tokens=special,
    )


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _merges(ids: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """All pairs of tokens that make a token, those of the highest score first."""
    pairs = [
        (token[:place], token[place:])
        for token in ids
        if len(token) <= _LONGEST_PIECE
        for place in range(1, len(token))
        if token[:place] in ids and token[place:] in ids
    ]
    lengths = {pair: (scores[ids["".join(pair)]], *map(len, pair)) for pair in pairs}
    return sorted(pairs, key=lengths.__getitem__, reverse=True)


def _add_tokens(
    backend: tokenizers.Tokenizer, tokens: Sequence[str], types: Sequence[int]
) -> None:
    """Makes tokens that are no words match as a whole in every text."""
    for token, kind in zip(tokens, types, strict=False):
        if kind in (_UNKNOWN, _CONTROL):
            backend.add_special_tokens([_whole(token)])
        elif kind == _USER_DEFINED:
            backend.add_tokens([_whole(token)])


def _whole(token: str) -> AddedToken:
    return AddedToken(token, normalized=False)


def _surround(backend: tokenizers.Tokenizer, first: list[str], last: list[str]) -> None:
    """Puts tokens before and after every encoded text."""
    backend.post_processor = TemplateProcessing(
        single=[*first, "$A", *last],
        special_tokens=[(token, backend.token_to_id(token)) for token in first + last],
    )
