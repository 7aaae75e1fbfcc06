"""The `tokenauction` command, the only place that prints."""

from tokenauction_jax.cli.main import main as main
