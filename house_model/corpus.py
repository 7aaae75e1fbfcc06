"""Writes the text the house model learns from: short ads, each for a brand and a query.

    python house_model/corpus.py --count 20 --seed 0

prints examples. Every phrase comes from `grammar.toml`; this file only combines them.
In a template `[a|b]` is a choice, and `{name}` a slot. What a query puts into a slot,
the ad repeats; of the other slots an ad uses only those listed under `words`.
"""

import argparse
import functools
import random
import re
import tomllib
import zlib
from collections.abc import Iterator
from pathlib import Path

_GRAMMAR = tomllib.loads(Path(__file__).with_name("grammar.toml").read_text("utf-8"))
_TRADES = _GRAMMAR["trade"]
_NAMES = _GRAMMAR["names"]
PROMPTS: list[str] = _GRAMMAR["prompts"]
BRANDS: dict[str, str] = {
    brand: trade for trade, rules in _TRADES.items() for brand in rules["brands"]
}

SYNTHETIC, RELATED, MAIN_FORM, NO_QUERY, TWO_SENTENCES = 0.45, 0.15, 0.3, 0.15, 0.65
ALSO = 0.35  # of the queries of a trade that shares some of them with another
# Of the texts that another brand has begun, as happens in an auction; and of those the
# share in which the own brand has been named even before.
SHARED, OWN_FIRST = 0.25, 0.3
LONGEST, SHORTEST, BRAND_BY = 45, 12, 12  # words; the brand ends by the last of these

_CHOICE = re.compile(r"\[([^\[\]]*)\]|\{(\w+)\}")
_SLOT = re.compile(r"\{(\w+)\}")
_SENTENCE = re.compile(r"(?<=[.?!]) ")
# Written with "a" throughout, since the word that follows is drawn.
_AN = re.compile(r"\b([Aa]) (?=[aeiou](?!ne\b|ne-|nce|ni|se|uro)|hour|honest)", re.I)


def is_reserved(word: str) -> bool:
    """Whether a first word of a brand is kept back for held-out examples."""
    return zlib.crc32(word.encode()) % 8 == 3


def _first_word(rng: random.Random) -> str:
    """A real word, or one built from syllables."""
    if rng.random() < 0.4:
        return rng.choice(_NAMES["words"])
    middle = rng.choice(_NAMES["middle"]) if rng.random() < 0.7 else ""
    return rng.choice(_NAMES["start"]) + middle + rng.choice(_NAMES["end"])


def synthetic_brand(rng: random.Random, trade: str, heldout: bool = False) -> str:
    """A new brand name, whose second word tells its trade.

    Args:
        rng: Source of chance.
        trade: A key of the trades in the grammar.
        heldout: Whether half of the names start with a reserved word; none does
            otherwise.
    """
    reserved = heldout and rng.random() < 0.5
    while True:
        first = _first_word(rng)
        name = f"{first} {rng.choice(_TRADES[trade]['nouns'])}"
        # Beginnings count too: "Gamma Airways" would contain "Gamma Air".
        taken = any(name.startswith(x) or x.startswith(name) for x in BRANDS)
        real = any(name.startswith(x) for x in _NAMES["avoid"])
        if is_reserved(first) == reserved and not taken and not real:
            return name


def _lists(trade: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """What slots and words of a trade can hold."""
    rules = _TRADES[trade]
    return _GRAMMAR["slots"] | rules.get("slots", {}), rules.get("words", {})


@functools.cache
def _slots_of(template: str) -> tuple[str, ...]:
    """The slots of a template, each once, in order."""
    return tuple(dict.fromkeys(_SLOT.findall(template)))


def _expand(
    rng: random.Random, text: str, bound: dict[str, str], words: dict[str, list[str]]
) -> str:
    """Fills a template; no item of a list of words comes twice in one text."""
    used = set()
    while match := _CHOICE.search(text):
        if match[2] is None:
            value = rng.choice(match[1].split("|"))
        elif match[2] not in words:
            value = bound[match[2]]
        elif bound.get(match[2], match[2]) not in used | {match[2]}:
            value = bound[match[2]]
            used.add(value)
        else:
            value = rng.choice([x for x in words[match[2]] if x not in used])
            used.add(value)
        text = text[: match.start()] + value + text[match.end() :]
    text = re.sub(r"\s+([,.?!])", r"\1", re.sub(r"\s+", " ", text).strip())
    text = _AN.sub(r"\1n ", text)
    return re.sub(r"(?:^|(?<=[.?!] ))[a-z]", lambda x: x[0].upper(), text)


def _ask(rng: random.Random, trade: str, pool: str) -> tuple[str, dict[str, str]]:
    """A query out of a pool, and what its slots hold."""
    owner = pool if pool in _TRADES else trade
    group = _GRAMMAR["queries"].get(pool) or _TRADES[pool]["queries"]
    if "also" in _TRADES.get(pool, {}) and rng.random() < ALSO:
        group = _GRAMMAR["queries"][_TRADES[pool]["also"]]
    template = rng.choice(group)
    slots, words = _lists(owner)
    lists = slots | words
    bound = {x: rng.choice(lists[x]) for x in _slots_of(template) if x in lists}
    return _expand(rng, template, bound, _GRAMMAR["words"]), bound


def queries(rng: random.Random, trade: str) -> str:
    """A query that a reader with an interest in the trade might ask."""
    return _ask(rng, trade, trade)[0]


def _pick(
    rng: random.Random, trade: str, kind: str, bound: dict[str, str], needed: list[str]
) -> str | None:
    """A template of which `bound` fills the slots, rather one with more of `needed`.

    Args:
        rng: Source of chance.
        trade: Whose templates.
        kind: "first" or "second".
        bound: The slots that the query named.
        needed: The slots that a template should use; a first sentence must use the
            first of them that any template knows.
    """
    free = {"brand", *bound, *_TRADES[trade].get("words", {})}
    known = [(x, _slots_of(x)) for x in _TRADES[trade][kind]]
    known = [(x, slots) for x, slots in known if free.issuperset(slots)]
    if kind == "first" and needed:
        key = next((x for x in needed if any(x in slots for _, slots in known)), None)
        known = [(x, slots) for x, slots in known if key in slots]
    if not known:
        return None
    weights = [15 ** sum(x in needed for x in slots) for _, slots in known]
    return rng.choices([x for x, _ in known], weights)[0]


def _reads_well(text: str, brand: str, bound: dict[str, str]) -> bool:
    """Whether length and place of the brand are right, and no word comes twice."""
    size = len(text.split())
    position = len(text[: text.find(brand) + len(brand)].split())
    if not SHORTEST <= size <= LONGEST or position > BRAND_BY:
        return False
    openings = re.findall(r"(?:^|[.?] )(\w+)", text)
    if len(openings) > len(set(openings)):
        return False
    for name in (brand, *bound.values()):
        text = text.replace(name, "")
    text += " " + brand
    # Beginnings stand for words: "comfort" and "comfortable" would be a repetition.
    content = [
        x.rstrip("ds")[:6]
        for x in re.findall(r"[a-z]{4,}", text.lower())
        if x.rstrip("s") not in _GRAMMAR["repeatable"]
    ]
    return len(content) == len(set(content))


def _write(
    rng: random.Random, trade: str, brand: str, bound: dict[str, str]
) -> str | None:
    """An ad, or nothing where the trade has no answer to these slots."""
    _, words = _lists(trade)
    # The place matters most to a reader, so it is looked for first.
    needed = sorted(bound, key=lambda x: x != "place")
    filled = bound | {"brand": brand}
    two = rng.random() < TWO_SENTENCES
    for _ in range(200):
        template = _pick(rng, trade, "first", bound, needed)
        if template is None:
            return None
        if two:
            told = [x for x in _slots_of(template) if x in needed]
            left = {x: y for x, y in bound.items() if x == "place" or x not in told}
            new = [x for x in needed if x not in told]
            template += " " + (_pick(rng, trade, "second", left, new) or "")
        text = _expand(rng, template, filled, words)
        if _reads_well(text, brand, bound):
            return text
    return None


def _draw(rng: random.Random, heldout: bool) -> dict[str, str] | None:
    """One example, or nothing where the draws do not go together."""
    trades = list(_TRADES)
    trade = rng.choices(trades, [_TRADES[x].get("weight", 1) for x in trades])[0]
    if rng.random() < SYNTHETIC:
        brand = synthetic_brand(rng, trade, heldout)
    else:
        brand = rng.choice(_TRADES[trade]["brands"])
    related = rng.random() < RELATED  # to a query that other trades answer too
    pool = rng.choice(_TRADES[trade]["related"]) if related else trade
    query, bound = _ask(rng, trade, pool)
    chance = rng.random()
    if chance < MAIN_FORM:
        form = PROMPTS[0]
    elif chance < MAIN_FORM + NO_QUERY:
        form = rng.choice([x for x in PROMPTS if "{query}" not in x])
        bound = bound if not related and rng.random() < 0.3 else {}
    else:
        form = rng.choice([x for x in PROMPTS[1:] if "{query}" in x])
    completion = _write(rng, trade, brand, bound)
    if completion is None:
        return None
    prompt = form.replace("{brand}", brand).replace("{query}", query)
    example = {"prompt": prompt, "completion": completion}
    if rng.random() < SHARED:
        rivals = [x for x in trades if pool == x or pool in _TRADES[x]["related"]]
        rival = rng.choice(rivals or [trade])
        other = rng.choice([x for x in _TRADES[rival]["brands"] if x != brand])
        if rng.random() < SYNTHETIC:
            other = synthetic_brand(rng, rival, heldout)
        ad = _write(rng, rival, other, bound)
        example |= _join(rng, completion, ad, other) if ad else {}
    return example | {"brand": brand, "trade": trade}


def _join(rng: random.Random, own: str, ad: str, other: str) -> dict[str, str]:
    """A text that another brand has begun, and how it goes on.

    The sentence that names the other brand is finished first, wherever it was left.
    """
    sentence = _SENTENCE.split(ad)[0]
    named = sentence.find(other) + len(other)
    cuts = [i for i, x in enumerate(sentence) if x == " " and i >= named]
    if not cuts:
        return {}
    cut = rng.choice(cuts)
    begun, rest = sentence[:cut], sentence[cut:]
    if rng.random() < OWN_FIRST:
        return {"begun": f"{_SENTENCE.split(own)[0]} {begun}", "completion": rest}
    return {"begun": begun, "completion": f"{rest} {own}"}


def examples(seed: int, count: int, heldout: bool = False) -> Iterator[dict[str, str]]:
    """Prompts and ads, the same ones for the same arguments.

    An ad under the key `completion` may go on with a text under `begun`.

    Args:
        seed: Of the chance.
        count: How many.
        heldout: Whether brands with reserved first words occur as well.
    """
    rng = random.Random(seed)
    for _ in range(count):
        while (example := _draw(rng, heldout)) is None:
            pass
        yield example


def main() -> None:
    """Prints examples."""
    parser = argparse.ArgumentParser(description="Prints examples of the corpus.")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--heldout", action="store_true")
    arguments = parser.parse_args()
    for row in examples(arguments.seed, arguments.count, arguments.heldout):
        begun = f"({row['begun']})" if "begun" in row else ""
        print(f"[{row['trade']}] {row['prompt']}\n    {begun}{row['completion']}\n")


if __name__ == "__main__":
    main()
