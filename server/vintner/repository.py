"""What a model repository asks to have loaded: which models, in which versions, how configured.

Stateless, and quick: it lists directories and reads configurations, never a model. It follows links, because
Kubernetes mounts through them, as long as they stay in the root, and writes nothing. What changes from one scan to the
next is `tracking`'s concern. Three layouts are told apart in each root:

    <integer>/<files>              the root is one model with versions
    <files>                        the root is one model, version 1
    <model>/[<integer>/]<files>    every directory is a model of one of these two kinds

A configuration file in the root says that the root is a model, whatever else is there.

Invariant: a scan accounts for every model directory, either as a model or as a fault; none is dropped.
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from vintner.backend import Backends
from vintner.contents import VERSION, is_directory, judge, read_listing
from vintner.errors import ConfigError
from vintner.links import Links
from vintner.load_specs import find_model, recogniser
from vintner.model_config import ModelConfig, read_model_config
from vintner.model_source import ModelSource, Scan
from vintner.triton_config import read_triton_config

logger = logging.getLogger(__name__)

CONFIG_READERS: Final[Mapping[str, Callable[[Path], ModelConfig]]] = {
    "config.yaml": read_model_config,
    "config.pbtxt": read_triton_config,
}


@dataclass(frozen=True, slots=True)
class GivenModel:
    """A model whose name and configuration come from elsewhere than its directory, which has no say in them.

    `problem` says why it cannot even be tried.
    """

    name: str
    root: Path
    config: ModelConfig = field(default_factory=ModelConfig)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A directory that is a model. A `mounted` one is a root, whose own name is the operator's and not the model's.
    `links` are those of its root."""

    directory: Path
    mounted: bool
    links: Links

    @property
    def name(self) -> str:
        return os.path.basename(os.path.abspath(self.directory))


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a model cannot be tried."""

    name: str
    reason: str


def scan(
    roots: Sequence[Path],
    backends: Backends,
    model_name: str | None = None,
    default_name: str | None = None,
    given: Sequence[GivenModel] = (),
    *,
    follow_external_links: bool = False,
) -> Scan:
    """Reads the repositories, and the models that are `given`; `model_name` is what a repository of a single model
    serves it as.

    A root that is given twice counts once. A single model is served as `model_name`, else as the name in its
    configuration, else as its directory; in place of a root's own name stands `default_name`, which is weaker than
    a directory of the model's own: a repository of one may get a second one. Raises ConfigError for a root that is no
    readable directory, a `model_name` that no model can have, and one where there are several models.
    """
    places = [
        place
        for root in distinct_roots(roots)
        for place in find_places(root, Links(root, follow_external_links), backends)
    ]
    naming = Naming.of(places, model_name, default_name)
    found = [read_model(place, naming, backends) for place in places]
    for model in given:
        place = Place(model.root, True, Links(model.root, follow_external_links))
        found.append(read_model(place, Naming(model.name, model=model), backends))
    return combine(found)


def distinct_roots(roots: Sequence[Path]) -> Sequence[Path]:
    """The roots, without those that are another way to one of them."""
    return list({os.path.realpath(root): root for root in roots}.values())


def combine(found: Sequence[ModelSource | Fault], unsettled: Mapping[str, str] | None = None) -> Scan:
    """One scan of what was found in all places; a name that two of them have is a fault."""
    counts = Counter(item.name for item in found)
    twice = {name: "model appears in two or more repositories" for name, count in counts.items() if count > 1}
    models = {item.name: item for item in found if isinstance(item, ModelSource) and item.name not in twice}
    faults = {item.name: item.reason for item in found if isinstance(item, Fault)}
    others = {name: reason for name, reason in (unsettled or {}).items() if name not in counts}
    return Scan(models, faults | twice, others)


def check_model_name(name: str) -> None:
    """Raises ConfigError for a name that no model can have; all others are fine, whatever the script."""
    if name in ("", ".", "..") or re.search(r"[/\\]", name):
        raise ConfigError(f"a model cannot be named {name!r}")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise ConfigError(f"a model's name cannot hold control characters or bytes that are not UTF-8: {name!r}")


@dataclass(frozen=True, slots=True)
class Naming:
    """What the operator says of a single model's name: `given` beats its configuration, `default` the name of a root.

    Of a `model` that is given as a whole, the name and the configuration are told.
    """

    given: str | None = None
    default: str | None = None
    model: GivenModel | None = None

    @classmethod
    def of(cls, places: Sequence[Place], model_name: str | None, default_name: str | None) -> Naming:
        """Raises ConfigError for a `model_name` that no model can have, or that would name several."""
        if model_name is not None:
            check_model_name(model_name)
            if len(places) > 1:
                names = ", ".join(sorted(place.name for place in places))
                raise ConfigError(f"'{model_name}' can only name a single model; there are {len(places)}: {names}")
        return cls(model_name, default_name if len(places) == 1 else None)

    def config(self, directory: Path) -> ModelConfig:
        """The configuration of the model in that directory. Raises ConfigError."""
        if self.model is None:
            return read_config(directory)
        if self.model.problem:
            raise ConfigError(self.model.problem)
        return self.model.config

    def shown(self, place: Place) -> str:
        """How to call what cannot be served under its name: as `repr`, for it may be bytes that are not UTF-8."""
        return repr(self.given or place.name)[1:-1]


def find_places(
    root: Path,
    links: Links,
    backends: Backends,
    single: bool | None = None,
    known: Mapping[str, Place] = MappingProxyType({}),
) -> Sequence[Place]:
    """The models of a root; `single` says whether it is one itself, if that is known, and `known` are places by their
    directories' names, to be used again. Raises ConfigError as `scan`."""
    try:
        directories = _subdirectories(root, links)
        if _is_model(root, directories, backends) if single is None else single:
            return [Place(root, True, links)]
    except OSError as exc:
        raise ConfigError(f"cannot read the model repository {root}: {exc.strerror}") from exc
    return [known.get(name) or Place(root / name, False, links) for name in directories]


def _is_model(root: Path, directories: Sequence[str], backends: Backends) -> bool:
    if any((root / name).exists() for name in CONFIG_READERS):
        return True
    versions = [root / name for name in directories if VERSION.fullmatch(name)]
    return any(recogniser(directory, backends) for directory in [*versions, root])


def read_model(place: Place, naming: Naming, backends: Backends) -> ModelSource | Fault:
    """A model as it is there now."""

    def build() -> ModelSource:
        if naming.model is not None:
            naming.config(place.directory)  # what is wrong with it goes before what is wrong with its directory
        listing = read_listing(place.directory, place.links)
        if listing.objection:
            raise ConfigError(listing.objection)
        contents = judge(listing)
        config = naming.config(place.directory)
        signatures = {version: sight.signature for version, sight in contents.sights.items()}
        return make_source(place, naming, config, contents.versions, signatures, backends)

    return source_or_fault(build, place, naming)


def source_or_fault(build: Callable[[], ModelSource], place: Place, naming: Naming) -> ModelSource | Fault:
    """What `build` returns, or why it does not."""
    try:
        return build()
    except ConfigError as exc:
        reason = str(exc)
    except OSError as exc:
        reason = f"cannot read {exc.filename}: {exc.strerror}"
    except Exception as exc:  # a backend's bug, which is not to keep the other models from being served
        logger.exception("looking for a model in %s failed", place.directory)
        reason = f"{type(exc).__name__}: {exc}"
    return Fault(naming.shown(place), reason)


def make_source(
    place: Place,
    naming: Naming,
    config: ModelConfig,
    available: Mapping[int, Path],
    signatures: Mapping[int, Hashable],
    backends: Backends,
) -> ModelSource:
    """Raises ConfigError for a name that does not do, where the policy selects nothing, and where there is neither a
    version nor a model."""
    default = naming.default if place.mounted and config.name is None else None
    name = naming.given or default or _configured_name(place, config)
    check_model_name(name)
    selected = config.wanted_versions(available)
    if not selected:
        there = ", ".join(map(str, sorted(available)))
        raise ConfigError(f"no version to serve: the policy is '{config.version_policy}', there is {there}")
    wanted = {version: available[version] for version in selected}
    source = ModelSource(name, place.directory, config, wanted, available, signatures)
    if place.directory in available.values():
        find_model(source, 1, backends)
    return source


def read_config(directory: Path) -> ModelConfig:
    """The configuration in a model's directory, the default one if there is none. Raises ConfigError."""
    if (directory / "config.yml").exists():
        raise ConfigError("config.yml is not read; name it config.yaml")
    present = [name for name in CONFIG_READERS if (directory / name).exists()]
    if len(present) > 1:
        raise ConfigError(f"{' and '.join(present)} are both there; remove one")
    return CONFIG_READERS[present[0]](directory / present[0]) if present else ModelConfig()


def _configured_name(place: Place, config: ModelConfig) -> str:
    if config.name is None or config.name == place.name:
        return place.name
    if place.mounted:
        return config.name
    raise ConfigError(f"the configuration names the model '{config.name}', its directory '{place.name}'")


def _subdirectories(directory: Path, links: Links) -> Sequence[str]:
    """Their names in order, without what is hidden, unfinished or the file system's own."""
    with os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries if is_directory(entry, links))
