"""Tokens of texts that a language model decodes in auctions, beside `transformers`.

All run the same auctions with the same weights: prompts of the agents read once, texts
decoded with a cache, temperature and top-k, an aggregate, a draw, and a payment of
every agent for every token. Beside them is what the products of the weights alone take.
"""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np

import tokenauction_jax as ta
from benchmarks import auctions, language_models, limits, peers
from benchmarks.figures import Case
from benchmarks.harness import Contender, take_turns

USES = (language_models.NEEDS, "torch", "transformers")
_MECHANISMS = {
    "linear": auctions.linear_second_price,
    "log_linear": auctions.log_linear_clarke,
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The aggregation, auctions and type of the weights of each case, and rounds."""

    cases: tuple[tuple[str, int, str], ...] = (
        ("linear", 32, "float32"),
        ("log_linear", 32, "float32"),
        ("linear", 128, "float32"),
    )
    on_accelerators: tuple[tuple[str, int, str], ...] = (
        ("linear", 1024, "bfloat16"),
        ("linear", 1024, "float32"),
        ("log_linear", 1024, "bfloat16"),
    )
    model: str = language_models.SMOLLM2
    num_agents: int = 2
    num_tokens: int = 24
    rounds: int = 4


FULL = Sizes()
QUICK = Sizes(
    cases=(("linear", 16, "float32"),),
    on_accelerators=(("linear", 256, "bfloat16"),),
    num_tokens=8,
    rounds=3,
)


def measure(sizes: Sizes) -> Iterator[Case]:
    """A case for each rule, number of auctions and type."""
    if not language_models.available(sizes.model):
        return
    on_cpu = jax.default_backend() == "cpu"
    for rule, num_auctions, dtype in sizes.cases if on_cpu else sizes.on_accelerators:
        contenders = list(_contenders(sizes, rule, num_auctions, dtype))
        shape = {"A": num_auctions, "n": sizes.num_agents, "T": sizes.num_tokens}
        named = ", ".join(f"{key} {value:,}" for key, value in shape.items())
        yield Case(
            f"{sizes.model}, {rule}, {named}, {dtype}",
            "token",
            shape,
            take_turns(contenders, sizes.rounds),
            along=["A"] if (rule, dtype) == ("linear", "float32") else [],
        )


def _contenders(
    sizes: Sizes, rule: str, num_auctions: int, dtype: str
) -> Iterator[Contender]:
    checkpoint = ta.agents.load_checkpoint(sizes.model, dtype=dtype)
    size = {"num_auctions": num_auctions, "num_tokens": sizes.num_tokens}
    count, bids = (
        num_auctions * sizes.num_tokens,
        language_models.bids(sizes.num_agents),
    )
    mechanism = _MECHANISMS[rule]()
    pool = language_models.pool(checkpoint, sizes.num_agents)
    yield auctions.simulate("ours", mechanism, pool, bids, count, **size)
    if peers.installed("torch") and peers.installed("transformers"):
        from benchmarks.peers import transformers_loop

        prompts = language_models.prompts(sizes.num_agents)
        call = transformers_loop.make_run(
            transformers_loop.load(checkpoint, dtype),
            [checkpoint.tokenizer.encode_prompt(prompt) for prompt in prompts],
            np.asarray(bids).tolist(),
            aggregation=rule,
            temperature=language_models.TEMPERATURE,
            top_k=language_models.TOP_K,
            **size,
        )
        yield Contender("transformers", "peer", call, count)
    config, rows = checkpoint.model.config, num_auctions * sizes.num_agents
    products = limits.decoder_products(config, rows, dtype)
    yield dataclasses.replace(products, count=num_auctions)
    shapes = limits.product_shapes(config)
    flops = 2 * sum(inputs * outputs for inputs, outputs in shapes)
    yield limits.matrix_products(flops * sizes.num_agents, dtype)
