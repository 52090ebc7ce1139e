"""`python -m bench [--row NAME]… [--quick]`: measures, prints the table, writes `build/bench.json`.

Exits with 1 if a row could not be measured. A missed target is marked and is no failure: on a shared machine that is
for a reader to judge, by the spread beside it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from bench import report
from bench.curves import Point
from bench.measure import Comparison
from bench.plan import Plan
from bench.rows import ROWS
from bench.servers import ROOT, Site
from bench.streaming import StreamPoint

BUILD = ROOT / "build"


def main() -> int:
    options = _parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, _leave)  # as an exception, so that every server is stopped on the way out
    plan = _plan(options.quick)
    results: list[Comparison | Point | StreamPoint] = []
    failures: dict[str, str] = {}
    for name in options.row or ROWS:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            results.extend(ROWS[name](plan))
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {error}"
    comparisons = [one for one in results if isinstance(one, Comparison)]
    points = [one for one in results if isinstance(one, Point)]
    streams = [one for one in results if isinstance(one, StreamPoint)]
    print(report.table(comparisons))
    if points:
        print(f"\n{report.points_table(points)}")
    if streams:
        print(f"\n{report.streams_table(streams)}")
    for name, reason in failures.items():
        print(f"{name} was not measured: {reason}")
    report.write_json(BUILD / "bench.json", comparisons, points, failures, quick=options.quick, streams=streams)
    return 1 if failures else 0


def _plan(quick: bool) -> Plan:
    """Takes the first core for servers and keeps this process, with all clients, on the second."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("bench: two cores are needed, one for the server and one for the client")
    os.sched_setaffinity(0, {cores[1]})
    directory = BUILD / "bench"
    directory.mkdir(parents=True, exist_ok=True)
    site = Site(str(cores[0]), directory)
    return Plan(site, 1.0, 3, 10_000, 1, 5.0) if quick else Plan(site, 3.0, 5, 100_000, 3, 30.0)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Ratios, measured in one run on two cores.")
    parser.add_argument("--row", action="append", choices=ROWS, help="only this row (repeatable)")
    parser.add_argument("--quick", action="store_true", help="a second for each sample, and fewer requests for memory")
    return parser.parse_args(arguments)


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
