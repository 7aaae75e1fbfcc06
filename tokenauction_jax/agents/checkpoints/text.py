"""From text to tokens and back, and prompts in a checkpoint's own chat format."""

from __future__ import annotations

import datetime
import functools
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

from tokenauction_jax import files

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
# Values of `tokenizer.ggml.token_type`.
_CONTROL, _USER_DEFINED = 3, 4
# Names in chat templates, and in GGUF files.
_SPECIAL_TOKENS = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "pad_token": "padding",
}


class Tokenizer:
    """A checkpoint's tokenizer, its chat template, and the tokens that end a text.

    Args:
      backend: The tokenizer of the `tokenizers` library.
      end_tokens: The ids that end a text, the usual one first.
      chat_template: Jinja source, or None for a model without a chat format.
      special_tokens: Special tokens for the template, by names such as `"bos_token"`.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        end_tokens: Sequence[int] = (),
        chat_template: str | None = None,
        special_tokens: Mapping[str, str] | None = None,
    ):
        self._backend = backend
        self._special_tokens = dict(special_tokens or {})
        self.end_tokens = tuple(dict.fromkeys(end_tokens))
        self.chat_template = chat_template

    @property
    def end_token(self) -> int | None:
        """The token that usually ends a text, None if there is none."""
        return self.end_tokens[0] if self.end_tokens else None

    @functools.cached_property
    def vocabulary(self) -> dict[str, int]:
        """All tokens, as the checkpoint spells them, and their ids."""
        return self._backend.get_vocab(with_added_tokens=True)

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        return max(self.vocabulary.values()) + 1

    def save(self, folder: pathlib.Path) -> None:
        """Writes the files of a Hugging Face directory, read by `from_directory`."""
        backend = self._backend.to_str(pretty=True)
        files.write(folder / "tokenizer.json", backend)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **self._special_tokens}
        if end := self._backend.id_to_token(self.end_token or 0):
            config |= {"eos_token": end} if self.end_tokens else {}
        files.write_json(folder / "tokenizer_config.json", config)
        if self.chat_template is not None:
            files.write(folder / "chat_template.jinja", self.chat_template)

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """The token ids of a text.

        Args:
          text: Any text; special tokens that are spelled out in it are recognised.
          special_tokens: Whether to add those that the model expects around a text,
            such as a first token. Chat templates write them themselves.
        """
        return self._backend.encode(text, add_special_tokens=special_tokens).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return self._backend.decode([int(token) for token in tokens])

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text that each token adds; together they are `decode(tokens)`.

        A character spread over several tokens belongs to the last of them.
        """
        text = self.decode(tokens)
        stream = decoders.DecodeStream(skip_special_tokens=True)
        try:
            pieces = [stream.step(self._backend, int(token)) or "" for token in tokens]
        except Exception:  # The tokenizers library raises plain `Exception`.
            return self._pieces_by_prefix(tokens, text)
        shown = "".join(pieces)
        if not text.startswith(shown):
            return self._pieces_by_prefix(tokens, text)
        if pieces:
            pieces[-1] += text[len(shown) :]  # Bytes that complete no character.
        return pieces

    def _pieces_by_prefix(self, tokens: Sequence[int], text: str) -> list[str]:
        """`pieces` in quadratic time, where a token changes the text before it.

        Decoders with byte fallback do so: bytes that turn out not to be UTF-8 make
        the valid ones before them replacement characters, too.
        """
        ends = [0]
        for count in range(1, len(tokens)):
            ends.append(max(ends[-1], _agreement(text, self.decode(tokens[:count]))))
        return [text[a:b] for a, b in itertools.pairwise([*ends, len(text)])]

    def render_chat(
        self,
        messages: str | Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool = True,
    ) -> str:
        """A conversation as the text that the model was trained to continue.

        Some templates insert the date, so their prompts change from day to day.

        Args:
          messages: One message of the user, or a list of `{"role": ..., "content":
            ...}`; without a chat template only a single message, which is returned
            unchanged.
          add_generation_prompt: Whether to begin the answer of the assistant.

        Raises:
          ValueError: If the template refuses the messages, or there is none for a list.
        """
        if isinstance(messages, str):
            if self.chat_template is None:
                return messages
            messages = [{"role": "user", "content": messages}]
        if self.chat_template is None:
            raise ValueError("messages need a chat template: give one string instead")
        try:
            return _compiled(self.chat_template).render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            raise ValueError(
                f"the chat template cannot render these messages ({error}): "
                "use chat=False to give the prompt as plain text"
            ) from None

    def encode_prompt(self, prompt: str, *, chat: bool = True) -> list[int]:
        """The token ids of one message of the user, or of a plain text.

        Args:
          prompt: The message or text.
          chat: Whether to render it by the chat template, if there is one.
        """
        if not chat or self.chat_template is None:
            return self.encode(prompt)
        return self.encode(self.render_chat(prompt), special_tokens=False)


def _agreement(one: str, other: str) -> int:
    """How many characters two texts have in common from their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    differ = (place for place, (x, y) in pairs if x != y)
    return next(differ, min(len(one), len(other)))


@functools.lru_cache(maxsize=8)
def _compiled(chat_template: str) -> jinja2.Template:
    """Jinja as chat templates expect it; sandboxed, since they come from downloads."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(chat_template)


def _to_json(
    value: object, ensure_ascii: bool = False, indent: int | None = None
) -> str:
    # Jinja's own filter escapes HTML characters.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


def _byte_level(regex: str | None = None) -> pre_tokenizers.PreTokenizer:
    """Splits text by a regular expression, None for GPT-2's, and spells its bytes."""
    if regex is None:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    split = pre_tokenizers.Split(Regex(regex), behavior="isolated")
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, spell])


def _pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    digits = pre_tokenizers.Digits(individual_digits=True)
    known = {
        "gpt-2": _byte_level(),
        "smollm": pre_tokenizers.Sequence([digits, _byte_level()]),
        "qwen2": _byte_level(_QWEN2_SPLIT),
        "llama-bpe": _byte_level(_LLAMA3_SPLIT),
    }
    if name not in known:
        raise ValueError(
            f"unknown pre-tokenizer {name!r} (known: {', '.join(known)}): "
            "use the checkpoint's Hugging Face directory instead"
        )
    return known[name]


def from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer described by the metadata of a GGUF file.

    Raises:
      ValueError: If it is not byte-level BPE, or its pre-tokenizer is unknown.
      KeyError: If the metadata lacks the vocabulary or the merges.
    """
    fields = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    if fields["model"] != "gpt2":
        raise ValueError(
            f"unknown tokenizer model {fields['model']!r} (known: gpt2, byte-level "
            "BPE): use the checkpoint's Hugging Face directory instead"
        )
    tokens = fields["tokens"]
    backend = _byte_pair_encoding(fields["pre"], tokens, fields["merges"])
    _add_tokens(backend, tokens, fields.get("token_type", []))
    special_tokens = {
        name: tokens[fields[f"{key}_token_id"]]
        for name, key in _SPECIAL_TOKENS.items()
        if f"{key}_token_id" in fields
    }
    if fields.get("add_bos_token", fields["pre"] == "llama-bpe"):
        _begin_with(backend, special_tokens["bos_token"])
    ends = (fields.get(f"{key}_token_id") for key in ("eos", "eot", "eom"))
    return Tokenizer(
        backend,
        end_tokens=[end for end in ends if end is not None],
        chat_template=metadata.get("tokenizer.chat_template"),
        special_tokens=special_tokens,
    )


def _byte_pair_encoding(
    pre: str, tokens: list[str], merges: list[str]
) -> tokenizers.Tokenizer:
    vocab = {token: id for id, token in enumerate(tokens)}
    pairs = [(left, right) for left, _, right in (m.partition(" ") for m in merges)]
    # Llama 3 keeps words of its vocabulary whole even if the merges do not.
    model = BPE(vocab=vocab, merges=pairs, ignore_merges=pre == "llama-bpe")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = _pre_tokenizer(pre)
    backend.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    return backend


def _add_tokens(
    backend: tokenizers.Tokenizer, tokens: list[str], types: list[int]
) -> None:
    """Makes control and user-defined tokens match as a whole in every text."""
    for token, kind in zip(tokens, types, strict=False):
        if kind == _CONTROL:
            backend.add_special_tokens([AddedToken(token, normalized=False)])
        elif kind == _USER_DEFINED:
            backend.add_tokens([AddedToken(token, normalized=False)])


def _begin_with(backend: tokenizers.Tokenizer, token: str) -> None:
    """Makes every encoded text begin with `token`."""
    backend.post_processor = TemplateProcessing(
        single=f"{token} $A",
        special_tokens=[(token, backend.token_to_id(token))],
    )


def from_directory(
    tokenizer_json: str,
    tokenizer_config: Mapping[str, Any],
    chat_template: str | None,
    end_tokens: Sequence[int],
) -> Tokenizer:
    """The tokenizer of a Hugging Face directory.

    Args:
      tokenizer_json: The contents of `tokenizer.json`.
      tokenizer_config: The contents of `tokenizer_config.json`.
      chat_template: The contents of `chat_template.jinja`, None without one.
      end_tokens: The ids that end a text according to the model's configuration.
    """
    backend = tokenizers.Tokenizer.from_str(tokenizer_json)
    backend.no_padding()  # Files may keep the settings of a training run.
    backend.no_truncation()
    special_tokens = {
        key: value["content"] if isinstance(value, Mapping) else value
        for key, value in tokenizer_config.items()
        if key.endswith("_token") and isinstance(value, str | Mapping)
    }
    template = chat_template or tokenizer_config.get("chat_template")
    if isinstance(template, list):  # Several, by name.
        by_name = {entry["name"]: entry["template"] for entry in template}
        template = by_name.get("default")
    end = backend.token_to_id(special_tokens.get("eos_token", ""))
    return Tokenizer(
        backend,
        end_tokens=[*end_tokens] if end is None else [end, *end_tokens],
        chat_template=template,
        special_tokens=special_tokens,
    )
