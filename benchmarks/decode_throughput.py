"""Tokens per second of `ta.simulate` and of a loop around `transformers`.

Both run the same auctions with the same weights on the same CPU cores: prompts of two
agents read once, texts decoded with a KV cache in float32, temperature and top-k, an
aggregate, a draw, and a payment of every agent for every token. Runs alternate; the
medians are compared. Compiling and loading are not counted.

    python benchmarks/decode_throughput.py --rule linear
"""

import argparse
import os
import platform
import statistics
import time

MODEL = "smollm2-135m-instruct"
PROMPTS = [
    "You write advertisements for Alpha Airlines. Continue the answer to 'Where should "
    "I spend my holidays?' with a paragraph that recommends flying there with them.",
    "You write advertisements for Beta Resort. Continue the answer to 'Where should I "
    "spend my holidays?' with a paragraph that recommends staying at their hotel.",
]
TEMPERATURE, TOP_K = 0.6, 50
BIDS = [1.0, 2.0]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--auctions", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rule", choices=["linear", "log_linear"], default="linear")
    return parser.parse_args()


def restrict_cores(threads: int) -> None:
    """Gives both libraries the same cores; call before importing them."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)


def make_ours(checkpoint, arguments):
    """One run of `ta.simulate`, as a function of the seed."""
    import jax

    import tokenauction_jax as ta

    options = {"temperature": TEMPERATURE, "top_k": TOP_K}
    pool = ta.agents.from_language_model(
        checkpoint.model, checkpoint.tokenizer, PROMPTS, **options
    )
    if arguments.rule == "linear":
        mechanism = ta.Mechanism(ta.linear(), ta.second_price(ta.linear()))
    else:
        mechanism = ta.Mechanism(ta.log_linear(), ta.clarke(ta.log_linear()))
    shape = {"num_tokens": arguments.tokens, "num_auctions": arguments.auctions}

    bids = jax.numpy.array(BIDS)

    def run(seed: int):
        rollout = ta.simulate(jax.random.key(seed), mechanism, pool, bids, **shape)
        return jax.block_until_ready(rollout).tokens

    return run


def make_oracle(checkpoint):
    """The checkpoint's weights in the Llama model of `transformers`."""
    import numpy as np
    import torch
    import transformers
    from flax import nnx

    from tokenauction_jax.agents.checkpoints.huggingface import LLAMA

    config = checkpoint.model.config
    theta = config.frequencies[1] ** (-config.head_dim / 2)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            max_position_embeddings=config.context_length,
            rms_norm_eps=config.norm_epsilon,
            rope_parameters={"rope_type": "default", "rope_theta": theta},
            tie_word_embeddings=config.tied_embeddings,
        )
    ).eval()
    flat = nnx.to_flat_state(nnx.state(checkpoint.model))
    ours = {".".join(map(str, path)): np.array(leaf[...]) for path, leaf in flat}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(ours[str(LLAMA.parameter(name))]))
    return model


def filtered(logits):
    """Log-probabilities after temperature and top-k."""
    logits = logits / TEMPERATURE
    least = logits.topk(TOP_K, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -float("inf")).log_softmax(-1)


def second_price(log_probs, weights, bids, tokens):
    """A draw of each agent's critical bid given the tokens; linear aggregation."""
    import torch

    index = tokens[:, None, None].expand(-1, len(bids), 1)
    own = log_probs.gather(2, index)[..., 0].exp()  # (A, n)
    others = bids.sum() - bids
    rest = ((own * bids).sum(1, keepdim=True) - own * bids) / others
    aggregate = (own * weights).sum(1, keepdim=True)
    won = torch.rand_like(own) < (1 - rest / aggregate).clamp(min=0)
    uniform = torch.rand_like(own) * weights
    return torch.where(won, others * uniform / (1 - uniform), 0)


def clarke(log_probs, log_q, bids):
    """`B KL(q || r)` of each agent; log-linear aggregation."""
    import torch

    payments = []
    for agent in range(len(bids)):
        rest = bids.clone()
        rest[agent] = 0
        log_r = (log_probs * (rest / rest.sum())[:, None]).nan_to_num(0.0)
        log_r = log_r.sum(1).log_softmax(-1)
        terms = torch.where(log_q > -float("inf"), log_q.exp() * (log_q - log_r), 0)
        payments.append(rest.sum() * terms.sum(-1))
    return torch.stack(payments, dim=1)


def make_theirs(checkpoint, arguments):
    """The same auctions in a loop around `transformers`, as a function of the seed."""
    import torch

    torch.set_num_threads(arguments.threads)
    model, count = make_oracle(checkpoint), arguments.auctions
    prompts = [checkpoint.tokenizer.encode_prompt(prompt) for prompt in PROMPTS]
    width, lengths = max(map(len, prompts)), [len(prompt) for prompt in prompts]
    padded = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    real = torch.tensor([[0] * (width - n) + [1] * n for n in lengths])
    bids = torch.tensor(BIDS)
    weights = bids / bids.sum()

    def auction(logits):
        log_probs = filtered(logits).unflatten(0, (len(prompts), count)).transpose(0, 1)
        if arguments.rule == "linear":
            q = (log_probs.exp() * weights[:, None]).sum(1)
            tokens = torch.multinomial(q, 1)[:, 0]
            return tokens, second_price(log_probs, weights, bids, tokens)
        log_q = (log_probs * weights[:, None]).sum(1).log_softmax(-1)
        tokens = torch.multinomial(log_q.exp(), 1)[:, 0]
        return tokens, clarke(log_probs, log_q, bids)

    @torch.inference_mode()
    def run(seed: int):
        torch.manual_seed(seed)
        places = (real.cumsum(1) - 1).clamp(min=0)
        out = model(padded, attention_mask=real, position_ids=places, logits_to_keep=1)
        cache = out.past_key_values
        cache.batch_repeat_interleave(count)
        logits = out.logits[:, -1].repeat_interleave(count, 0)
        mask, place = (x.repeat_interleave(count, 0) for x in (real, places[:, -1:]))
        texts = []
        for step in range(arguments.tokens):
            tokens, _ = auction(logits)
            texts.append(tokens)
            if step + 1 == arguments.tokens:
                break
            read, place = tokens.repeat(len(prompts))[:, None], place + 1
            mask = torch.cat([mask, torch.ones_like(read)], 1)
            logits = model(
                read, attention_mask=mask, position_ids=place, past_key_values=cache
            ).logits[:, -1]
        return torch.stack(texts, dim=1)

    return run


def main() -> None:
    arguments = parse_arguments()
    restrict_cores(arguments.threads)
    import jax
    import torch
    import transformers

    import tokenauction_jax as ta

    checkpoint = ta.agents.load_checkpoint(MODEL)
    runs = {
        "tokenauction_jax": make_ours(checkpoint, arguments),
        "transformers": make_theirs(checkpoint, arguments),
    }
    times = {name: [] for name in runs}
    for repeat in range(arguments.repeats + 1):  # the first compiles
        for name, run in runs.items():
            started = time.perf_counter()
            tokens = run(repeat)
            times[name].append(time.perf_counter() - started)
            assert tokens.shape == (arguments.auctions, arguments.tokens)
    total = arguments.auctions * arguments.tokens
    print(
        f"{MODEL}, {arguments.rule}, {arguments.auctions} auctions x {len(PROMPTS)} "
        f"agents x {arguments.tokens} tokens, float32, {arguments.threads} threads, "
        f"{platform.machine()}, jax {jax.__version__}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )
    speeds = {}
    for name, seconds in times.items():
        rates = sorted(total / second for second in seconds[1:])
        speeds[name] = statistics.median(rates)
        print(
            f"{name:>17}: {speeds[name]:6.1f} tokens/s "
            f"(from {rates[0]:.1f} to {rates[-1]:.1f}; first run {seconds[0]:.1f} s)"
        )
    print(f"ratio {speeds['tokenauction_jax'] / speeds['transformers']:.2f}")


if __name__ == "__main__":
    main()
