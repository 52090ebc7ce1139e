"""Whether an object of KServe's API has only fields that KServe knows, of the types that it expects.

Knows KServe's and Kubernetes' Python models, which are generated from the same Go types as the CRDs: a dictionary from
a field's name to its JSON key, and one to its type. Tests call it in a process of its own, as they do `kserve_calls`.
Invariant: every value of an object is visited, or complained of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

PRIMITIVES: Final[dict[str, type | tuple[type, ...]]] = {"str": str, "int": int, "bool": bool, "float": (int, float)}
QUANTITIES: Final = {"ResourceQuantity", "V1beta1MetricQuantity", "IntOrString"}
"""Written as text or as a number; Kubernetes' own models have no classes for them."""
UNTYPED: Final = {"object", "V1Time"}
KINDS: Final = {
    ("serving.kserve.io/v1alpha1", "ClusterServingRuntime"): "V1alpha1ClusterServingRuntime",
    ("serving.kserve.io/v1alpha1", "ServingRuntime"): "V1alpha1ServingRuntime",
    ("serving.kserve.io/v1alpha1", "TrainedModel"): "V1alpha1TrainedModel",
    ("serving.kserve.io/v1beta1", "InferenceService"): "V1beta1InferenceService",
}


def complaints(document: dict[str, Any]) -> list[str]:
    """What is wrong with an object, of any of the kinds."""
    kind = (document.get("apiVersion"), document.get("kind"))
    if kind not in KINDS:
        return [f"no kind of KServe's: {kind}"]
    return list(_check(document, KINDS[kind], str(kind[1])))


def _check(value: Any, kind: str, place: str) -> Iterator[str]:
    items = re.fullmatch(r"[Ll]ist\[(.+)\]", kind)
    values = re.fullmatch(r"[Dd]ict(?:\(|\[)str, (.+)[)\]]", kind)
    if items:
        yield from _check_all(value, list, ((str(i), each, items[1]) for i, each in _pairs(value)), place)
    elif values:
        yield from _check_all(value, dict, ((key, each, values[1]) for key, each in _pairs(value)), place)
    elif kind in PRIMITIVES or kind in QUANTITIES:
        allowed = PRIMITIVES.get(kind, (str, int, float))
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind != "bool"):
            yield f"{place}: expected {kind}, got {value!r}"
    elif kind not in UNTYPED:
        yield from _check_object(value, kind, place)


def _check_object(value: Any, kind: str, place: str) -> Iterator[str]:
    model = _model(kind)
    if model is None:
        yield f"{place}: there is no model of {kind}"
        return
    by_key = {key: (name, model.openapi_types[name]) for name, key in model.attribute_map.items()}
    known = ((key, each, by_key[key][1]) for key, each in _pairs(value) if key in by_key)
    yield from _check_all(value, dict, known, place)
    yield from (f"{place}.{key}: unknown to {kind}" for key, _ in _pairs(value) if key not in by_key)
    if isinstance(value, dict):
        try:
            model(**{by_key[key][0]: each for key, each in value.items() if key in by_key})
        except ValueError as exc:  # what is required
            yield f"{place}: {exc}"


def _check_all(value: Any, shape: type, children: Iterator[tuple[str, Any, str]], place: str) -> Iterator[str]:
    if not isinstance(value, shape):
        yield f"{place}: expected a {shape.__name__}, got {value!r}"
        return
    for name, child, kind in children:
        yield from _check(child, kind, f"{place}.{name}")


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, list) else []


def _model(kind: str) -> Any:
    """KServe's model of that name, else Kubernetes'."""
    import kserve.models
    import kubernetes.client

    plain = kind.removeprefix("K8sIoApiAppsV1").removeprefix("K8sIoApiAutoscalingV2")
    names = (kind, f"V1{plain}", f"V2{plain}")
    found = [getattr(module, name, None) for module in (kserve.models, kubernetes.client) for name in names]
    return next(filter(None, found), None)
