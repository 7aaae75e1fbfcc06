"""What an audit found, property by property."""

import math

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from tokenauction_jax.auditing import Audit, Finding, ReplyAudit
from tokenauction_jax.plots.arguments import check_kind
from tokenauction_jax.reports import drawing
from tokenauction_jax.reports.drawing import Group
from tokenauction_jax.reports.labels import Row

# Violations below this are drawn as if they grew evenly from 0: float32 has no less.
_ROUNDING = 1e-8
_TICKS = ("0", "1e-6", "1e-4", "1e-2", "1")
_VERDICTS = ("holds", "fails")


@matplotlib.rc_context(drawing.STYLE)
def audit(found: Audit | ReplyAudit) -> Figure:
    """Each property of a rule: on how many instances it holds, its worst violation.

    Left, the share of the random instances on which it holds; right, the largest
    violation that the random and the adversarial search found, without a unit (see
    `docs/audit.md`), on an axis that is logarithmic above 1e-8. The dashed line is the
    tolerance for properties of payments; those of an aggregation have limits of their
    own. What was not checked has no estimate; an infinite violation is at the right.

    Args:
      found: By `ta.audit`.

    >>> import tokenauction_jax as ta
    >>> figure = ta.plots.audit(ta.audit(ta.linear(), num_instances=20))
    >>> [axes.get_xlabel() for axes in figure.axes]
    ['instances on which it holds', 'largest violation']
    """
    check_kind(found, "what ta.audit returned", Audit, ReplyAudit)
    rule = found.rule if isinstance(found, ReplyAudit) else found.aggregation
    by_subject: dict[str, list[Finding]] = {}
    for finding in found.findings:
        subject = rule if finding.payment is None else f"payment {finding.payment}"
        by_subject.setdefault(subject, []).append(finding)
    groups = [
        Group(
            subject,
            [(each.property, _rows(each, _largest(found))) for each in findings],
            [int(each.verdict == "fails") for each in findings],
        )
        for subject, findings in by_subject.items()
    ]
    titles = ["instances on which it holds", "largest violation"]
    figure = drawing.forest(groups, titles)
    held, worst = figure.axes
    held.set_xlim(-0.05, 1.05)
    held.xaxis.set_major_formatter(PercentFormatter(1))
    worst.set_xscale("symlog", linthresh=_ROUNDING, linscale=0.5)
    worst.set_xlim(-_ROUNDING / 3, 3 * _largest(found))
    worst.set_xticks(list(map(float, _TICKS)), _TICKS)
    worst.set_xticks([], minor=True)
    worst.axvline(found.tolerance, linestyle="--", color=drawing.GREY, linewidth=0.9)
    verdicts = enumerate(_VERDICTS)
    entries = [(name, drawing.key(style, line=False)) for style, name in verdicts]
    drawing.legend(figure, entries)
    return figure


def _largest(found: Audit | ReplyAudit) -> float:
    """The largest finite violation, or 1: where infinite ones are drawn."""
    finite = [each.worst for each in found.findings if math.isfinite(each.worst)]
    return max(1.0, *finite)


def _rows(finding: Finding, largest: float) -> list[Row | None]:
    """The share of instances, and the violation."""
    if finding.verdict == "not checked":
        return [None, None]
    share = finding.holds_on / finding.instances if finding.instances else math.nan
    worst = finding.worst if math.isfinite(finding.worst) else largest
    return [{"mean": x, "low": x, "high": x} for x in (share, worst)]
