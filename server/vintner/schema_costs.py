"""How long runtimes would take to follow a JSON schema, of what takes more than its length.

Measured with OpenVINO GenAI 2026.4.1 and ONNX Runtime GenAI 0.18: what one request's schema holds up, it holds up for
all requests of the model, and a hundred optional properties of which at most fifty may be there are enough for ever.
Knows nothing of what is valid: it is asked about schemas whose keywords have the right types. Invariant: schemas whose
costs add up to `MOST_COSTS` at most were seen to be compiled in about a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from vintner.regex_syntax import MOST_LOOSE, check_regex

PROPERTIES: Final = "its properties"
COUNTS: Final = "the items and properties that are counted"
PATTERNS: Final = "its patterns"

MOST_COSTS: Final[Mapping[str, int]] = {PROPERTIES: 512**2, COUNTS: 100_000, PATTERNS: MOST_LOOSE**2}
"""Of one request."""

_CHOSEN: Final = 5
"""By how much the square of optional properties costs more for each of those of which a number is given."""
_PATTERN: Final = 256
"""What any pattern of properties costs; a few hundred of them hang llguidance."""


def schema_costs(schema: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Of one schema without those within it: what it is that costs, and how much."""
    properties = schema.get("properties", {})
    optional = len(properties) - len({*schema.get("required", ())})
    counted = max(schema.get("minProperties", 0), schema.get("maxProperties", 0))
    yield PROPERTIES, max(len(properties) ** 2, _CHOSEN * counted * optional**2)
    yield COUNTS, counted + max(schema.get("minItems", 0), schema.get("maxItems", 0))
    if "pattern" in schema:
        yield PATTERNS, check_regex(schema["pattern"]) ** 2
    for pattern in schema.get("patternProperties", ()):
        yield PATTERNS, _PATTERN + check_regex(pattern) ** 2
