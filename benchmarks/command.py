"""`python -m benchmarks`: runs parts, and shows, keeps and compares what they find."""

import argparse
import dataclasses
import pathlib
import sys
import time
from collections.abc import Sequence

from benchmarks import comparison, figures, harness, parts, plot, tables
from tokenauction_jax import files
from tokenauction_jax.cli.displays.console import Console
from tokenauction_jax.outside import OutsideError


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; ends with 1 if ours became slower, with 2 on bad input."""
    options = _parser().parse_args(arguments)
    if options.list:
        for name in parts.NAMES:
            print(f"{name:>14}  {parts.describe(name)}")
        return
    try:
        slower = _run(options)
    except OutsideError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(1 if slower else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Times the library beside its peers and the limits of the machine.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="PART",
        help=f"what to run, by default all: {', '.join(parts.NAMES)}",
    )
    parser.add_argument("--list", action="store_true", help="say what the parts are")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes: all in 3 minutes on 2 cores"
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("benchmarks.json"),
        metavar="FILE",
        help="JSON for all times, in place of an earlier one; the plot, a PNG, is put "
        "beside it (default: %(default)s)",
    )
    parser.add_argument(
        "--compare",
        type=pathlib.Path,
        metavar="FILE",
        help="JSON of an earlier run: show what is slower or faster beyond the spread, "
        "and end with 1 if any of ours is slower",
    )
    return parser


def _run(options: argparse.Namespace) -> bool:
    """Runs the parts; whether ours became slower."""
    unknown = [name for name in options.names if name not in parts.NAMES]
    if unknown:
        raise OutsideError(
            f"no part is called {unknown[0]!r}: choose from {', '.join(parts.NAMES)}"
        )
    old = figures.read(options.compare) if options.compare else None
    if options.out.suffix != ".json":
        raise OutsideError(f"--out {options.out} must end in .json: the plot is a .png")
    files.check_writable(options.out.absolute().parent)
    report = _measure(options, tables.console())
    if old is None:
        return False
    found = comparison.changes(old, report)
    comparison.show(tables.console(), old, found, report)
    return bool(comparison.regressions(found))


def _measure(options: argparse.Namespace, screen: Console) -> figures.Report:
    """The report of all parts, which is written after each of them."""
    # This process starts no JAX: on an accelerator it would take its memory.
    machine = harness.alone(harness.describe_machine)
    screen.print(_machine_line(machine))
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    report = figures.Report(figures.FORMAT, started, options.quick, machine, [])
    for name in dict.fromkeys(options.names or parts.NAMES):
        screen.print(f"\n{name}: {parts.describe(name)}\n", style="bold")
        part = harness.alone(harness.run_part, name, options.quick)
        tables.show_part(screen, part)
        report = dataclasses.replace(report, parts=[*report.parts, part])
        figures.write(options.out, report)
    drawn = options.out.with_suffix(".png")
    also = f" and {drawn}" if plot.save(report, drawn) else ""
    screen.print(f"\nAll times are in {options.out}{also}.")
    return report


def _machine_line(machine: dict) -> str:
    versions = machine["versions"] | machine["peers"]
    return ", ".join(
        [
            f"{machine['processor']}, {machine['cores']} cores",
            f"{len(machine['devices'])} x {machine['device_kinds'][0]}",
            f"tokenauction_jax {machine['tokenauction_jax']}",
            *(f"{name} {version}" for name, version in versions.items()),
        ]
    )
