"""Training of language model agents: data, the loop, and its checkpoints."""

from tokenauction_jax.agents.finetune.examples import DataError as DataError
from tokenauction_jax.agents.finetune.examples import Example as Example
from tokenauction_jax.agents.finetune.examples import batch_at as batch_at
from tokenauction_jax.agents.finetune.examples import plan_batches as plan_batches
from tokenauction_jax.agents.finetune.examples import read_examples as read_examples
from tokenauction_jax.agents.finetune.examples import split as split
from tokenauction_jax.agents.finetune.run import RunExistsError as RunExistsError
from tokenauction_jax.agents.finetune.run import TrainingRun as TrainingRun
from tokenauction_jax.agents.finetune.run import fingerprint as fingerprint
from tokenauction_jax.agents.finetune.trainer import Progress as Progress
from tokenauction_jax.agents.finetune.trainer import Training as Training
from tokenauction_jax.agents.finetune.trainer import TrainingError as TrainingError
from tokenauction_jax.agents.finetune.trainer import perplexity as perplexity
from tokenauction_jax.agents.finetune.trainer import train as train
from tokenauction_jax.agents.finetune.tune import Tuned as Tuned
from tokenauction_jax.agents.finetune.tune import fine_tune as fine_tune
