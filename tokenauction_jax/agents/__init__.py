"""Who supplies the distributions: tables and language models."""

import importlib
from typing import TYPE_CHECKING, Any

from tokenauction_jax.agents.pool import AgentPool as AgentPool
from tokenauction_jax.agents.random_tables import dirichlet as dirichlet
from tokenauction_jax.agents.random_tables import markov as markov
from tokenauction_jax.agents.random_tables import zipf as zipf
from tokenauction_jax.agents.reference import with_reference as with_reference
from tokenauction_jax.agents.tabular import tabular as tabular
from tokenauction_jax.mechanism.distributions import log_softmax as log_softmax

if TYPE_CHECKING:
    from tokenauction_jax.agents.checkpoints.check import (
        check_checkpoint as check_checkpoint,
    )
    from tokenauction_jax.agents.checkpoints.load import HOUSE as HOUSE
    from tokenauction_jax.agents.checkpoints.load import Checkpoint as Checkpoint
    from tokenauction_jax.agents.checkpoints.load import (
        CheckpointError as CheckpointError,
    )
    from tokenauction_jax.agents.checkpoints.load import (
        find_checkpoints as find_checkpoints,
    )
    from tokenauction_jax.agents.checkpoints.load import (
        load_checkpoint as load_checkpoint,
    )
    from tokenauction_jax.agents.checkpoints.load import (
        survey_checkpoints as survey_checkpoints,
    )
    from tokenauction_jax.agents.checkpoints.peft import load_adapter as load_adapter
    from tokenauction_jax.agents.checkpoints.peft import save_adapter as save_adapter
    from tokenauction_jax.agents.checkpoints.text import Tokenizer as Tokenizer
    from tokenauction_jax.agents.finetune import fine_tune as fine_tune
    from tokenauction_jax.agents.language_model import (
        from_language_model as from_language_model,
    )
    from tokenauction_jax.agents.models.lora import Adapter as Adapter
    from tokenauction_jax.agents.models.lora import new_adapter as new_adapter
    from tokenauction_jax.agents.models.sharding import shard_weights as shard_weights

# Language models bring Flax, tokenizers and file readers, which auctions of tables do
# not need: they are imported at first use.
_LAZY = {
    "HOUSE": "checkpoints.load",
    "Checkpoint": "checkpoints.load",
    "CheckpointError": "checkpoints.load",
    "check_checkpoint": "checkpoints.check",
    "find_checkpoints": "checkpoints.load",
    "load_checkpoint": "checkpoints.load",
    "survey_checkpoints": "checkpoints.load",
    "Tokenizer": "checkpoints.text",
    "fine_tune": "finetune",
    "from_language_model": "language_model",
    "Adapter": "models.lora",
    "new_adapter": "models.lora",
    "shard_weights": "models.sharding",
    "load_adapter": "checkpoints.peft",
    "save_adapter": "checkpoints.peft",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_LAZY[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
