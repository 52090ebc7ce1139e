"""Which models make room for another one, where the memory for models is bounded.

Pure. What a version needs is what its files take, for each of its pools, unless its configuration says `memory_bytes`:
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


@dataclass(frozen=True, slots=True)
class Room:
    """What has to be before a load: the models to `evict`, or, where that cannot help, the `refusal`. With `never`
    there can be no room, whatever the other models do."""

    evict: Sequence[str] = ()
    refusal: str = ""
    never: bool = False

    @property
    def free(self) -> bool:
        """Whether the load can begin."""
        return not self.evict and not self.refusal


def make_room(need: int, beside: int, budget: int, tenants: Sequence[Tenant]) -> Room:
    """For `need` bytes more of a model that has `beside` bytes already, among the other models. Least recently used
    models go first."""
    missing = sum(tenant.size for tenant in tenants) + need + beside - budget
    evicted: list[str] = []
    for tenant in sorted((tenant for tenant in tenants if tenant.idle), key=lambda tenant: tenant.last_used):
        if missing <= 0:
            break
        missing -= tenant.size
        evicted.append(tenant.name)
    if missing <= 0:
        return Room(evicted)
    never = need + beside > budget
    return Room((), _refusal(need, beside, budget, never), never)


def _refusal(need: int, beside: int, budget: int, never: bool) -> str:
    reason = f"it needs {in_words(need)} of the {in_words(budget)} for models (--model-memory-budget)"
    if beside:
        reason += f" beside the {in_words(beside)} of what is served (resource_preserving would unload that first)"
    return reason if never else f"{reason}, and other models, which are in use, take the rest"


def in_words(size: int) -> str:
    """Such as `1.5 GiB`."""
    amount, units = float(size), ["B", "KiB", "MiB", "GiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:.1f} {units[0]}" if units[0] != "B" else f"{size} B"
