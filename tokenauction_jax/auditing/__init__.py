"""The search for violations of incentive properties."""

from tokenauction_jax.auditing.audit import audit as audit
from tokenauction_jax.auditing.report import Audit as Audit
from tokenauction_jax.auditing.report import Counterexample as Counterexample
from tokenauction_jax.auditing.report import Finding as Finding
from tokenauction_jax.auditing.report import ReplyAudit as ReplyAudit
from tokenauction_jax.auditing.report import ReplyCounterexample as ReplyCounterexample
from tokenauction_jax.auditing.submissions import Submissions as Submissions
from tokenauction_jax.auditing.submissions import (
    distribution_misreports as distribution_misreports,
)
