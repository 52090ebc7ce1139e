"""OpenVINO Model Server's `config.json`, as models with our configuration.

What an entry asks for falls in three: what is served here is mapped, what only tunes that server is passed over with a
remark, and what would change the answers (a stateful model, a custom loader) makes that model a fault. Knows nothing of
what lies in the directories. Invariant: each model of the list is either configured or has a problem, and one that is
wrong keeps no other from being served; but a document that is no such list at all is refused as a whole.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vintner.errors import ConfigError, nearest
from vintner.model_config import ModelConfig, parse_model_config
from vintner.repository import GivenModel

Remark = Callable[[str], None]
Document = dict[str, Any]

LISTS: Final = (
    "mediapipe_config_list",
    "pipeline_config_list",
    "custom_loader_config_list",
    "custom_node_library_config_list",
)
"""Of what is not served."""
TOP_KEYS: Final = ("model_config_list", "monitoring", *LISTS)
WITHOUT_EFFECT: Final = (
    "allow_cache",
    "graph_path",
    "idle_sequence_cleanup",
    "low_latency_transformation",
    "max_sequence_number",
    "metrics_enable",
    "metrics_list",
    "stateful",
    "subconfig",
)
"""`stateful: true` is refused."""
REFUSED: Final = ("custom_loader_options",)
AUTO: Final = "auto"
ANY: Final = -1


@dataclass(frozen=True, slots=True)
class ModelList:
    """What a document asks for; the remarks are for the operator, each complete."""

    models: Sequence[GivenModel]
    remarks: Sequence[str]


def parse_model_list(content: bytes, directory: Path) -> ModelList:
    """Reads the content of a `config.json`; a relative `base_path` starts at `directory`.

    Raises ConfigError for what is not JSON, or not a list of named models.
    """
    document = _load(content)
    remarks = list(_top_remarks(document))
    entries = [_entry(number, item) for number, item in enumerate(_list(document, "model_config_list"))]
    counts = Counter(str(entry["name"]) for entry in entries)
    models = [_model(entry, directory, remarks.append) for entry in entries if counts[str(entry["name"])] == 1]
    twice = (GivenModel(name, directory, problem=f"listed {n} times") for name, n in counts.items() if n > 1)
    return ModelList((*models, *twice), remarks)


def _load(content: bytes) -> Document:
    try:
        document = json.loads(content, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ConfigError("it is nested too deeply") from None
    except ValueError as exc:  # a text that is no UTF-8, too
        raise ConfigError(f"it is not valid JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise ConfigError(f"expected an object with a model_config_list, got {_shown(document)}")
    return document


def _unique(pairs: Sequence[tuple[str, Any]]) -> Document:
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"'{name}' is there {count} times in one object")
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _top_remarks(document: Document) -> Iterator[str]:
    for key in document:
        if key not in TOP_KEYS:
            yield f"unknown key '{key}'{nearest(key, TOP_KEYS)}"
    for key in LISTS:
        for item in _list(document, key) if key in document else ():
            named = item.get("config", item) if isinstance(item, dict) else item
            name = named.get("name") or named.get("loader_name") if isinstance(named, dict) else None
            yield f"{key}: '{name or _shown(item)}' is not served here"


def _list(document: Document, key: str) -> Sequence[Any]:
    given = document.get(key)
    if not isinstance(given, list):
        raise ConfigError(f"{key}: expected a list, {'there is none' if given is None else f'got {_shown(given)}'}")
    return given


def _entry(number: int, item: object) -> Document:
    """One entry's `config`, which names a model at least."""
    match item:
        case {"config": {"name": str(name)} as config} if name:
            return dict(config)
    raise ConfigError(f'model_config_list[{number}]: expected {{"config": {{"name": "...", ...}}}}, got {_shown(item)}')


def _model(entry: Document, directory: Path, remark: Remark) -> GivenModel:
    name = entry["name"]

    def about(text: str) -> None:
        remark(f"model '{name}': {text}")

    try:
        root = directory / _base_path(entry)
        return GivenModel(name, root, _configuration(entry, about))
    except ConfigError as exc:
        return GivenModel(name, directory, problem=str(exc))


def _base_path(entry: Document) -> str:
    given = entry.get("base_path")
    if not isinstance(given, str) or not given:
        raise _unfit("base_path", "the path of a directory with versions", given)
    if re.match(r"[a-z0-9]+://", given):
        raise ConfigError(f"base_path: {given} is not on a file system; mount it, and give the path")
    return given


def _configuration(entry: Document, remark: Remark) -> ModelConfig:
    for key in entry:
        if key in REFUSED:
            raise ConfigError(f"{key}: not served here")
        if key in WITHOUT_EFFECT:
            if entry[key] is not False:
                remark(f"{key} has no effect here")
        elif key not in KEYS:
            remark(f"unknown key '{key}'{nearest(key, KEYS)}")
    if entry.get("stateful") not in (None, False):
        raise ConfigError("stateful: sequences are not served, and without them its answers would be wrong")
    document: Document = {"backend": "openvino"}
    for key, translate in KEYS.items():
        if key in entry and translate is not None:
            document |= translate(entry[key], remark)
    return parse_model_config(_combined(document, remark), "config.json")


def _combined(document: Document, remark: Remark) -> Document:
    """What follows from several keys: a shape goes before a batch size, and a static first extent is no batch."""
    shape, rows = document.pop("shape", None), document.pop("batch_size", None)
    if shape is not None and rows is not None:
        remark("batch_size has no effect beside shape")
        rows = None
    own = {"shape": shape, "batch_size": rows, "layout": document.pop("layout", None)}
    options = document.pop("plugin_options", {}) | {key: value for key, value in own.items() if value is not None}
    if not document.keys() & {"performance_hint", "streams"}:
        document["performance_hint"] = "latency"  # which is that server's default
    shapes = shape.values() if isinstance(shape, dict) else [shape or [rows or ANY]]
    static = any(extents != AUTO and extents[0] not in (AUTO, ANY) for extents in shapes)
    return {**document, "backend_options": options, **({"batching": False} if static else {})}


# -- keys ------------------------------------------------------------------------------------------------------------


def _version_policy(given: object, remark: Remark) -> Document:
    match given:
        case {"latest": {"num_versions": int(count), **more}, **others} if not more and not others:
            return {"version_policy": {"latest": count}}
        case {"specific": {"versions": list(versions), **more}, **others} if not more and not others:
            return {"version_policy": {"specific": versions}}
        case {"all": {**more}, **others} if not more and not others:
            return {"version_policy": "all"}
    expected = '{"latest": {"num_versions": N}}, {"specific": {"versions": [1, 3]}} or {"all": {}}'
    raise _unfit("model_version_policy", expected, given)


def _target_device(given: object, remark: Remark) -> Document:
    if not isinstance(given, str) or not given:
        raise _unfit("target_device", "a device such as CPU or AUTO:GPU,CPU", given)
    return {"device": given}


def _nireq(given: object, remark: Remark) -> Document:
    if type(given) is not int or given < 0:
        raise _unfit("nireq", "a whole number, 0 leaving it to the server", given)
    return {"instances": given or None}


def _batch_size(given: object, remark: Remark) -> Document:
    extent = AUTO if given == AUTO else _extent("batch_size", given, remark, zero=True)
    return {"batch_size": extent or None}


def _shape(given: object, remark: Remark) -> Document:
    if isinstance(given, dict):
        return {"shape": {name: _one_shape(f"shape of '{name}'", text, remark) for name, text in given.items()}}
    return {"shape": _one_shape("shape", given, remark)}


def _one_shape(what: str, given: object, remark: Remark) -> object:
    if isinstance(given, str) and given.strip() == AUTO:
        return AUTO
    inner = re.fullmatch(r"\s*\(([^()]*?),?\s*\)\s*", given) if isinstance(given, str) else None
    parts = inner[1].split(",") if inner else given
    if not isinstance(parts, list) or not parts:
        raise _unfit(what, '"auto" or extents such as "(1,3,224,-1)"', given)
    return [_extent(what, part, remark) for part in parts]


def _extent(what: str, given: object, remark: Remark, zero: bool = False) -> int:
    """A number of elements; a range is given as any."""
    text = str(given).replace(" ", "") if type(given) in (int, str) else ""
    if re.fullmatch(r"[0-9]+:[0-9]+", text):
        remark(f"{what}: {text} is taken as any extent, and nothing beyond that range is refused")
        return ANY
    if not re.fullmatch(r"-1|[0-9]{1,18}", text) or (text == "0" and not zero):
        raise _unfit(what, "a positive number of elements, -1 for any, or a range such as 1:8", given)
    return int(text)


def _layout(given: object, remark: Remark) -> Document:
    named = given.values() if isinstance(given, dict) else [given]
    if not all(isinstance(text, str) and text for text in named):
        raise _unfit("layout", 'a layout such as "NHWC:NCHW", or one for each tensor by its name', given)
    return {"layout": given}


def _plugin_config(given: object, remark: Remark) -> Document:
    if not isinstance(given, dict):
        raise _unfit("plugin_config", "an object with OpenVINO's properties", given)
    document: Document = {}
    options: Document = {}
    for name, value in given.items():
        if not isinstance(value, (str, int, float, dict)):
            raise _unfit(f"plugin_config.{name}", "a text, a number, or true or false", value)
        if name in PROPERTIES:
            document |= PROPERTIES[name](name, value, remark)
        else:
            options[name] = value
    return {**document, "plugin_options": options}


def _hint(name: str, value: object, remark: Remark) -> Document:
    hint = str(value).lower()
    if hint == "cumulative_throughput":
        remark(f"{name}: {value} is taken as THROUGHPUT")
        hint = "throughput"
    if hint not in ("throughput", "latency"):
        raise _unfit(f"plugin_config.{name}", "LATENCY, THROUGHPUT or CUMULATIVE_THROUGHPUT", value)
    return {"performance_hint": hint}


def _streams(name: str, value: object, remark: Remark) -> Document:
    if str(value).upper().endswith("_AUTO"):
        return {"performance_hint": "throughput"}
    return {"streams": _number(name, value)}


def _threads(name: str, value: object, remark: Remark) -> Document:
    return {"threads": _number(name, value)}


def _number(name: str, value: object) -> int | None:
    """0 and AUTO leave it to the runtime."""
    text = str(value).upper()
    if text in ("AUTO", "NUMA"):
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise _unfit(f"plugin_config.{name}", "a number or AUTO", value)
    return int(text) or None


def _precision(name: str, value: object, remark: Remark) -> Document:
    return {"precision": str(value).lower()}


def _cache_dir(name: str, value: object, remark: Remark) -> Document:
    remark(f"plugin_config.{name} has no effect here: --cache-dir is for all models")
    return {}


PROPERTIES: Final[Mapping[str, Callable[[str, object, Remark], Document]]] = {
    "PERFORMANCE_HINT": _hint,
    "NUM_STREAMS": _streams,
    "CPU_THROUGHPUT_STREAMS": _streams,
    "GPU_THROUGHPUT_STREAMS": _streams,
    "INFERENCE_NUM_THREADS": _threads,
    "CPU_THREADS_NUM": _threads,
    "INFERENCE_PRECISION_HINT": _precision,
    "CACHE_DIR": _cache_dir,
}
"""Those that are not simply passed on to OpenVINO."""

KEYS: Final[Mapping[str, Callable[[object, Remark], Document] | None]] = {
    "name": None,
    "base_path": None,
    "model_version_policy": _version_policy,
    "target_device": _target_device,
    "nireq": _nireq,
    "batch_size": _batch_size,
    "shape": _shape,
    "layout": _layout,
    "plugin_config": _plugin_config,
}
"""Those of an entry that are served."""


def _unfit(what: str, expected: str, given: object) -> ConfigError:
    return ConfigError(f"{what}: expected {expected}, got {_shown(given)}")


def _shown(value: object) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
