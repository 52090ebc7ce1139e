"""The tree of domain errors, split by who must act.

    VintnerError
      RequestError             the client must change the request or its credentials
        InvalidArgument          INVALID_ARGUMENT
          ContextExceeded
        NotFound                 NOT_FOUND
        AlreadyExists            ALREADY_EXISTS
        TooLarge                 RESOURCE_EXHAUSTED
        Unauthenticated          UNAUTHENTICATED
        PermissionDenied         PERMISSION_DENIED
        Unsupported              UNIMPLEMENTED
      Unavailable              UNAVAILABLE: the same request may succeed later
        QueueFull, QueueTimeout, ModelNotReady, Stopping
      Expired                  the client stopped waiting
        DeadlineExceeded         DEADLINE_EXCEEDED
        Cancelled                CANCELLED
      BackendError             INTERNAL: the runtime library failed on a valid request
      Internal                 INTERNAL: a bug of ours, which has been logged
      OperatorError            whoever runs the server must act; never sent to a client as it is
        ConfigError, LoadError

`code` is the name of the gRPC status; REST derives its status from the same name, in `http_server`. Any other
exception that reaches a front end is our bug: it is logged with its traceback and answered INTERNAL without its text.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class VintnerError(Exception):
    """Root of all errors that Vintner raises on purpose. `outcome` is its label in the metrics."""

    code: ClassVar[str] = "INTERNAL"
    outcome: ClassVar[str] = "internal"

    @property
    def message(self) -> str:
        return str(self)


class RequestError(VintnerError):
    """The client must change something before it tries again: `param`, where that can be said."""

    code = "INVALID_ARGUMENT"
    outcome = "invalid_argument"

    def __init__(self, message: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidArgument(RequestError):
    """Malformed request, or one that contradicts the model."""


class ContextExceeded(InvalidArgument):
    """The prompt, with what is to be generated, is longer than the model's context."""


class NotFound(RequestError):
    """No such model, version or route."""

    code = "NOT_FOUND"
    outcome = "not_found"


class AlreadyExists(RequestError):
    """The name is taken."""

    code = "ALREADY_EXISTS"


class TooLarge(RequestError):
    """The body or message is over the configured limit."""

    code = "RESOURCE_EXHAUSTED"
    outcome = "too_large"


class Unauthenticated(RequestError):
    """Credentials are missing or wrong."""

    code = "UNAUTHENTICATED"
    outcome = "unauthenticated"


class PermissionDenied(RequestError):
    """The credentials are good and do not allow this."""

    code = "PERMISSION_DENIED"
    outcome = "permission_denied"


class Unsupported(RequestError):
    """The protocol knows this, this server does not do it."""

    code = "UNIMPLEMENTED"
    outcome = "unsupported"


class Unavailable(VintnerError):
    """A retry can cure this; `retry_after` says in how many seconds to try."""

    code = "UNAVAILABLE"
    outcome = "unavailable"
    retry_after: ClassVar[int] = 1


class QueueFull(Unavailable):
    """The bounded queue of a model, or of the server, has no place."""

    outcome = "queue_full"


class QueueTimeout(Unavailable):
    """The request waited for longer than it, or its model's configuration, allows."""

    outcome = "queue_timeout"


class ModelNotReady(Unavailable):
    """The model is known, and loading, failed, unloading or unloaded."""

    outcome = "not_ready"
    retry_after = 2


class Stopping(Unavailable):
    """The server is on its way out."""

    outcome = "stopping"


class Expired(VintnerError):
    """Nobody waits for the answer any more."""

    code = "DEADLINE_EXCEEDED"
    outcome = "deadline_exceeded"


class DeadlineExceeded(Expired):
    """The request's deadline passed before its answer was there."""


class Cancelled(Expired):
    """The client went away."""

    code = "CANCELLED"
    outcome = "cancelled"


class BackendError(VintnerError):
    """The runtime library failed while it ran a batch; the text is the library's, without a stack trace."""

    outcome = "backend"


class Internal(VintnerError):
    """Stands for an exception that is a bug of ours and has been logged; its own text is not for clients."""

    def __init__(self) -> None:
        super().__init__("internal error; the server's log has the details")


class OperatorError(VintnerError):
    """Whoever runs the server must change a file, an option or the machine."""


class ConfigError(OperatorError):
    """An option, a configuration file or a repository layout is wrong."""


class LoadError(OperatorError):
    """A model version could not be loaded; the text is the reason that the index shows."""


def outcome_of(error: Exception) -> str:
    """Its label in the metrics, whatever it is: what was not raised on purpose is a bug of ours."""
    return error.outcome if isinstance(error, VintnerError) else VintnerError.outcome


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a message about an unknown name: `; did you mean 'x'?`, or the list of what there is."""
    choices = sorted(known)
    guess = close_to(name, choices)
    if guess:
        return guess
    return f"; expected one of: {', '.join(choices)}" if choices else ""


def close_to(name: str, known: Iterable[str]) -> str:
    """The first of these hints, or nothing: for where there is too much to be listed."""
    close = get_close_matches(name[:64], known, n=1, cutoff=0.6)  # its cost grows with the name, which may be hostile
    return f"; did you mean '{close[0]}'?" if close else ""
