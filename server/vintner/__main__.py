"""The command `vintner`, and `python -m vintner`: from its first moment, the process ends when it is told to.

Knows no command: `cli` does. As process 1 of a container, which the kernel spares every signal that it does not ask
for, it would not hear SIGTERM before the server listens for it, which is after seconds of imports on a busy machine.
Invariant: nothing is imported here that takes time.
"""

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Runs the command of the command line and returns its exit code. `app` takes the signals over."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    from vintner.cli import main as run

    return run()


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
