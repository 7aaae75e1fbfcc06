"""Figures of what the package computes: each function returns one, and saves nothing.

All have one look: Okabe and Ito's colours with a marker each, units on every axis,
intervals where something was estimated. A notebook shows what a function returns; a
program saves it, ``ta.plots.audit(found).savefig("audit.png")``.
"""

from tokenauction_jax.plots.audits import audit as audit
from tokenauction_jax.plots.bids import best_response as best_response
from tokenauction_jax.plots.bids import equilibrium as equilibrium
from tokenauction_jax.plots.results import optimisation as optimisation
from tokenauction_jax.plots.results import study as study
from tokenauction_jax.plots.sweeps import curves as curves
from tokenauction_jax.plots.texts import text as text
from tokenauction_jax.plots.tokens import token as token
