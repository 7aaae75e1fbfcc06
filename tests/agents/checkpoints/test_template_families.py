"""The constructs of public chat templates, rendered as `transformers` renders them."""

import itertools

import pytest
from chat_templates import FAMILIES

from tokenauction_jax.agents.checkpoints.reading import CheckpointError
from tokenauction_jax.agents.checkpoints.text import Tokenizer

SPECIAL = {
    "bos_token": "<bos>",
    "eos_token": "<end>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
}
CALL = {"name": "find", "arguments": {"place": "Māui", "weeks": 2}}
CONVERSATIONS = {
    "user": [("user", "Aloha!")],
    "system": [("system", " Be brief. "), ("user", "Two weeks?")],
    "turns": [("user", "Hi"), ("assistant", " Hello. "), ("user", "Bye")],
    "system and turns": [
        *(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello.")),
        ("user", "Bye"),
    ],
    "empty": [("system", ""), ("user", "")],
    "letters": [
        ("user", "naïve 🌺 “quotes” 'it' \"is\"\n\n\t<weeks> & {{ x }} \\n\r\n"),
    ],
    "assistant last": [("user", "Hi"), ("assistant", "<think>\nhm\n</think>\n\nYes")],
    "thoughts": [
        *(("user", "Hi"), ("assistant", "<think>a</think>b"), ("user", "Go on")),
        ("assistant", "No tags"),
    ],
    "tool": [
        *(("user", "Where?"), ("assistant", None), ("tool", '{"found": 3}')),
        *(("tool", "more"), ("assistant", "There."), ("user", "Thanks")),
    ],
    "parts": [("user", [{"type": "text", "text": " a "}, {"type": "image"}])],
}


def conversation(name):
    messages = [{"role": role, "content": text} for role, text in CONVERSATIONS[name]]
    for message in messages:
        if message["content"] is None:
            call = {"id": "call00001", "type": "function", "function": CALL}
            message["tool_calls"] = [call]
    return messages


# What no family above needs, but others do.
OTHERS = (
    """{%- macro document(doc, level=1, mark="#") %}
{{ mark * level }} {{ doc['title'] | title }}: {{ caller(doc) if caller else "" }}
{% endmacro %}
{%- macro listed(items, between=", ") -%}
{%- for x in items -%}{{ x }}{{ between if not loop.last }}{%- endfor -%}
{%- endmacro %}
{%- set text -%}
Roles: {{ listed(messages | map(attribute="role") | unique, between=" / ") }}
{%- endset -%}
{{ text }}{{ "%s has %d of %5.1f%%" % ("It", messages | length, 12.34) }}
{% call(doc) document({"title": "a guide"}, level=2) %}{{ doc | length }}{% endcall %}
{{ "{} {n:>3} {0!r}".format("x", n=1) if false else "{0} {n:>3}".format("x", n=1) }}
{%- for m in messages %}
  {%- if m.content is not string or not m.content %}{% continue %}{% endif %}
  {%- if loop.previtem is defined and loop.previtem.role == m.role %}same{% endif %}
  {%- if loop.nextitem is not defined %}end{% endif %}
  {%- set parts = m.content.partition("\n") %}
  {{- loop.cycle("a", "b") }}{{ parts[0].rjust(12, ".") }}{{ parts[2].casefold() }}
  {{- m | dictsort | map("first") | batch(2, "-") | list | tojson(sort_keys=true) }}
  {{- dict(m, n=loop.index).n }}{{ [1, 2, 4] | sum }}{{ 2.5 | round(0, "floor") }}
  {{- m.content | wordcount }}{{ m.content | truncate(9, true) }}
{% endfor %}
{% for group in messages | groupby("role") %}{{ group.grouper }}{% endfor %}
{{ {"é": [1, {"b": none, "a": true}], "z": "\u2028"} | tojson(ensure_ascii=true, """
    """indent=2, separators=(",", ": "), sort_keys=true) }}"""
)
KEYWORDS = [
    {},
    {"enable_thinking": False, "date_string": "1 May", "thinking": True}
    | {"controls": {"length": "short"}, "builtin_tools": ["code", "search"]}
    | {"custom_tools": [CALL], "xml_tools": [CALL], "bos_token": "<other>"},
]


@pytest.fixture(scope="module")
def theirs(tiny_tokenizer):
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer, **SPECIAL
    )


@pytest.mark.parametrize("family", [*FAMILIES, "others"])
def test_families_are_rendered_as_by_transformers(family, theirs, tiny_tokenizer):
    template = FAMILIES.get(family, OTHERS)
    ours = Tokenizer(tiny_tokenizer, chat_template=template, special_tokens=SPECIAL)
    answered = set()
    cases = itertools.product(CONVERSATIONS, KEYWORDS, (True, False))
    for name, keywords, opened in cases:
        messages, options = conversation(name), {"add_generation_prompt": opened}
        try:
            expected = theirs.apply_chat_template(
                messages,
                chat_template=template,
                tokenize=False,
                **options,
                **keywords,
            )
        except Exception:  # A template may refuse a conversation.
            with pytest.raises(CheckpointError):
                ours.render_chat(messages, chat_template_kwargs=keywords, **options)
            continue
        options["chat_template_kwargs"] = keywords
        assert ours.render_chat(messages, **options) == expected
        answered.add(name)
    assert len(answered) >= 6


EXPECTED = {
    "Llama 2": "<bos>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n Hi [/INST]",
    "Llama 3": "<bos><|start|>system<|stop|>\n\nBe brief.<|eot|><|start|>user<|stop|>"
    "\n\nHi<|eot|><|start|>assistant<|stop|>\n\n",
    "Qwen 3": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi "
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "Mistral": "<bos>[INST] Be brief.\n\n Hi [/INST]",
    "OLMo 2": "<bos><|system|>\nBe brief.\n<|user|>\n Hi \n<|assistant|>\n",
}


@pytest.mark.parametrize("family", EXPECTED)
def test_a_system_prompt_and_variables_reach_the_template(family, tiny_tokenizer):
    template = FAMILIES[family]
    tokenizer = Tokenizer(
        tiny_tokenizer, chat_template=template, special_tokens=SPECIAL
    )
    options = {"chat_template_kwargs": {"enable_thinking": False}}
    options["system"] = "Be brief."
    assert tokenizer.render_chat(" Hi ", **options) == EXPECTED[family]
    expected = tiny_tokenizer.encode(EXPECTED[family], add_special_tokens=False).ids
    assert tokenizer.encode_prompt(" Hi ", **options) == expected
    messages = [{"role": "system", "content": "Be brief."}]
    messages += [{"role": "user", "content": " Hi "}]
    del options["system"]
    assert tokenizer.render_chat(messages, **options) == EXPECTED[family]


@pytest.mark.parametrize(
    ("opening", "expected"),
    [("{% generation %}", "[  a1]x"), ("{%- generation -%}", "[a1]x")],
)
def test_what_the_assistant_wrote_may_be_marked(opening, expected, tiny_tokenizer):
    template = (
        "{% set o = 'x' %}{% for m in messages %}[ OPEN\n {{ m.content }}"
        "{{ loop.index }}{% set o = 'y' %}\n{%- endgeneration %}\n]{% endfor %}{{ o }}"
    ).replace("OPEN", opening)
    ours = Tokenizer(tiny_tokenizer, chat_template=template)
    assert ours.render_chat("a") == expected


def test_a_template_that_refuses_system_prompts_is_quoted(tiny_tokenizer):
    ours = Tokenizer(tiny_tokenizer, chat_template=FAMILIES["Gemma 2"])
    with pytest.raises(
        CheckpointError, match=r"\(System role not supported\).*leave out the system"
    ):
        ours.encode_prompt("Hi", system="Be brief.")


def test_variables_of_a_template_have_names_of_their_own(tiny_tokenizer):
    tokenizer = Tokenizer(tiny_tokenizer, chat_template="{{ bos_token }}{{ x }}")
    options = {"chat_template_kwargs": {"x": 1, "bos_token": "<b>"}}
    assert tokenizer.render_chat("hi", **options) == "<b>1"
    for name in ("messages", "add_generation_prompt", "tools", "documents"):
        with pytest.raises(ValueError, match=f"chat_template_kwargs has '{name}'.*out"):
            tokenizer.render_chat("hi", chat_template_kwargs={name: None})


@pytest.mark.parametrize(
    "options", [{"system": "x"}, {"chat_template_kwargs": {"x": 1}}], ids=str
)
def test_what_only_a_template_can_use_is_refused_without_one(tiny_tokenizer, options):
    plain = Tokenizer(tiny_tokenizer)
    with pytest.raises(ValueError, match=r"has no chat template.*leave them out"):
        plain.encode_prompt("hi", **options)
    chatty = Tokenizer(tiny_tokenizer, chat_template="x")
    with pytest.raises(ValueError, match=r"chat is False.*leave them out"):
        chatty.encode_prompt("hi", chat=False, **options)
