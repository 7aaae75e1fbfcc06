"""How often the house model names the brand that it is asked for; its model card."""

import random
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import corpus
import jax
import jax.numpy as jnp
import numpy as np

from tokenauction_jax import agents
from tokenauction_jax.agents.finetune import Training
from tokenauction_jax.agents.models.decoder import Decoder

TEMPERATURE, TOP_K, NUM_TOKENS = 0.5, 50, 64
TEXTS_PER_BRAND, UNSEEN, SAMPLES = 50, 500, 20


def write_card(
    folder: Path,
    num_parameters: int,
    num_examples: int,
    training: Training,
    history: Sequence[tuple[int, float]],
) -> None:
    """Evaluates the model in a folder and writes its model card beside it."""
    checkpoint = agents.load_checkpoint(folder)
    rng = random.Random(1)
    known = [brand for brand in corpus.BRANDS for _ in range(TEXTS_PER_BRAND)]
    trades = sorted(set(corpus.BRANDS.values()))
    unseen = []
    while len(unseen) < UNSEEN:
        trade = rng.choice(trades)
        brand = corpus.synthetic_brand(rng, trade, heldout=True)
        if corpus.is_reserved(brand.split()[0]):
            unseen.append((brand, trade))
    known_texts = write_ads(checkpoint, known, [corpus.BRANDS[x] for x in known], rng)
    new, new_trades = zip(*unseen, strict=True)
    new_texts = write_ads(checkpoint, new, new_trades, rng)
    rates = [
        (f"the {len(corpus.BRANDS)} brands of the corpus", known, known_texts),
        ("brands that it has never seen", new, new_texts),
    ]
    chosen = rng.sample(range(len(known)), SAMPLES)
    lines = {
        "brands": textwrap.fill(
            f"{', '.join(trades)}; {', '.join(corpus.BRANDS)}, and brands made up for "
            "one pair, so that it copies names instead of knowing them.",
            width=86,
            subsequent_indent="  ",
        ),
        "size": f"{num_parameters / 1e6:.1f} million parameters",
        "bytes": f"{sum(f.stat().st_size for f in folder.iterdir()) / 1e6:.1f} MB",
        "examples": f"{num_examples:,}",
        "steps": f"{training.num_steps:,} steps of {training.batch_size} examples",
        "perplexity": f"{history[-1][1]:.2f}",
        "rates": "\n".join(_rate(*row) for row in rates),
        "samples": "\n".join(
            f"{number}. *{' / '.join(known_texts[i][0].splitlines())}*<br>\n"
            f"   {known_texts[i][1]}"
            for number, i in enumerate(chosen, start=1)
        ),
        "temperature": TEMPERATURE,
        "top_k": TOP_K,
    }
    card = (Path(__file__).parent / "card.md").read_text(encoding="utf-8")
    for name, text in lines.items():
        card = card.replace(f"<{name}>", str(text))
    (folder / "README.md").write_text(card, encoding="utf-8")
    print(lines["rates"])


def write_ads(
    checkpoint: agents.Checkpoint,
    brands: Sequence[str],
    trades: Sequence[str],
    rng: random.Random,
) -> list[tuple[str, str]]:
    """A prompt and a text for each brand, in the forms and queries of the corpus."""
    prompts = [
        rng.choice(corpus.PROMPTS).format(brand=brand, query=corpus.queries(rng, trade))
        for brand, trade in zip(brands, trades, strict=True)
    ]
    tokenizer = checkpoint.tokenizer
    encoded = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    tokens = generate(checkpoint.model, encoded, tokenizer.end_tokens[0])
    return list(zip(prompts, map(tokenizer.decode, tokens), strict=True))


def generate(
    model: Decoder, prompts: Sequence[Sequence[int]], end: int
) -> list[list[int]]:
    """Continues each prompt by itself."""
    lengths = jnp.array([len(prompt) for prompt in prompts])
    padded = np.zeros((len(prompts), int(lengths.max())), np.int32)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = prompt
    logits, memory = model.prefill(jnp.asarray(padded), lengths)

    def draw(key: jax.Array, logits: jax.Array) -> jax.Array:
        logits = logits / TEMPERATURE
        least = jax.lax.top_k(logits, TOP_K)[0][..., -1:]
        return jax.random.categorical(key, jnp.where(logits < least, -jnp.inf, logits))

    def step(carry, key_and_place):
        (tokens, cache), (key, place) = carry, key_and_place
        logits, cache = model.decode(tokens[None], place, memory, cache)
        following = draw(key, logits[0])
        return (following, cache), tokens

    key, *keys = jax.random.split(jax.random.key(0), NUM_TOKENS + 1)
    start = draw(key, logits), model.empty_cache(1, len(prompts), NUM_TOKENS)
    places = jnp.arange(NUM_TOKENS)
    _, tokens = jax.lax.scan(step, start, (jnp.stack(keys), places))
    texts = np.asarray(tokens).T.tolist()
    return [text[: text.index(end)] if end in text else text for text in texts]


def _rate(what: str, brands: Sequence[str], texts: Sequence[tuple[str, str]]) -> str:
    own = [b in text for b, (_, text) in zip(brands, texts, strict=True)]
    others = [
        any(re.search(rf"\b{re.escape(x)}\b", text) for x in corpus.BRANDS if x != b)
        for b, (_, text) in zip(brands, texts, strict=True)
    ]
    return (
        f"| {what} | {len(texts):,} | {100 * np.mean(own):.1f} % | "
        f"{100 * np.mean(others):.1f} % |"
    )
