"""How good is a mechanism? One scorecard for all, from the same studies."""

from tokenauction_jax.suite.launch import run as run
from tokenauction_jax.suite.mechanisms import BUILT_IN as BUILT_IN
from tokenauction_jax.suite.mechanisms import SuiteError as SuiteError
from tokenauction_jax.suite.scorecard import Scorecard as Scorecard
from tokenauction_jax.suite.yardsticks import VERSION as VERSION
from tokenauction_jax.suite.yardsticks import YARDSTICKS as YARDSTICKS
