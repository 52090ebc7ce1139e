"""What all routes of the OpenAI API have in common: their prefixes, how their bodies are read, how their errors look.

Knows none of them. Invariant: whatever goes wrong on such a route, its client gets an error in OpenAI's shape.
"""

from __future__ import annotations

from typing import Final

from vintner.http_body import Bodies, Place
from vintner.http_server import Method, Route, route
from vintner.http_transport import Environ
from vintner.json_text import parse_object
from vintner.openai_errors import openai_error
from vintner.openai_request import Parameters

PREFIX: Final = r"/(?:v1|openai/v1|v3)"
"""OpenAI's own, that of servers with other APIs under /v1, and OpenVINO Model Server's."""


def openai_route(path: str, **methods: Method) -> Route:
    """A route below each prefix; `path` is a pattern that begins with a slash."""
    return route(PREFIX + path, openai_error, **methods)


def read_parameters(environ: Environ, place: Place, bodies: Bodies) -> Parameters:
    """Those of the JSON object that is the body, whatever its content type says: curl's says that it is a form. Raises
    RequestError."""
    return Parameters(parse_object(place.read(environ), bodies.json))
