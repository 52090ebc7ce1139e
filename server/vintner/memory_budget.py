"""Which models make room for another one, where the memory for models is bounded.

Pure. What a model needs is what its files take, for each of its pools, unless its configuration says `memory_bytes`:
before a load nobody knows better. Invariant: nothing is evicted unless all that is evicted together makes enough room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tenant:
    """A model that is loaded, or being loaded. `last_used` orders tenants; one that is not `idle` stays."""

    name: str
    size: int
    last_used: float
    idle: bool


def room_for(size: int, budget: int, tenants: Sequence[Tenant]) -> list[str] | None:
    """The names of the models to evict, least recently used first, so that `size` more bytes fit into the budget.

    None if it cannot fit now: what is not idle takes too much.
    """
    missing = sum(tenant.size for tenant in tenants) + size - budget
    evicted: list[str] = []
    for tenant in sorted((tenant for tenant in tenants if tenant.idle), key=lambda tenant: tenant.last_used):
        if missing <= 0:
            break
        missing -= tenant.size
        evicted.append(tenant.name)
    return evicted if missing <= 0 else None


def in_words(size: int) -> str:
    """Such as `1.5 GiB`."""
    amount, units = float(size), ["B", "KiB", "MiB", "GiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:.1f} {units[0]}" if units[0] != "B" else f"{size} B"
