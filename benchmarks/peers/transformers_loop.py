"""The auctions of language models in a loop around `transformers`."""

import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.peers.torch_auction import (
    device,
    linear_second_price,
    log_linear_clarke,
)
from tokenauction_jax.agents.checkpoints.export import write_directory
from tokenauction_jax.agents.checkpoints.load import Checkpoint

# By the name of the aggregation.
_AUCTIONS = {
    "linear": lambda log_probs, bids: linear_second_price(log_probs.exp(), bids),
    "log_linear": log_linear_clarke,
}


def load(checkpoint: Checkpoint, dtype: str) -> Any:
    """The same weights as a model of `transformers`."""
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = checkpoint.model, checkpoint.tokenizer
        write_directory(Path(folder), model, tokenizer, base=checkpoint.raw_config)
        transformers.utils.logging.disable_progress_bar()
        found: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype)
        )
    return found.eval().to(device())


def make_run(
    model: Any,
    prompts: list[list[int]],
    bids: list[float],
    *,
    aggregation: str,
    temperature: float,
    top_k: int,
    num_auctions: int,
    num_tokens: int,
) -> Callable[[int], Any]:
    """The texts `(A, T)` of auctions, as a function of the seed.

    Prompts are read once, texts decoded with a cache of keys and values; every agent
    pays for every token.
    """
    place, auction = device(), _AUCTIONS[aggregation]
    width, lengths = max(map(len, prompts)), list(map(len, prompts))
    padded = [[0] * (width - len(prompt)) + prompt for prompt in prompts]
    padded = torch.tensor(padded, device=place)
    real = [[0] * (width - n) + [1] * n for n in lengths]
    real = torch.tensor(real, device=place)
    rows = torch.tensor(bids, device=place).expand(num_auctions, -1)

    def draw(logits: torch.Tensor) -> torch.Tensor:
        logits = logits.float() / temperature
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        kept = logits.masked_fill(logits < least, -float("inf")).log_softmax(-1)
        by_agent = kept.unflatten(0, (len(prompts), num_auctions))
        return auction(by_agent.transpose(0, 1), rows)[0]

    # It is called `cache` from transformers 5.24 on.
    takes = inspect.signature(model.forward).parameters
    cache_name = "cache" if "cache" in takes else "past_key_values"

    @torch.inference_mode()
    def run(seed: int) -> Any:
        torch.manual_seed(seed)
        places = (real.cumsum(1) - 1).clamp(min=0)
        out = model(padded, attention_mask=real, position_ids=places, logits_to_keep=1)
        cache = getattr(out, cache_name)
        cache.batch_repeat_interleave(num_auctions)
        logits = out.logits[:, -1].repeat_interleave(num_auctions, 0)
        repeated = (
            x.repeat_interleave(num_auctions, 0) for x in (real, places[:, -1:])
        )
        (mask, place), texts = repeated, [draw(logits)]
        for _ in range(num_tokens - 1):
            read, place = texts[-1].repeat(len(prompts))[:, None], place + 1
            mask = torch.cat([mask, torch.ones_like(read)], 1)
            where = {"attention_mask": mask, "position_ids": place}
            out = model(read, **where, **{cache_name: cache})
            texts.append(draw(out.logits[:, -1]))
        return torch.stack(texts, dim=1).cpu()

    return run
