"""The auctions of one token in PyTorch.

From distributions `(A, n, V)` and bids `(A, n)` to tokens `(A,)` and realised and mean
payments `(A, n)` given the token. Tokens are drawn by `torch.multinomial`.
"""

import jax
import torch

Outcome = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def device() -> torch.device:
    """The accelerator that JAX uses, if PyTorch can, too; else the CPU."""
    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def wait() -> None:
    """Waits for what was started."""
    if device().type == "cuda":
        torch.cuda.synchronize()


def linear_second_price(p: torch.Tensor, bids: torch.Tensor) -> Outcome:
    """Linear aggregation of probabilities; critical bids are drawn given the token."""
    total = bids.sum(1, keepdim=True)
    weights, others = bids / total, total - bids
    tokens = torch.multinomial((weights[:, None] @ p)[:, 0], 1)[:, 0]
    own = _at(p, tokens)
    q = (weights * own).sum(1, keepdim=True)
    r = (total * q - bids * own) / others
    uniform = torch.rand_like(own) * weights
    won = torch.rand_like(own) < 1 - r / q
    price = others * (-torch.log1p(-weights) - weights) / weights
    realized = torch.where(won, others * uniform / (1 - uniform), 0)
    return tokens, realized, (1 - r / q).clamp(min=0) * price


def log_linear_clarke(log_probs: torch.Tensor, bids: torch.Tensor) -> Outcome:
    """Log-linear aggregation of log-probabilities; pays `B KL(q || r)`."""
    log_q = _pool(log_probs, bids)
    q = log_q.exp()
    tokens, payments = torch.multinomial(q, 1)[:, 0], []
    for agent in range(bids.shape[1]):
        rest = bids.clone()
        rest[:, agent] = 0
        excess = log_q - _pool(log_probs, rest)
        terms = torch.where(q > 0, q * excess, 0)
        payments.append(rest.sum(1) * terms.sum(1))
    paid = torch.stack(payments, dim=1)
    return tokens, paid, paid


def _pool(log_probs: torch.Tensor, bids: torch.Tensor) -> torch.Tensor:
    weights = (bids / bids.sum(1, keepdim=True))[:, :, None]
    powers = torch.where(weights > 0, weights * log_probs, 0)
    return powers.sum(1).log_softmax(1)


def _at(p: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    index = tokens[:, None, None].expand(-1, p.shape[1], 1)
    return p.gather(2, index)[..., 0]
