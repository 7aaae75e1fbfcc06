"""What is measured of a text: one place for the command, studies and bidding."""

from tokenauction_jax.measures.bounds import Limits as Limits
from tokenauction_jax.measures.columns import MEASURES as MEASURES
from tokenauction_jax.measures.columns import SHARES as SHARES
from tokenauction_jax.measures.columns import UNITS as UNITS
from tokenauction_jax.measures.columns import VALUATIONS as VALUATIONS
from tokenauction_jax.measures.columns import Column as Column
from tokenauction_jax.measures.columns import Scope as Scope
from tokenauction_jax.measures.columns import columns as columns
from tokenauction_jax.measures.columns import widest as widest
from tokenauction_jax.measures.mentions import mentions as mentions
from tokenauction_jax.measures.texts import Texts as Texts
from tokenauction_jax.measures.texts import run_texts as run_texts
from tokenauction_jax.measures.texts import text_measures as text_measures
from tokenauction_jax.measures.tokens import Attribution as Attribution
from tokenauction_jax.measures.tokens import Reference as Reference
from tokenauction_jax.measures.tokens import TokenMeasures as TokenMeasures
