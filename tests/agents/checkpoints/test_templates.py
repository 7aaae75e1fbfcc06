"""Chat templates: equal to Jinja's where they are meant, bounded where they are not."""

import time

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tokenauction_jax.agents.checkpoints import templates
from tokenauction_jax.agents.checkpoints.reading import CheckpointError
from tokenauction_jax.agents.checkpoints.templates import render

resource = pytest.importorskip("resource")

MESSAGES = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "Aloha, naïve 🌺!\n\nTwo <weeks>?"},
    {"role": "assistant", "content": "<think>hm</think>\n\nYes.", "tool_calls": []},
    {"role": "user", "content": "Thanks"},
]
VARIABLES = {"messages": MESSAGES, "add_generation_prompt": True, "bos_token": "<s>"}

MEANT = [
    # What the templates of the common families do.
    "{{ bos_token }}{% for message in messages %}{% if loop.first %}{{ loop.length }}"
    "{% endif %}{{ '<|' + message['role'] + '|>' + message.content | trim }}"
    "{% if not loop.last %}\n{% endif %}{% endfor %}",
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% endif %}"
    "{% for m in rest %}{{ loop.index0 % 2 }}{{ m.role ~ m.content }}{% endfor %}",
    "{%- set ns = namespace(last=-1, tool=false) %}{%- for m in messages[::-1] %}"
    "{%- if m.role == 'user' and ns.last < 0 %}{%- set ns.last = loop.index0 %}"
    "{%- endif %}{%- endfor %}{{ ns.last }}{{ ns.tool }}",
    "{% macro show(text, tag='b') -%}<{{ tag }}>{{ text | upper }}</{{ tag }}>"
    "{%- endmacro %}{% for m in messages %}{{ show(m.role, tag=m.role) }}{% endfor %}",
    "{% for m in messages if m.role != 'system' %}{% if '</think>' in m.content %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}{% continue %}{% endif %}"
    "{{ m.content.strip() }}{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}",
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}"
    "{% for k, v in messages[1] | dictsort %}{{ k }}={{ v }};{% endfor %}"
    "{% for k, v in messages[1] | items %}{{ k }}{% else %}none{% endfor %}",
    "{{ messages | map(attribute='role') | list | join(', ') }}"
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
    "{{ messages | rejectattr('tool_calls', 'defined') | list | length }}",
    "{{ messages | length }}{{ messages[-1]['content'] is string }}{{ x is defined }}"
    "{{ messages is iterable and messages is not mapping }}{{ x | default('no') }}",
    "{% set t %}{{ bos_token }}{% for i in range(3) %}{{ i }}{% endfor %}{% endset %}"
    "{{ t | indent(2, first=true) | replace('1', '!') }}{{ t.startswith('<s>') }}",
    "{% macro tree(x) %}{% if x is mapping %}{{ '{' }}{% for k in x %}{{ k }}:"
    "{{ tree(x[k]) }}{% endfor %}{{ '}' }}{% else %}{{ x }}{% endif %}{% endmacro %}"
    "{{ tree({'a': {'b': 1}, 'c': [1, 2.5, none, true]}) }}",
    "{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}({{ loop(x) }})"
    "{% else %}{{ x }}{{ loop.depth }}{% endif %}{% endfor %}",
    "{% macro tag() %}{{ caller('a') }}{% endmacro %}"
    "{% call(user) tag() %}{{ user }}{% filter upper %}b{% endfilter %}{% endcall %}",
    "{{ 7 // 2 }}{{ 7 / 2 }}{{ 2 ** 10 }}{{ -7 % 3 }}{{ 3 * 'ab' }}{{ [1] + [2] }}"
    "{{ 'b' in ['a', 'b'] }}{{ 1 < 2 < 3 }}{{ 'x' if 1 > 2 else 'y' }}{{ (1, 2)[0] }}",
    "{{ 'a,b'.split(',') | map('capitalize') | join }}{{ ['b', 'A'] | sort | first }}"
    "{{ 'Title case' | title }}{{ '3' | int + 1 }}{{ [3, 1] | max }}{{ '<' | e }}",
    "{% autoescape true %}{{ messages[1].content }}{{ '<' | safe }}{% endautoescape %}",
]


@pytest.mark.parametrize("template", MEANT)
def test_meant_templates_are_rendered_as_by_jinja(template):
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    expected = environment.from_string(template).render(VARIABLES)
    assert expected
    assert render(template, **VARIABLES) == expected


def test_long_conversations_stay_within_the_bounds():
    turns = [{"role": "user", "content": "word " * 200}] * 500
    template = MEANT[0] + MEANT[2] + MEANT[4]
    assert len(render(template, **VARIABLES | {"messages": turns})) > 500_000
    long = [{"role": "user", "content": "漢字 text\n" * 100_000}]
    assert len(render(template, **VARIABLES | {"messages": long})) > 900_000


GROW = (
    "{% set ns = namespace(x=X) %}{% for i in range(999) %}{% set ns.x = Y %}"
    "{% endfor %}"
)


def grow(start, step, rest="{{ ns.x }}"):
    return GROW.replace("X", start).replace("Y", step) + rest


BIG = "{% set s = 'a' * 2000000 %}"
MANY = "{% for i in range(99999) %}"
COLLIDING = ",".join(f"{i * (2**61 - 1)}:1" for i in range(2700))
MULTIPLES = ",".join(f"{i * (2**61 - 1)}" for i in range(2700))
HOSTILE = {
    "large range": "{% for i in range(10**9) %}x{% endfor %}",
    "nested ranges": MANY + MANY + "x{% endfor %}{% endfor %}",
    "nested ranges, filtered": MANY + "{% for j in range(99999) if 0 %}{% endfor %}"
    "{% endfor %}",
    "nested lists": MANY + "{{ range(99999) | list | length }}{% endfor %}",
    "lipsum": "{{ lipsum(n=100000) }}",
    "cycler": "{{ cycler(1) }}",
    "joiner": "{{ joiner(1) }}",
    "text times": "{{ 'a' * 10 ** 10 }}",
    "list times": "{{ [0] * 10 ** 10 }}",
    "power": "{{ 10 ** 10 ** 9 * 1 }}{{ 10 ** 10 ** 9 // 1 }}{{ 3 ** 9999 }}",
    "squares": grow("3", "ns.x * ns.x"),
    "percent": "{{ '%9999999999d' % 1 }}",
    "format": "{{ '{:>9999999999}'.format(1) }}",
    "format_map": "{{ '{a:>9999999999}'.format_map({'a': 1}) }}",
    "center": "{{ 'a'.center(9999999999) }}",
    "ljust": "{{ 'a'.ljust(9999999999) }}",
    "zfill": "{{ 'a'.zfill(9999999999) }}",
    "expandtabs": "{{ '\t'.expandtabs(9999999999) }}",
    "to_bytes": "{{ (1).to_bytes(9999999999, 'big') }}",
    "fromkeys": "{{ {}.fromkeys(range(99999)) }}",
    "method by item": "{{ 'a'['center'](9999999999) }}",
    "method by filter": "{{ ['a'] | map(attribute='center') | list }}"
    "{{ ('a' | attr('center'))(9999999999) }}",
    "center filter": "{{ 'a' | center(9999999999) }}",
    "center by map": "{{ ['a'] | map('center', 9999999999) | list }}",
    "format filter": "{{ '%9999999999d' | format(1) }}",
    "indent filter": "{{ 'a' | indent(9999999999, true) }}",
    "indent by text": BIG + "{{ ('\n' * 2000000) | indent(s, true) }}",
    "wordwrap": BIG + "{{ s | wordwrap(1, wrapstring=s) }}",
    "round": "{{ 1.5 | round(9999999999, 'floor') }}",
    "sum": "{{ range(99999) | map('list') | sum(start=[]) }}",
    "json indent": "{{ [1] | tojson(indent=9999999999) }}",
    "doubled text": grow("'a'", "ns.x ~ ns.x"),
    "doubled sum": grow("'a'", "ns.x + ns.x"),
    "doubled list": grow("[1]", "ns.x + ns.x", "{{ ns.x | length }}"),
    "doubled block": "{% set ns = namespace(x='a') %}{% for i in range(99) %}"
    "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "doubled macro": "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}"
    + grow("'a'", "f(ns.x)"),
    "doubled replace": grow("'a'", "ns.x.replace('a', 'aa')"),
    "doubled join": grow("'ab'", "ns.x.join([ns.x, ns.x, ns.x])"),
    "shared lists": grow("[1]", "[ns.x, ns.x]"),
    "shared tuples": grow("(1,)", "(ns.x, ns.x)", "{{ {ns.x: 1} }}"),
    "shared dicts": grow("{}", "{'a': ns.x, 'b': ns.x}", "{{ ns.x | tojson }}"),
    "compared": BIG + MANY + "{% if s == s ~ '' %}{% endif %}{% endfor %}",
    "contained": BIG + MANY + "{% if 'ab' in s %}{% endif %}{% endfor %}",
    "sliced": BIG + MANY + "{{ s[1:][0] }}{% endfor %}",
    "replaced": BIG + "{{ s.replace('a', s) }}",
    "replaced nothing": BIG + "{{ s.replace('', s) }}",
    "replaced in a list": BIG + "{{ [s] | replace('a', s) }}",
    "stripped": BIG + MANY + "{{ s.strip('b' * 2000000 + 'a') }}{% endfor %}",
    "split": "{{ ('a ' * 30000000).split() | length }}",
    "split at": "{{ ('a ' * 30000000).split(' ') | length }}",
    "lines": "{{ ('a\n' * 30000000).splitlines() | length }}",
    "listed": "{{ ('ā' * 50000000) | list | length }}",
    "titled": "{{ ('a ' * 30000000) | title | length }}",
    "sorted": "{{ ('ba' * 30000000) | sort | length }}",
    "least": "{{ ('ba' * 30000000) | min }}",
    "selected": "{{ ('ba' * 30000000) | rejectattr('x') | list | length }}",
    "joined": BIG + "{{ range(99999) | join(s) }}",
    "joined text": BIG + "{{ s.join(range(9999) | map('string') | list) }}",
    "as text": "{{ ['\0' * 50000000] | string | length }}",
    "as JSON": "{{ ('🌺' * 20000000) | tojson(ensure_ascii=true) | length }}",
    "colliding keys": MANY + "{% set d = {" + COLLIDING + "} %}{% endfor %}",
    "endless macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "doubling macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}"
    "{% endif %}{% endmacro %}{{ f(90) }}",
    "nested blocks": MANY * 2 + "{{ self.a() }}{% endfor %}{% endfor %}"
    "{% block a %}{% endblock %}",
    "endless block": "{% block a %}{{ self.a() }}{% endblock %}",
    "recursive loop": "{% for x in [0, 1] recursive %}{{ loop([0, 1]) }}{% endfor %}",
    "wide recursive loop": "{% for x in [[0]] recursive %}{% if loop.depth < 9 %}"
    "{{ loop(range(999)) }}{% endif %}{% endfor %}",
    "long output": "{{ 'a' * 5000000 }}",
    "long template": "{{ x }}" * 20_000,
    "deep parentheses": "{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}",
    "deep lists": "{{ " + "[" * 9999 + "]" * 9999 + " }}",
    "long sum": "{{ 1" + "+1" * 9999 + " }}",
    "deep ifs": "{% if a %}" * 999 + "{% endif %}" * 999,
    "deep loops": "{% for a in b %}" * 50 + "{% endfor %}" * 50,
    "percent width": "{{ '%(a)9999999999d' % {'a': 1} }}",
    "percent odd name": "{{ '%((a)b)9999999999d' % {'(a)b': 1} }}",
    "percent precision": "{{ '%.9999999999f' % 1 }}",
    "percent argument": "{{ '%*d' % (9999999999, 1) }}",
    "percent repeated": BIG + "{{ ('%(a)s' * 9999) % {'a': s} }}",
    "percents": "{{ ('%%' * 20000000) % () }}",
    "format argument": "{{ '{:{}}'.format(1, 9999999999) }}",
    "format precision": "{{ '{:.9999999999f}'.format(1) }}",
    "format digits": "{{ '{:>\uff19\uff19\uff19\uff19\uff19\uff19\uff19}'.format(1) }}",
    "format repeated": BIG + "{{ ('{0}' * 9999).format(s) }}",
    "format braces": "{{ ('{{' * 30000000).format() }}",
    "format reprs": "{{ '{!r}'.format('\0' * 50000000) }}",
    "format classes": "{{ '{0.__class__.__mro__}'.format(1) }}",
    "format with %": "{{ '%s' * 9999 | format(*range(9999)) }}",
    "JSON text": "{{ [1] | tojson(indent='a' * 99999999) }}",
    "JSON in depth": grow("[0] * 99999", "[ns.x]", "{{ ns.x | tojson(indent=999) }}"),
    "JSON separators": BIG + "{{ range(9999) | list | tojson(separators=(s, s)) }}",
    "JSON of nothing": "{{ [] | tojson(indent=9999999999) }}",
    "JSON of bytes": "{{ ('\0' * 30000000) | tojson }}",
    "batches": "{{ [1] | batch(9999999999, 0) | list }}",
    "slices": "{{ [1] | slice(9999999999) | list }}",
    "colliding items": MANY + f"{{{{ [{MULTIPLES}] | unique | list }}}}{{% endfor %}}",
    "colliding pairs": MANY
    + f"{{{{ dict([{MULTIPLES}] | map('list') | list) }}}}{{% endfor %}}",
    "round to nothing": "{{ 1 | round(-9999999999) }}",
    "round text": "{{ 'a' | round(9, 'floor') }}",
    "wide date": "{{ strftime_now('%' ~ '9' * 9999999 ~ 'd') }}",
    "rjust": BIG + "{{ 'a'.rjust(9999999999, 'b') }}",
    "tabs": "{{ ('\t' * 60000000).expandtabs() }}",
    "found backwards": BIG + "{{ s.rfind('b' ~ 'a' * 100000) }}",
    "parted backwards": BIG + "{{ s.rpartition('b' ~ 'a' * 100000) }}",
    "words": "{{ ('a ' * 30000000) | wordcount }}",
    "in a URL": "{{ ('🌺' * 15000000) | urlencode }}",
    "groups": "{{ ('ba' * 30000000) | groupby('x') }}",
    "truncated": BIG + MANY + "{{ (s ~ i) | truncate(99999) }}{% endfor %}",
    "marked": MANY * 2 + "{% generation %}x{% endgeneration %}{% endfor %}{% endfor %}",
    "include": "{% include '/etc/passwd' %}",
    "extends": "{% extends '/etc/passwd' %}",
    "import": "{% import '/etc/passwd' as x %}",
    "classes": "{{ messages.__class__.__mro__ }}",
    "changed": "{{ messages.append(1) }}",
    "raised": "{{ raise_exception('a\nb\x1b[2J' * 9999) }}",
    "raised nothing": "{{ raise_exception('') }}",
    "divided": "{{ 1 / 0 }}",
    "unknown": "{{ x.y.z }}",
    "syntax": "{% for %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_end_soon(name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=r"chat template cannot.*chat=False") as e:
        render(HOSTILE[name], **VARIABLES)
    assert time.perf_counter() - start < 15
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 600 * 2**10
    assert len(str(e.value)) < 500
    assert "\n" not in str(e.value)


def test_nothing_beyond_messages_is_in_reach():
    for name in ("lipsum", "cycler", "joiner", "environment", "open"):
        assert render(f"{{{{ {name} is defined }}}}") == "False"
    ours = "{% for x in ['dict', 'namespace', 'range'] %}{{ x }}{% endfor %}"
    assert render(ours) == "dictnamespacerange"
    with pytest.raises(CheckpointError, match="No filter named 'center'"):
        render("{{ 'a' | center }}")


# What `transformers` gives to templates, and we do not: no chat template needs it.
LEFT_OUT = {
    "filters": {
        *("center", "pprint", "wordwrap"),  # Layout of plain text.
        *("striptags", "urlize", "xmlattr"),  # HTML.
        "random",  # A prompt is the same each time.
    },
    "tests": set(),
    "globals": {"cycler", "joiner", "lipsum"},
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_nothing_else_is_left_out(kind):
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    theirs = getattr(utils._compile_jinja_template("").environment, kind)
    ours = getattr(templates._Environment(), kind)
    assert theirs.keys() - ours.keys() == LEFT_OUT[kind]


@pytest.mark.parametrize("value", ["a", ["a"], ("a",), {"a": 1}, 1, 0.5])
def test_methods_that_change_nothing_may_be_called(value):
    left_out = {
        *("encode", "maketrans", "translate", "fromkeys"),
        *("conjugate", "fromhex", "from_bytes", "hex", "to_bytes"),
    }
    theirs, ours = ImmutableSandboxedEnvironment(), templates._Environment()
    names = (name for name in dir(value) if callable(getattr(value, name)))
    for name in names:
        refused = isinstance(theirs.getattr(value, name), jinja2.Undefined)
        refused |= name in left_out
        assert isinstance(ours.getattr(value, name), jinja2.Undefined) == refused


def test_a_template_that_failed_may_succeed_later():
    """Each rendering has a budget of its own."""
    template = "{% for m in messages %}{{ m * 1000000 }}{% endfor %}{{ 'ok' }}"
    for _ in range(3):
        with pytest.raises(CheckpointError, match="too many steps or too much memory"):
            render(template, messages=["a" * 999] * 9)
        assert render(template, messages=["a"]).endswith("ok")
    assert jinja2.Template("{{ 'a' | center(3) }}").render() == " a "
