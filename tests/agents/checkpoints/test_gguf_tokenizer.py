"""Tokenizers from the metadata of GGUF files."""

import itertools
import json

import gguf
import numpy as np
import pytest
import tokenizers
from random_texts import TEXTS, random_texts
from tokenizers import pre_tokenizers

from tokenauction_jax.agents.checkpoints.gguf_file import read_gguf
from tokenauction_jax.agents.checkpoints.gguf_tokenizer import from_gguf
from tokenauction_jax.agents.checkpoints.pre_tokenizers import SPLITTINGS


def gguf_metadata(tiny_tokenizer, **changes):
    """The metadata with which a GGUF file describes the tiny tokenizer."""
    model = json.loads(tiny_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    fields = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "merges": [" ".join(pair) for pair in model["merges"]],
        "token_type": [3, 3, *[1] * (len(tokens) - 2)],
        "eos_token_id": 0,
        "bos_token_id": 1,
        **changes,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in fields.items()}


@pytest.mark.parametrize("sample", [*TEXTS, "<end> <bos>"])
def test_gguf_metadata_give_the_same_tokenizer(tiny_tokenizer, sample):
    ours = from_gguf(gguf_metadata(tiny_tokenizer))
    expected = tiny_tokenizer.encode(sample).ids
    assert ours.encode(sample) == expected
    assert ours.decode(expected) == tiny_tokenizer.decode(expected)


def test_a_first_token_is_added_to_texts_but_not_to_chats(tiny_tokenizer):
    metadata = gguf_metadata(tiny_tokenizer, add_bos_token=True)
    metadata["tokenizer.chat_template"] = "{{ bos_token }}{{ messages[0].content }}"
    tokenizer = from_gguf(metadata)
    plain = tokenizer.encode("hi", special_tokens=False)
    assert tokenizer.encode("hi") == [1, *plain]
    assert tokenizer.encode_prompt("hi") == [1, *plain]
    assert tokenizer.encode_prompt("hi", chat=False) == [1, *plain]


@pytest.mark.parametrize("name", ["qwen2", "llama-bpe", "gpt-2", "smollm"])
def test_pre_tokenizers_split_as_their_families_do(name):
    pieces = SPLITTINGS[name].pre_tokenizer.pre_tokenize_str("It'LL be 2024 now\n\n x")
    words = [piece.replace("Ġ", " ").replace("Ċ", "\n") for piece, _ in pieces]
    expected = {
        "qwen2": ["It", "'LL", " be", " ", *"2024", " now", "\n\n", " x"],
        "llama-bpe": ["It", "'LL", " be", " ", "202", "4", " now", "\n\n", " x"],
        "gpt-2": ["It", "'", "LL", " be", " 2024", " now", "\n\n", " x"],
        "smollm": ["It", "'", "LL", " be", " ", *"2024", " now", "\n\n", " x"],
    }
    assert words == expected[name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "bert"}, "tokenizer model 'bert'"),
        ({"pre": "viking"}, "pre-tokenizer 'viking'.*known: gpt-2, phi-2"),
    ],
)
def test_other_gguf_tokenizers_are_refused(tiny_tokenizer, changes, message):
    with pytest.raises(ValueError, match=f"{message}.*Hugging Face directory"):
        from_gguf(gguf_metadata(tiny_tokenizer, **changes))


@pytest.mark.parametrize("field", ["pre", "tokens", "merges"])
def test_gguf_metadata_without_a_field(tiny_tokenizer, field):
    metadata = gguf_metadata(tiny_tokenizer)
    del metadata[f"tokenizer.ggml.{field}"]
    with pytest.raises(ValueError, match=f"tokenizer.ggml has no '{field}'"):
        from_gguf(metadata)
    if field == "tokens":
        with pytest.raises(ValueError, match="tokens: list should have at least 1"):
            from_gguf(gguf_metadata(tiny_tokenizer, tokens=[]))


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.mark.parametrize("name", SPLITTINGS)
def test_pre_tokenizers_split_as_their_expressions_say(name):
    """Those of llama.cpp, which `transformers` has for what is not GPT-2's."""
    module = "transformers.integrations.gguf.gguf_tokenizer_mapping"
    known = pytest.importorskip(module).GGUF_PRE_TOKENIZER_SPLITS
    digits = [r"\p{N}"] * (name in ("smollm", "starcoder", "refact"))
    same = {"stablelm2": "qwen2"}.get(name, name)
    expressions = [*digits, known.get(same, GPT2)]
    steps = [
        pre_tokenizers.Split(tokenizers.Regex(expression), "isolated")
        for expression in expressions
    ]
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    theirs = pre_tokenizers.Sequence([*steps, spell])
    for text in [*TEXTS, *random_texts(1000)]:
        ours = SPLITTINGS[name].pre_tokenizer.pre_tokenize_str(text)
        assert ours == theirs.pre_tokenize_str(text), text


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("gpt-2", ["phi-2"]),
        ("qwen2", ["deepseek-r1-qwen", "kormo", "megrez", "stablelm2"]),
        ("llama-bpe", ["llama3", "llama-v3", "falcon3"]),
    ],
)
def test_families_share_pre_tokenizers(tiny_tokenizer, name, others):
    """With what comes with them, such as a first token and composed accents."""
    expected = from_gguf(gguf_metadata(tiny_tokenizer, pre=name))
    for other in others:
        ours = from_gguf(gguf_metadata(tiny_tokenizer, pre=other))
        for text in [*TEXTS, *random_texts(100, ("<end>",))]:
            assert ours.encode(text) == expected.encode(text)


WORDS = (
    *("▁t", "he", "▁the", "re", "▁there", "▁▁", "▁▁▁▁", "al", "▁al", "pha", "Al", "ph"),
    *("Alpha", "▁Alpha", "a▁", "wa", "ii", "waii", "Ha", "Hawaii", "▁Ha", "▁Hawaii"),
    *("20", "24", "2024", "漢字", "fi", "th", "ir", "Air", "lin", "line", "aw", "awa"),
)
CHARACTERS = sorted({*"".join(WORDS), *"abcdefghijklmnopqrstuvwxyz0123456789.,!'<>|é"})
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SENTENCE_PIECES = {
    "model": "llama",
    "tokens": [
        *("<unk>", "<s>", "</s>", *BYTES, *WORDS, *CHARACTERS, "<|x|>", "<user>")
    ],
    "token_type": [2, 3, 3, *[6] * 256, *[1] * (len(WORDS) + len(CHARACTERS)), 3, 4],
    "scores": [
        *[0.0] * 259,
        *np.arange(0.0, -len(WORDS) - len(CHARACTERS), -1).tolist(),
        *(0.0, 0.0),
    ],
    "unknown_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SPECIAL = ("<s>", "</s>", "<unk>", "<|x|>", "<user>")


def sentence_pieces(architecture="llama", **changes):
    fields = {f"tokenizer.ggml.{x}": y for x, y in (SENTENCE_PIECES | changes).items()}
    return {"general.architecture": architecture, **fields}


@pytest.mark.parametrize("architecture", ["llama", "phi3", "gemma2"])
def test_sentence_pieces_are_those_of_transformers(oracle, tmp_path, architecture):
    tokens = SENTENCE_PIECES["tokens"]
    if architecture == "gemma2":  # Files spell its runs of spaces as such.
        tokens = [x if x.strip("▁") else " " * len(x) for x in tokens]
        tokens[tokens.index(" ")] = "▁"
    metadata = sentence_pieces(architecture, tokens=tokens)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", architecture)
    for key, value in metadata.items():
        if key != "general.architecture":
            kind = gguf.GGUFValueType.get_type(value)
            kind = gguf.GGUFValueType.UINT32 if key.endswith("_id") else kind
            writer.add_key_value(key, value, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours = from_gguf(read_gguf(tmp_path / "model.gguf").metadata)
    theirs = oracle.AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    for text in [*TEXTS, *random_texts(1000, SPECIAL)]:
        expected = theirs.encode(text)
        assert ours.encode(text) == expected, text
        assert ours.decode(expected) == theirs.decode(expected, True), text


def merged(text, scores):
    """Pieces as llama.cpp finds them: the best pair is merged until there is none."""
    symbols = list(text)
    while True:
        pairs = ["".join(pair) for pair in itertools.pairwise(symbols)]
        found = [(scores[x], -place) for place, x in enumerate(pairs) if x in scores]
        if not found:
            break
        place = -max(found)[1]
        symbols[place : place + 2] = [pairs[place]]
    return [
        piece
        for symbol in symbols
        for piece in (
            [symbol] if symbol in scores else [BYTES[x] for x in symbol.encode()]
        )
    ]


@pytest.mark.parametrize("prefix", [True, False])
def test_sentence_pieces_are_those_of_the_definition(prefix):
    fields, rng = SENTENCE_PIECES, np.random.default_rng(0)
    scores = dict(zip(fields["tokens"], fields["scores"], strict=True))
    ids = {token: id for id, token in enumerate(fields["tokens"])}
    for name in {*scores} - {*WORDS, *CHARACTERS}:
        del scores[name]
    tokenizer = from_gguf(sentence_pieces(add_space_prefix=prefix))
    random = ["".join(rng.choice([*CHARACTERS, *WORDS, "▁"], 12)) for _ in range(300)]
    for text in [*random_texts(300), *(text.replace("▁", " ") for text in random)]:
        spelled = text.replace(" ", "▁")
        if prefix and text and spelled[0] != "▁":
            spelled = f"▁{spelled}"
        expected = [1, *(ids[piece] for piece in merged(spelled, scores))]
        assert tokenizer.encode(text) == expected, text


def test_tokens_around_a_text():
    plain = from_gguf(sentence_pieces()).encode("the", special_tokens=False)
    for changes, expected in (
        ({}, [1, *plain]),
        ({"add_bos_token": False}, plain),
        ({"add_eos_token": True}, [1, *plain, 2]),
        ({"add_bos_token": False, "add_eos_token": True}, [*plain, 2]),
    ):
        assert from_gguf(sentence_pieces(**changes)).encode("the") == expected
    assert from_gguf(sentence_pieces()).encode_prompt("the", chat=False) == [1, *plain]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [0.0]}, "1 scores for"),
        ({"scores": None}, "scores: "),
        ({"eos_token_id": None, "add_eos_token": True}, "no 'eos_token_id'"),
        ({"bos_token_id": None}, "no 'bos_token_id'"),
    ],
    ids=str,
)
def test_sentence_pieces_that_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        from_gguf(sentence_pieces(**changes))


def test_tokens_that_end_a_text_are_found_by_name(tiny_tokenizer):
    """In the order of a directory that states all three."""
    named = ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", "<|start|>"]
    metadata = gguf_metadata(tiny_tokenizer, eos_token_id=302)
    metadata["tokenizer.ggml.tokens"] += named
    metadata["tokenizer.ggml.token_type"] += [3] * len(named)
    assert from_gguf(metadata).end_tokens == (302, 300, 301)
    # Not a token of the model, but a word of its vocabulary.
    metadata["tokenizer.ggml.token_type"][300] = 1
    assert from_gguf(metadata).end_tokens == (302, 301)
    unknown = metadata | {"tokenizer.ggml.unknown_token_id": 301}
    assert from_gguf(unknown).end_tokens == (302,)


def test_what_fills_up_the_embedding_is_no_token(tiny_tokenizer):
    metadata = gguf_metadata(tiny_tokenizer)
    metadata["tokenizer.ggml.tokens"] += ["[PAD300]", "[PAD301]"]
    metadata["tokenizer.ggml.token_type"] += [5, 5]
    tokenizer = from_gguf(metadata)
    assert tokenizer.vocabulary == tiny_tokenizer.get_vocab()
    assert tokenizer.encode("[PAD300]") == tiny_tokenizer.encode("[PAD300]").ids
