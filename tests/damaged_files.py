"""Damage to files, drawn at random: what arrives from downloads and from attackers."""

import copy
import json
import struct

VALUES = [
    *(None, True, False, 0, 1, -1, 3, 2**31, 10**9, 10**18, 2**64, 0.5, -2.5, 1e308),
    *(
        1e-300,
        float("nan"),
        float("inf"),
        "",
        "no",
        "7",
        "\x1b[2J\n",
        "../x",
        "a" * 9999,
    ),
    *([], {}, [[]], {"a": 1}, [0] * 999, [None], ["x"], {"content": 5}, [2**31]),
]
WORDS = [0, 1, 3, 7, 255, 2**16, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1]
TYPES = ["I32", "U32", "F8_E4M3", "C64", "BOOL", "F16", "BF16"]
SNIPPETS = [
    "{{ lipsum(n=100000) }}",
    "{{ 'a' * 10 ** 10 }}",
    "{{ '%9999999999d' % 1 }}",
    "{{ 'a' | center(9999999999) }}",
    "{{ 'a'.ljust(9999999999) }}",
    "{{ '{:>9999999999}'.format(1) }}",
    "{{ 10 ** 10 ** 10 }}",
    "{{ messages | tojson(indent=9999999999) }}",
    "{{ range(99999) | join('a' * 99999) }}",
    "{{ messages.__class__ }}",
    "{{ messages[9].content }}",
    "{{ raise_exception('\n\x1b[2J' * 999) }}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% set ns = namespace(x='a') %}{% for i in range(99) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[]) %}{% for i in range(99) %}"
    "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    *("{%", "%}", "{{", "}}", "{% endfor %}", "(" * 999, "{% if x %}", "\ud800"),
]

PATTERNS = [{"Regex": "(a+)+$"}, {"Regex": ""}, {"Regex": "["}, {"String": ""}]
BEHAVIOURS = ["Removed", "Isolated", "MergedWithNext", "Contiguous"]
PARTS = {
    "model": [
        {"type": "BPE", "vocab": {}, "merges": []},
        {"type": "BPE", "vocab": {"a": 2**32 - 1}, "merges": []},
        {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]},
        {"type": "BPE", "vocab": {"a": 0}, "merges": [], "unk_token": "x"},
        {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "x"},
        {"type": "Unigram", "vocab": [], "unk_id": 5},
        {"type": "Unigram", "vocab": [["a", 0.0], ["a", 1.0]], "unk_id": 0},
        {
            "type": "WordPiece",
            "vocab": {"a": 0},
            "unk_token": "a",
            "continuing_subword_prefix": "",
            "max_input_chars_per_word": 2**63,
        },
    ],
    "normalizer": [
        {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
        {"type": "Prepend", "prepend": "a" * 9999},
        *({"type": "Replace", "pattern": x, "content": "a" * 99} for x in PATTERNS),
    ],
    "pre_tokenizer": [
        {"type": "FixedLength", "length": 0},
        *(
            {"type": "Split", "pattern": x, "behavior": y, "invert": False}
            for x in PATTERNS
            for y in BEHAVIOURS
        ),
    ],
    "post_processor": [
        {"type": "BertProcessing", "sep": ["", 2**31], "cls": ["", 0]},
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "a", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        },
    ],
    "decoder": [
        {"type": "ByteFallback"},
        {"type": "Strip", "content": " ", "start": 99, "stop": 2**63},
        {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""},
    ],
    "added_tokens": [
        [{"id": 2**31, "content": "", "special": True}],
        [{"id": 0, "content": "a", "special": False}] * 2,
    ],
}


def mutated_json(rng, data):
    """JSON with a few values replaced, lost or nested, or damaged as bytes."""
    if rng.random() < 0.2:
        return mutated_bytes(rng, data)
    document = json.loads(data)
    for _ in range(rng.integers(1, 4)):
        document = _changed(rng, document)
    text = json.dumps(document)
    if rng.random() < 0.05:
        text = text.replace(":", ":" + "[" * 99_999, 1)
    return text.encode("utf-8", "surrogatepass")


def _changed(rng, document):
    """Walks down to a random place and changes what is there."""
    inside = isinstance(document, dict | list) and document and rng.random() < 0.95
    if not inside:
        return copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    keys = list(document) if isinstance(document, dict) else range(len(document))
    key = keys[rng.integers(len(keys))]
    if rng.random() < 0.1:
        del document[key]
    else:
        document[key] = _changed(rng, document[key])
    return document


def mutated_tokenizer(rng, data):
    """A `tokenizer.json` with other parts, of which some make its Rust code panic."""
    if rng.random() < 0.5:
        return mutated_json(rng, data)
    document = json.loads(data)
    for name in rng.choice(list(PARTS), rng.integers(1, 4)):
        document[name] = PARTS[name][rng.integers(len(PARTS[name]))]
    return json.dumps(document).encode()


def mutated_bytes(rng, data, header=None):
    """Bytes flipped, overwritten by a length or cut, mostly in the first `header`."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        if not data:
            break
        kind, span = rng.integers(5), len(data)
        if header and rng.random() < 0.8:
            span = min(header, span)
        place = int(rng.integers(span))
        if kind == 0:
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[place] = int(rng.integers(256))
        elif kind == 2:
            word = struct.pack("<Q", WORDS[rng.integers(len(WORDS))])
            data[place : place + 8] = word
        elif kind == 3:
            word = struct.pack("<I", WORDS[rng.integers(len(WORDS))] % 2**32)
            data[place : place + 4] = word
        elif rng.random() < 0.3:
            del data[place:]
        else:
            del data[place : place + int(rng.integers(1, 9))]
    return bytes(data)


def mutated_safetensors(rng, data):
    """Tensors whose header, which is JSON, or whose bytes are damaged."""
    (size,) = struct.unpack_from("<Q", data)
    if rng.random() < 0.3:
        return mutated_bytes(rng, data, size)
    header = data[8 : 8 + size]
    if rng.random() < 0.3:
        names = [
            b'"F32"',
            b'"I32"',
            b'"U32"',
            b'"F8_E4M3"',
            b'"C64"',
            b'"BOOL"',
            b'"F16"',
        ]
        header = header.replace(names[0], names[rng.integers(len(names))], 1)
    else:
        header = mutated_json(rng, header)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def mutated_template(rng, data):
    """A template with hostile programs and fragments in it."""
    if rng.random() < 0.2:
        return mutated_bytes(rng, data)
    text = data.decode()
    for _ in range(rng.integers(1, 4)):
        place = rng.integers(len(text) + 1)
        snippet = SNIPPETS[rng.integers(len(SNIPPETS))]
        text = text[:place] + snippet + text[place:]
    return text.encode("utf-8", "surrogatepass")
