"""What numbers over auctions mean: moments, estimators, intervals. Knows no auction."""

from tokenauction_jax.statistics import bounded as bounded
from tokenauction_jax.statistics.bounded import Bounds as Bounds
from tokenauction_jax.statistics.estimators import Estimate as Estimate
from tokenauction_jax.statistics.estimators import mean_per_token as mean_per_token
from tokenauction_jax.statistics.estimators import rate as rate
from tokenauction_jax.statistics.intervals import LEAST_EFFECTIVE as LEAST_EFFECTIVE
from tokenauction_jax.statistics.intervals import Intervals as Intervals
from tokenauction_jax.statistics.intervals import sequential as sequential
from tokenauction_jax.statistics.moments import NUM_BATCHES as NUM_BATCHES
from tokenauction_jax.statistics.moments import Batches as Batches
from tokenauction_jax.statistics.moments import CellPairs as CellPairs
from tokenauction_jax.statistics.moments import PairMoments as PairMoments
from tokenauction_jax.statistics.moments import Statistics as Statistics
from tokenauction_jax.statistics.series import Moments as Moments
from tokenauction_jax.statistics.sketch import Ranks as Ranks
from tokenauction_jax.statistics.sketch import Sketch as Sketch
