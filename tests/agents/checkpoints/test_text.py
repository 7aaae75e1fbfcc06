"""Tokenizers and chat templates, against `transformers` and by their definitions."""

import json
import re

import numpy as np
import pytest
import tokenizers
from random_texts import TEXTS, random_texts
from tiny_checkpoint import write_checkpoint
from tokenizers import decoders, models, pre_tokenizers

from tokenauction_jax.agents import load_checkpoint
from tokenauction_jax.agents.checkpoints.reading import CheckpointError
from tokenauction_jax.agents.checkpoints.text import Tokenizer
from tokenauction_jax.agents.checkpoints.tokenizer_files import from_directory


@pytest.fixture(scope="module")
def smollm2_theirs(oracle, smollm2_file):
    load = oracle.AutoTokenizer.from_pretrained
    theirs = load(smollm2_file.parent, gguf_file=smollm2_file.name)
    # As the `tokenizer.json` of the model has it, which the library does not know.
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    return theirs


def test_ids_equal_those_of_transformers(smollm2, smollm2_theirs, long_prompt):
    for sample in [*TEXTS, long_prompt]:
        expected = smollm2_theirs.encode(sample)
        assert smollm2.tokenizer.encode(sample) == expected, sample
        theirs = smollm2_theirs.decode(expected, skip_special_tokens=True)
        assert smollm2.tokenizer.decode(expected) == theirs


def test_random_texts_have_the_ids_of_transformers(smollm2, smollm2_theirs):
    special = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>")
    for text in random_texts(1000, special):
        expected = smollm2_theirs.encode(text)
        assert smollm2.tokenizer.encode(text) == expected, text
        theirs = smollm2_theirs.decode(expected, skip_special_tokens=True)
        assert smollm2.tokenizer.decode(expected) == theirs


def test_chats_equal_those_of_transformers(smollm2, smollm2_theirs, long_prompt):
    conversations = [
        [{"role": "user", "content": long_prompt}],
        [
            {"role": "system", "content": "You are brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": " Hello. "},
            {"role": "user", "content": "Bye"},
        ],
    ]
    for messages in conversations:
        for opened in (True, False):
            expected = smollm2_theirs.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=opened
            )
            ours = smollm2.tokenizer.render_chat(messages, add_generation_prompt=opened)
            assert ours == expected
    ours = smollm2.tokenizer.encode_prompt(long_prompt)
    theirs = smollm2_theirs.apply_chat_template(
        conversations[0], add_generation_prompt=True, return_dict=False
    )
    assert ours == theirs


def test_smollm2_splits_every_number_character(smollm2):
    tokenizer = smollm2.tokenizer
    assert [tokenizer.decode([id]) for id in tokenizer.encode("x 2024")] == [
        *("x", " ", "2", "0", "2", "4")
    ]
    assert tokenizer.end_tokens == (2,)
    assert tokenizer.vocab_size == 49152


@pytest.mark.parametrize("sample", TEXTS)
def test_pieces_make_up_the_text(smollm2, sample):
    tokenizer = smollm2.tokenizer
    ids = tokenizer.encode(sample)
    pieces = tokenizer.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == tokenizer.decode(ids)


def test_a_character_over_several_tokens_belongs_to_the_last(smollm2):
    tokenizer = smollm2.tokenizer
    ids = tokenizer.encode("🏝!")
    *partial, last = tokenizer.pieces(ids)[:-1]
    assert len(ids) > 2
    assert set(partial) == {""}
    assert last == "🏝"
    cut = tokenizer.pieces(ids[:-2])
    assert "".join(cut) == tokenizer.decode(ids[:-2]) == cut[-1] != ""


def pieces_by_definition(tokenizer, tokens):
    """Decodes every prefix; what may be part of a character waits for the rest."""
    pieces, shown = [], ""
    for count in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:count])
        unfinished = text.endswith("\ufffd") and count < len(tokens)
        pieces.append("" if unfinished else text[len(shown) :])
        shown = shown if unfinished else text
    return pieces


@pytest.fixture(params=["house", "tiny", "one byte", "smollm2"])
def any_tokenizer(request, tiny_tokenizer, tmp_path):
    if request.param == "smollm2":
        return request.getfixturevalue("smollm2").tokenizer
    if request.param == "tiny":
        return Tokenizer(tiny_tokenizer, end_tokens=[0])
    if request.param == "house":
        return load_checkpoint("house").tokenizer
    return load_checkpoint(write_checkpoint(tmp_path / "model")).tokenizer


def test_pieces_of_random_tokens(any_tokenizer):
    """Among them special tokens, and bytes that do not make up characters."""
    bytes_only = [i for name, i in any_tokenizer.vocabulary.items() if len(name) == 1]
    rng = np.random.default_rng(0)
    for case in range(600):
        if case % 3 == 2:
            text = "".join(rng.choice(list("aé漢🌺👩\u200d\ufffd \n"), 6))
            tokens = any_tokenizer.encode(text)[: rng.integers(20)]
        else:
            ids = (np.arange(any_tokenizer.vocab_size), [*bytes_only, *[0, 1] * 20])
            tokens = rng.choice(ids[case % 3], rng.integers(12)).tolist()
        expected = pieces_by_definition(any_tokenizer, tokens)
        assert any_tokenizer.pieces(tokens) == expected, tokens


def byte_fallback():
    """A tokenizer as Llama 2 has it: words, and bytes for what they do not spell."""
    words = ["<end>", *(f"<0x{i:02X}>" for i in range(256)), "▁the", "a"]
    vocab = {word: i for i, word in enumerate(words)}
    backend = tokenizers.Tokenizer(models.BPE(vocab, [], byte_fallback=True))
    space, strip = decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)
    fuse = [decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([space, *fuse, strip])
    backend.add_special_tokens(["<end>"])
    return Tokenizer(backend, end_tokens=[0])


@pytest.mark.parametrize(
    ("content", "pieces"),
    [
        (["▁the", "▁the", "a"], ["the", " the", "a"]),
        ([*"🌺".encode(), "a"], ["", "", "", "🌺", "a"]),
        (["a", *"é".encode()[:1]], ["a", "\ufffd"]),
        (["a", "<end>", *b"Hi"], ["a", "", "H", "i"]),
        # The H is a replacement character as soon as what follows is not UTF-8.
        ([*b"H\x9e", "▁the"], ["", "\ufffd\ufffd", " the"]),
        (
            [*"🌺".encode()[:2], "a", *b"\xbaH"],
            ["", "", "\ufffd\ufffda", "", "\ufffd\ufffd"],
        ),
    ],
    ids=str,
)
def test_pieces_with_byte_fallback(content, pieces):
    tokenizer = byte_fallback()
    names = (f"<0x{x:02X}>" if isinstance(x, int) else x for x in content)
    tokens = [tokenizer.vocabulary[name] for name in names]
    found = tokenizer.pieces(tokens)
    assert "".join(found) == tokenizer.decode(tokens)
    assert found == pieces


def test_pieces_of_random_bytes_make_up_the_text():
    tokenizer, rng = byte_fallback(), np.random.default_rng(0)
    for _ in range(500):
        tokens = rng.choice([0, 70, 130, 160, 197, 241, 257, 258], rng.integers(9))
        assert "".join(tokenizer.pieces(tokens)) == tokenizer.decode(tokens)


def directory_tokenizer(tiny_tokenizer, config=None, template=None, ends=()):
    return from_directory(tiny_tokenizer.to_str(), config or {}, template, ends)


def beside(tokenizer, **files):
    """A directory's tokenizer with other files beside its `tokenizer.json`."""
    config = files.pop("tokenizer_config", {})
    return from_directory(tokenizer.to_str(), config, None, [], **files)


def described(content, **flags):
    default = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return default | {"content": content, "special": True} | flags


def test_tokens_are_described_in_several_files(tiny_tokenizer):
    """As by `added_tokens_decoder`, so by the older `added_tokens.json`."""
    plain = tiny_tokenizer.encode("hi").ids
    config = {"added_tokens_decoder": {"300": described("<|im_end|>")}}
    eos = {"eos_token": "<|im_end|>"}
    for files in (
        {"tokenizer_config": config | eos},
        {"tokenizer_config": config | {"eos_token": described("<|im_end|>")}},
        {"tokenizer_config": config, "special_tokens_map": eos},
        {"tokenizer_config": eos, "added_tokens": {"<|im_end|>": 300}},
        {"special_tokens_map": eos, "added_tokens": {"<|im_end|>": 300}},
    ):
        tokenizer = beside(tiny_tokenizer, **files)
        assert tokenizer.encode("hi<|im_end|>") == [*plain, 300]
        assert tokenizer.end_tokens == (300,)
        assert tokenizer.decode([*plain, 300]) == "hi"
    newer = {"tokenizer_config": config | {"eos_token": "<end>"}}
    assert beside(tiny_tokenizer, **newer, special_tokens_map=eos).end_token == 0


def test_described_tokens_are_those_of_transformers(oracle, tiny_tokenizer, tmp_path):
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {
            "301": described("<think>", special=False, rstrip=True),
            "300": described("<|im_end|>", lstrip=True),
            "302": described("Hawaii", special=False, single_word=True),
        },
        "eos_token": "<|im_end|>",
        "bos_token": "<bos>",
        "pad_token": "re",  # Of the vocabulary, and not an added token so far.
    }
    assert tiny_tokenizer.token_to_id("re") is not None
    tiny_tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = oracle.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ours = beside(tiny_tokenizer, tokenizer_config=config)
    special = ("<|im_end|>", " <|im_end|>", "<think>", "<think> ", "<bos>", "<end>")
    for text in [*TEXTS, *random_texts(1000, special)]:
        expected = theirs.encode(text)
        assert ours.encode(text) == expected, text
        assert ours.decode(expected) == theirs.decode(expected, True), text
    assert ours.vocabulary == theirs.get_vocab()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config": {"eos_token": "<|im_end|>"}}, "'<|im_end|>' is not in"),
        ({"special_tokens_map": {"eos_token": "<x>"}}, "end token '<x>' is not in"),
        ({"added_tokens": {"<x>": 305}}, "'<x>' should be 305, but is 300"),
        ({"added_tokens": {"<bos>": 300}}, "'<bos>' should be 300, but is 1"),
        ({"added_tokens": {"<x>": "300"}}, "added_tokens.json: added_tokens: "),
        (
            {"tokenizer_config": {"added_tokens_decoder": {"x": described("<x>")}}},
            "tokenizer_config.json: added_tokens_decoder: ",
        ),
    ],
    ids=str,
)
def test_descriptions_that_contradict_each_other(tiny_tokenizer, files, message):
    with pytest.raises(CheckpointError, match=re.escape(message)):
        beside(tiny_tokenizer, **files)


def test_end_tokens_come_from_both_configurations(tiny_tokenizer):
    end = {"eos_token": {"content": "<end>"}}
    tokenizer = directory_tokenizer(tiny_tokenizer, end, ends=[7, 0, 8])
    assert tokenizer.end_tokens == (0, 7, 8)
    assert tokenizer.end_token == 0
    assert directory_tokenizer(tiny_tokenizer).end_token is None


def test_settings_of_a_training_run_are_dropped(tiny_tokenizer):
    other = type(tiny_tokenizer).from_str(tiny_tokenizer.to_str())
    other.enable_padding(length=8)
    other.enable_truncation(2)
    ours = directory_tokenizer(other)
    assert ours.encode("a long text") == tiny_tokenizer.encode("a long text").ids


def test_templates_come_from_file_or_configuration(tiny_tokenizer):
    hello, bye = "hello {{ messages[0]['content'] }}", "bye"
    entries = [
        {"name": "tools", "template": bye},
        {"name": "default", "template": hello},
    ]
    for config, template in (
        ({"chat_template": bye}, hello),
        ({"chat_template": hello}, None),
        ({"chat_template": entries}, None),
    ):
        tokenizer = directory_tokenizer(tiny_tokenizer, config, template)
        assert tokenizer.render_chat("you") == "hello you"


def test_without_a_template_a_prompt_is_plain_text(tiny_tokenizer):
    tokenizer = directory_tokenizer(tiny_tokenizer)
    assert tokenizer.render_chat("hi") == "hi"
    assert tokenizer.encode_prompt("hi") == tokenizer.encode("hi")
    with pytest.raises(ValueError, match="one string instead"):
        tokenizer.render_chat([{"role": "user", "content": "hi"}])


def test_templates_have_what_transformers_gives_them(tiny_tokenizer):
    template = (
        "{{ bos_token }}{% for m in messages %}{% if loop.index > 1 %}{% break %}"
        "{% endif %}\n    {% if true %}\n{{ m | tojson }}{% endif %}{% endfor %}"
        "{{ strftime_now('%Y') | length }}"
    )
    config = {"bos_token": "<bos>"}
    tokenizer = directory_tokenizer(tiny_tokenizer, config, template)
    rendered = tokenizer.render_chat([{"role": "user", "content": "<é>"}] * 2)
    assert rendered == '<bos>{"role": "user", "content": "<é>"}4'


def test_tools_and_documents_are_none_and_so_is_no_value_of_a_message(tiny_tokenizer):
    """Templates ask `is not none`, which what is undefined is."""
    template = (
        "{{ tools is none }}{{ documents is none }}{{ other is none }}"
        "{{ 'content' in messages[0] }}"
    )
    tokenizer = directory_tokenizer(tiny_tokenizer, template=template)
    messages = [{"role": "assistant", "content": None}]
    assert tokenizer.render_chat(messages) == "TrueTrueFalseFalse"


NAMED = "{{ [bos_token, pad_token, unk_token, image_token, sep] | join('|') }}"


@pytest.mark.parametrize("complete", [False, True])
def test_special_tokens_are_those_of_transformers(tiny_tokenizer, tmp_path, complete):
    """A configuration that describes its tokens is newer than the map beside it."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "pad_token": None,
        "image_token": "<image>",
        "extra_special_tokens": {"sep": "<sep>"},
        "chat_template": NAMED,
    }
    if complete:
        config["added_tokens_decoder"] = {}
    tokens = {"bos_token": "<end>", "unk_token": {"content": "<unk>"}}
    tokenizer = from_directory(
        tiny_tokenizer.to_str(), config, None, [], special_tokens_map=tokens
    )
    rendered = tokenizer.render_chat("hi")
    due = "<bos>||<unk>|<image>|<sep>" if complete else "<end>||<unk>|<image>|<sep>"
    assert rendered == due
    if complete:  # Then `transformers` does not read the map at all.
        rendered = rendered.replace("<unk>", "")
    transformers = pytest.importorskip("transformers")
    (tmp_path / "tokenizer.json").write_text(tiny_tokenizer.to_str())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(tokens))
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "hi"}]
    assert rendered == theirs.apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('only assistants') }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ messages[0].clear() }}",
        "{% endif %}",
    ],
)
def test_templates_that_fail_or_escape_are_refused(tiny_tokenizer, template):
    tokenizer = directory_tokenizer(tiny_tokenizer, template=template)
    with pytest.raises(ValueError, match="chat=False"):
        tokenizer.render_chat("hi")


def test_special_tokens_in_prompts_need_no_template(tiny_tokenizer):
    tokenizer = Tokenizer(tiny_tokenizer, end_tokens=[0, 0])
    assert tokenizer.end_tokens == (0,)
    assert tokenizer.encode("<end>a")[0] == 0
    assert tokenizer.decode([0]) == ""


@pytest.mark.parametrize(
    "part",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    ],
    ids=str,
)
def test_panics_of_the_library_are_refusals(tiny_tokenizer, part):
    """Its Rust code ends in a `BaseException` that is no `Exception`."""
    content = json.dumps(json.loads(tiny_tokenizer.to_str()) | part)

    def use():
        return from_directory(content, {}, None, []).encode("two weeks")

    with pytest.raises(CheckpointError, match="tokenizer"):
        use()
