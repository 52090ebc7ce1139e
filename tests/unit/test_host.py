"""What /proc says of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from vintner.host import Host, meminfo, processor_times

MEMORY = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    400 kB\nHugePages_Total:       0\n"


class Machine:
    """A directory that looks like /proc, and a clock."""

    def __init__(self, root: Path) -> None:
        self.now = 0.0
        self.root = root
        self.tick(busy=1000, idle=1000)
        (root / "meminfo").write_text(MEMORY)
        self.host = Host(root, lambda: self.now)

    def tick(self, busy: int, idle: int) -> None:
        """The times since the machine's start; 2 ticks are those of processes, the rest of the kernel."""
        (self.root / "stat").write_text(f"cpu  2 0 {busy - 2} {idle - 5} 5 0 0 0 1 0\ncpu0 1 1 1 1 1 0 0 0 0 0\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_share_is_that_since_it_was_asked_last(machine: Machine) -> None:
    machine.now = 10.0
    machine.tick(busy=1300, idle=1100)
    assert machine.host.utilisation() == 0.75
    machine.now = 20.0
    machine.tick(busy=1300, idle=1200)
    assert machine.host.utilisation() == 0.0


def test_asking_again_at_once_gives_the_same(machine: Machine) -> None:
    machine.now = 10.0
    machine.tick(busy=1300, idle=1100)
    first = machine.host.utilisation()
    machine.now = 10.9
    machine.tick(busy=1301, idle=1101)
    assert machine.host.utilisation() == first
    machine.now = 11.0
    assert machine.host.utilisation() == 0.5


def test_times_that_went_back_change_nothing(machine: Machine) -> None:
    machine.now = 10.0
    machine.tick(busy=900, idle=900)
    assert machine.host.utilisation() == 0.0


def test_used_memory_is_what_is_not_available(machine: Machine) -> None:
    assert machine.host.memory() == (1000 * 1024, 600 * 1024)


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    host = Host(tmp_path)
    assert host.utilisation() is None
    assert host.memory() is None
    (tmp_path / "meminfo").write_text("MemTotal: 5 kB\n")
    assert host.memory() is None


def test_the_idle_time_includes_waiting_for_disks_but_not_that_of_guests_twice() -> None:
    assert processor_times("cpu  1 2 3 10 20 4 5 6 1 2\n") == (21, 51)


@pytest.mark.parametrize("line", ["", "cpu0 1 2 3 4 5", "cpu  1 2", "cpu  a b c d e f g h"])
def test_what_is_not_the_times_of_all_processors_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        processor_times(line)


def test_sizes_without_a_unit_are_no_sizes() -> None:
    assert meminfo(MEMORY).keys() == {"MemTotal", "MemFree", "MemAvailable"}


def test_this_machine_has_figures() -> None:
    host = Host()
    total, used = host.memory() or (0, 0)
    assert 0 < used < total
    assert host.utilisation() is not None
