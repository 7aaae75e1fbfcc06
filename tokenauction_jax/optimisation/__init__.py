"""Optimising bids from a file: best responses, equilibria and pacing, step by step."""

from tokenauction_jax.optimisation.config import Optimisation as Optimisation
from tokenauction_jax.optimisation.config import OptimisationError as OptimisationError
from tokenauction_jax.optimisation.launch import resume as resume
from tokenauction_jax.optimisation.launch import run as run
from tokenauction_jax.optimisation.reading import read as read
from tokenauction_jax.optimisation.results import Results as Results
from tokenauction_jax.optimisation.results import load as load
