"""Follows model repositories: what there is to serve, look after look, as far as it has come to rest.

Knows signatures and times, and no loaded model. A look at what has not changed costs directory listings and the files'
status; configurations are read and backends asked only about what is new. Invariant: until a change of a model has
come to rest, looks go on giving what was there before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Final

from vintner.backend import Backends
from vintner.contents import Contents, Listing, judge, read_listing
from vintner.errors import ConfigError
from vintner.links import Links
from vintner.model_config import ModelConfig
from vintner.model_source import ModelSource, Scan
from vintner.mounts import read_mounts
from vintner.ovms_file import OvmsFile
from vintner.repository import (
    Fault,
    Naming,
    Place,
    combine,
    distinct_roots,
    find_places,
    make_source,
    read_config,
    source_or_fault,
)
from vintner.settling import Record, Rules, Sight, observe

logger = logging.getLogger(__name__)

Outcome = ModelSource | Fault
_Key = tuple[Path, str]
"""A directory, and the name of a model that was given."""

GONE: Final = "gone"
"""Stands for the signature of a version whose directory is not there."""


@dataclass(frozen=True, slots=True)
class Unsettled:
    """Why a model is not tried yet."""

    name: str
    reason: str


@dataclass(slots=True)
class _Followed:
    """What is known of the model in one directory."""

    config: Record | None = None
    versions: dict[Path, Record] = field(default_factory=dict)
    key: Hashable = None
    outcome: Outcome | Unsettled | None = None
    listing: tuple[Listing, Naming] | None = None
    """What the outcome was concluded from."""
    trouble: str = ""
    name: str = ""
    """As which the model was last there: a broken configuration does not tell."""
    numbers: Mapping[int, Path] = field(default_factory=dict)
    """The versions that were there last."""
    gone: float | None = None
    """Since when its directory is not there."""
    parsed: tuple[Hashable, ModelConfig | ConfigError] | None = None
    """A configuration's signature and what it says, which stays true while the file is being rewritten."""

    @property
    def due(self) -> float:
        if self.key is None or self.trouble:
            return inf  # nothing was concluded, which time alone will not change
        records = [*self.versions.values(), self.config] if self.config else self.versions.values()
        return min((record.due for record in records if record), default=inf)

    def rests_on(self, listing: Listing, naming: Naming) -> bool:
        """Whether nothing has happened since, and none is to happen by time alone."""
        if self.listing is None or self.trouble or self.due < inf:
            return False
        return self.listing[1] == naming and listing.resembles(self.listing[0])

    def fault(self, name: str, reason: str) -> Fault:
        return Fault(self.name or name, reason)

    def read(self, directory: Path, naming: Naming) -> ModelConfig | ConfigError:
        """The accepted configuration, or what is wrong with it. Raises OSError."""
        if naming.model is not None:
            return naming.config(directory)
        assert self.config is not None
        if self.parsed is None or self.parsed[0] != self.config.accepted:
            try:
                self.parsed = (self.config.accepted, read_config(directory))
            except ConfigError as exc:
                if isinstance(exc.__cause__, OSError):  # which may pass
                    raise exc.__cause__ from exc
                self.parsed = (self.config.accepted, exc)
        return self.parsed[1]


class Repository:
    """All roots of a server. Threads: one at a time."""

    def __init__(
        self,
        roots: Sequence[Path],
        backends: Backends,
        model_name: str | None = None,
        default_name: str | None = None,
        *,
        settle_seconds: float = 0.75,
        require_ready_marker: bool = False,
        follow_external_links: bool = False,
        given: OvmsFile | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Names are as for `repository.scan`; a file may give further models. Reads no models yet."""
        self.roots = tuple(roots)
        self._backends = backends
        self._names = (model_name, default_name)
        self._rules = Rules(settle_seconds, require_ready_marker)
        self._wall_clock = wall_clock
        self._given = given
        self._follow_external_links = follow_external_links
        self._links = {root: Links(root, follow_external_links) for root in self.roots}
        self._single: dict[Path, bool] = {}
        self._known: dict[Path, Mapping[str, Place]] = {}
        self._followed: dict[tuple[Path, str], _Followed] = {}
        self._remote: dict[int, bool] = {}
        self.due = inf
        """When, by the clock of `scan`, something that is unsettled could be settled; infinity if nothing waits."""

    @property
    def has_given(self) -> bool:
        """Whether there is something to look at beside the roots, of which nothing is heard."""
        return self._given is not None

    @property
    def leads_out(self) -> Sequence[Path]:
        """The roots in which a link to elsewhere was followed."""
        return [root for root, links in self._links.items() if links.external]

    def scan(self, now: float, settle: bool = True) -> Scan:
        """What there is at `now`, of a clock that only goes forward.

        Without `settle` nothing is waited for: what is being uploaded, or lacks a required marker, is not there, the
        rest is taken as it is, and a file that gives models but cannot be read is an error; with it, what that file
        said before still holds. What did not change is the same object as in the last scan.
        Raises ConfigError as `repository.scan`, and then knows what it knew before.
        """
        by_root = {root: self._places(root) for root in distinct_roots(self.roots)}
        places = [place for found in by_root.values() for place in found]
        naming = Naming.of(places, *self._names)
        named = [((place.directory, ""), place, naming) for place in places] + self._given_places(settle)
        before = self._followed
        self._followed = {key: before.get(key) or _Followed() for key, _, _ in named}
        found = {key: self._look(self._followed[key], place, naming, now, settle) for key, place, naming in named}
        found |= self._lost(before, found, now, settle)
        for root, below in by_root.items():
            # A root keeps its layout while it has a model: a stray file beside models must not make it one itself.
            if any(isinstance(found[place.directory, ""], ModelSource) for place in below):
                self._single[root] = below[0].mounted
            else:
                self._single.pop(root, None)
        self.due = min((self._due(followed) for followed in self._followed.values()), default=inf)
        unsettled = {item.name: item.reason for item in found.values() if isinstance(item, Unsettled)}
        return combine([item for item in found.values() if not isinstance(item, Unsettled)], unsettled)

    def _due(self, followed: _Followed) -> float:
        return followed.due if followed.gone is None else followed.gone + self._rules.settle_seconds

    def _lost(
        self, before: Mapping[_Key, _Followed], found: Mapping[_Key, Outcome | Unsettled], now: float, settle: bool
    ) -> dict[_Key, Outcome | Unsettled]:
        """What was in directories that are not there any more, as long as they may be about to be replaced."""
        names = {outcome.name for outcome in found.values()}
        kept: dict[_Key, Outcome | Unsettled] = {}
        for key, followed in before.items():
            outcome = followed.outcome
            if key in found or key[1] or not isinstance(outcome, ModelSource | Fault) or outcome.name in names:
                continue
            followed.gone = now if followed.gone is None else followed.gone
            if settle and now < followed.gone + self._rules.settle_seconds:
                self._followed[key] = followed
                kept[key] = outcome
        return kept

    def _places(self, root: Path) -> Sequence[Place]:
        known = self._known.get(root)
        places = find_places(root, self._links[root], self._backends, self._single.get(root), known or {})
        if not places and known != {}:
            logger.info("the model repository %s is empty", root)
        self._known[root] = {place.directory.name: place for place in places if not place.mounted}
        return places

    def _given_places(self, settle: bool) -> list[tuple[tuple[Path, str], Place, Naming]]:
        """Two models may be in one directory, under different names."""
        if self._given is None:
            return []
        models = self._given.models if settle else self._given.read()
        return [
            (
                (model.root, model.name),
                Place(model.root, True, Links(model.root, self._follow_external_links)),
                Naming(model.name, model=model),
            )
            for model in models
        ]

    def _look(self, followed: _Followed, place: Place, naming: Naming, now: float, settle: bool) -> Outcome | Unsettled:
        followed.gone = None
        if naming.model is not None and naming.model.problem:
            followed.key, followed.outcome = None, Fault(naming.model.name, naming.model.problem)
            return followed.outcome
        try:
            listing = read_listing(place.directory, place.links)
        except OSError as exc:
            return self._unreadable(place, naming, followed, exc)
        if followed.rests_on(listing, naming) and followed.outcome is not None and settle:
            return followed.outcome
        followed.listing = (listing, naming)
        if listing.objection:
            followed.key, followed.trouble = None, ""
            followed.outcome = followed.fault(naming.shown(place), listing.objection)
            return followed.outcome
        contents = judge(listing)
        lost = {n: path for n, path in followed.numbers.items() if contents.versions.get(n) != path}
        self._observe(followed, contents, lost, listing.device, now, settle, naming.shown(place))
        lost = {n: path for n, path in lost.items() if path in followed.versions}
        return self._conclude(place, naming, followed, {**contents.versions, **lost}, settle)

    def _unreadable(self, place: Place, naming: Naming, followed: _Followed, error: OSError) -> Outcome | Unsettled:
        """Keeps what there was: a disk may be away for a moment."""
        trouble = f"cannot read {error.filename}: {error.strerror}"
        if followed.outcome is None or isinstance(followed.outcome, Unsettled):
            return followed.fault(naming.shown(place), trouble)
        removed = isinstance(error, FileNotFoundError)  # while it was being looked at, which the next look will tell
        if trouble != followed.trouble and not removed:
            logger.warning("model '%s' stays as it was: %s", followed.outcome.name, trouble)
        followed.trouble = trouble
        return followed.outcome

    def _observe(
        self,
        followed: _Followed,
        contents: Contents,
        lost: Mapping[int, Path],
        device: int,
        now: float,
        settle: bool,
        name: str,
    ) -> None:
        """`lost` are versions that were there at the last look: that one is gone is a change too, and may be half of a
        replacement."""
        wall = None if self._is_remote(device) else self._wall_clock()
        version_rules = self._rules if settle else replace(self._rules, settle_seconds=0.0)
        # A marker is for versions; a configuration is small, and mostly written at once.
        config_rules = Rules(version_rules.settle_seconds)

        def step(before: Record | None, sight: Sight, rules: Rules, what: str) -> Record:
            after = observe(before, sight, now, wall, rules)
            there = sight.signature and sight.signature != GONE  # or the reason is none that an operator could see
            if there and after.reason and (before is None or after.reason != before.reason):
                logger.info("model '%s': %s is not taken yet: %s", name, what, after.reason)
            return after

        followed.config = step(followed.config, contents.config, config_rules, "its configuration")
        sights = [(number, path, contents.sights[number]) for number, path in contents.versions.items()]
        sights += [(number, path, Sight(GONE, inf, marked=True)) for number, path in lost.items()]
        records = {
            path: step(followed.versions.get(path), sight, version_rules, f"version {number}")
            for number, path, sight in sights
        }
        followed.versions = {path: record for path, record in records.items() if record.accepted != GONE}

    def _is_remote(self, device: int) -> bool:
        """Whether the files' times are perhaps of another clock than ours."""
        if device not in self._remote:
            self._remote = {mount.device: mount.remote for mount in read_mounts()}
            self._remote.setdefault(device, False)
        return self._remote[device]

    def _conclude(
        self, place: Place, naming: Naming, followed: _Followed, versions: Mapping[int, Path], settle: bool
    ) -> Outcome | Unsettled:
        config, records = followed.config, followed.versions
        assert config is not None
        before = followed.outcome.signatures if isinstance(followed.outcome, ModelSource) else {}
        accepted = {number: _to_be_tried(records[path], before.get(number)) for number, path in versions.items()}
        available = {number: path for number, path in versions.items() if accepted[number] is not None}
        followed.numbers = available
        key = (naming, config.accepted, tuple((path, accepted[number]) for number, path in available.items()))
        if key == followed.key and isinstance(followed.outcome, ModelSource | Fault):
            followed.trouble = ""
            return followed.outcome
        unread = config.accepted is None or (config.reason and not isinstance(followed.outcome, ModelSource))
        if unread or not available:
            reason = config.reason or records[versions[max(versions)]].reason
            shown = naming.shown(place)
            followed.outcome = Unsettled(followed.name or shown, reason) if settle else followed.fault(shown, reason)
        else:
            try:
                parsed = followed.read(place.directory, naming)
            except OSError as exc:
                return self._unreadable(place, naming, followed, exc)
            signatures = {number: accepted[number] for number in available}
            build = partial(self._make, place, naming, parsed, available, signatures)
            outcome = source_or_fault(build, place, naming)
            if isinstance(outcome, ModelSource):
                followed.name = outcome.name
            else:
                outcome = followed.fault(outcome.name, outcome.reason)
            followed.outcome = outcome
        followed.key, followed.trouble = key, ""
        return followed.outcome

    def _make(
        self,
        place: Place,
        naming: Naming,
        config: ModelConfig | ConfigError,
        available: Mapping[int, Path],
        signatures: Mapping[int, Hashable],
    ) -> ModelSource:
        if isinstance(config, ConfigError):
            raise config
        source = make_source(place, naming, config, available, signatures, self._backends)
        return replace(source, unchanged=partial(_unchanged, place, signatures))


def _to_be_tried(record: Record, before: Hashable | None) -> Hashable | None:
    """The accepted signature of a version, if that is of what is there now. While it is being written, only one that
    was given `before` stays: it may be served."""
    return record.accepted if not record.reason or record.accepted == before else None


def _unchanged(place: Place, signatures: Mapping[int, Hashable], version: int) -> bool:
    """Whether a version has this signature now."""
    try:
        sight = judge(read_listing(place.directory, place.links)).sights.get(version)
    except OSError:
        return False
    return sight is not None and sight.signature == signatures[version]
