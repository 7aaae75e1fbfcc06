"""Receipts: what was drawn and paid for one text, token by token, and its replay."""

from tokenauction_jax.receipts.issue import of_cell as of_cell
from tokenauction_jax.receipts.issue import of_scenario as of_scenario
from tokenauction_jax.receipts.receipt import Receipt as Receipt
from tokenauction_jax.receipts.receipt import ReceiptError as ReceiptError
from tokenauction_jax.receipts.receipt import Token as Token
from tokenauction_jax.receipts.receipt import read as read
from tokenauction_jax.receipts.replay import Difference as Difference
from tokenauction_jax.receipts.replay import Replay as Replay
from tokenauction_jax.receipts.replay import replay as replay
