"""REST routes of Triton's shared memory extensions: what clients register, unregister and ask about.

Knows the regions, and nothing of inferences. CUDA's are answered as what is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from vintner.errors import InvalidArgument, Unsupported
from vintner.http_body import Bodies
from vintner.http_server import JSON, Route, route
from vintner.http_transport import Answer, Environ
from vintner.json_text import parse_object
from vintner.shared_memory import NO_CUDA, Regions

ONE: Final = "/region/(?P<region>[^/]+)"
EXPECTED: Final = "the body must be a JSON object with 'key', 'byte_size' and perhaps 'offset'"


class SharedMemory:
    """One method for each operation."""

    def __init__(self, regions: Regions, bodies: Bodies) -> None:
        self._regions = regions
        self._bodies = bodies

    @property
    def routes(self) -> Sequence[Route]:
        system, cuda = "/v2/systemsharedmemory", "/v2/cudasharedmemory"
        return [
            route(rf"{system}(?:{ONE})?/status", GET=self.status),
            route(rf"{system}{ONE}/register", POST=self.register),
            route(rf"{system}(?:{ONE})?/unregister", POST=self.unregister),
            route(rf"{cuda}(?:{ONE})?/status", GET=self.refuse_cuda),
            route(rf"{cuda}{ONE}/register", POST=self.refuse_cuda),
            route(rf"{cuda}(?:{ONE})?/unregister", POST=self.refuse_cuda),
        ]

    def status(self, environ: Environ, region: str) -> Answer:
        regions = self._regions.status(region)
        document = [{"name": r.name, "key": r.key, "offset": r.offset, "byte_size": r.size} for r in regions]
        return 200, (JSON,), orjson.dumps(document)

    def register(self, environ: Environ, region: str) -> Answer:
        self._regions.check_allowed()
        with self._bodies.one() as place:
            document = parse_object(place.read(environ), refusal=EXPECTED)
        key = document.get("key")
        if not isinstance(key, str):
            raise InvalidArgument("'key' must be a string, the name of a shared memory object")
        self._regions.register(region, key, _whole(document, "offset", 0), _whole(document, "byte_size"))
        return 200, (JSON,), b"{}"

    def unregister(self, environ: Environ, region: str) -> Answer:
        self._regions.unregister(region)
        return 200, (JSON,), b"{}"

    def refuse_cuda(self, environ: Environ, region: str = "") -> Answer:
        raise Unsupported(NO_CUDA)


def _whole(document: dict[str, Any], key: str, default: int | None = None) -> int:
    value = document.get(key, default)
    if type(value) is not int:
        raise InvalidArgument(f"'{key}' must be an integer, a number of bytes")
    return value
