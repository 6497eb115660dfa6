"""Every error answer is one `Problem`: a class name and a plain sentence. A traceback goes to the log alone."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from engine.api_models import Problem
from engine.errors import (
    AdapterRejectedError,
    ConflictError,
    EnvironmentUnfitError,
    InputError,
    NotFoundError,
    RequestRefusedError,
    RuneError,
)
from registry import errors as registry_errors

MAX_MESSAGE = 600
"""Characters of a sentence that quotes what the client sent."""

EXPLANATIONS = {
    400: "The request cannot be read.",
    401: "On TCP every request carries the token of RUNE_HOME/run/token.",
    403: "The request comes from where none is taken from (Host or Origin header).",
    404: "There is nothing of that id.",
    405: "That route has no such method.",
    408: "The body did not arrive in time.",
    409: "Not possible in the present state.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "The request is not valid; the message names the field.",
    500: "An unexpected error; the log has the details.",
    503: "The engine cannot work as the machine is; the message says why.",
}

_GUARDED = (400, 401, 403, 408, 413, 415, 500, 503)
"""What any route may answer before it is reached, or when the machine fails."""

_FROM_REGISTRY: tuple[tuple[type[registry_errors.RegistryError], type[RuneError]], ...] = (
    (registry_errors.AdapterNotFound, NotFoundError),
    (registry_errors.AdapterAlreadyExists, ConflictError),
    (registry_errors.AdapterRejected, AdapterRejectedError),
    (registry_errors.AdapterQuarantined, ConflictError),
    (registry_errors.AdapterArchived, ConflictError),
    (registry_errors.TransitionRefused, ConflictError),
    (registry_errors.DatabaseError, EnvironmentUnfitError),
)

log = logging.getLogger(__name__)


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for the OpenAPI document."""
    return {
        status: {"model": Problem, "description": EXPLANATIONS[status]} for status in sorted({*statuses, *_GUARDED})
    }


def problem_response(status: int, kind: type[RuneError], message: str) -> Response:
    """A `Problem` as an HTTP answer. The message may quote hostile text: it is cut and made encodable."""
    clean = message.encode("utf-8", "replace").decode()
    body = Problem(error=kind.__name__, message=clean[:MAX_MESSAGE]).model_dump_json()
    return Response(body, status_code=status, media_type="application/json")


def install(app: FastAPI) -> None:
    """Let every exception of this program leave as a `Problem`."""
    app.add_exception_handler(RuneError, _rune_error)
    app.add_exception_handler(registry_errors.RegistryError, _registry_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)


async def _rune_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RuneError)
    return problem_response(error.status, type(error), str(error))


async def _registry_error(request: Request, error: Exception) -> Response:
    del request
    kind = next((ours for theirs, ours in _FROM_REGISTRY if isinstance(error, theirs)), RuneError)
    return problem_response(kind.status, kind, str(error))


async def _invalid(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return problem_response(422, InputError, f"{place}: {first['msg']}")


async def _http_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, HTTPException)
    kind = NotFoundError if error.status_code == 404 else RequestRefusedError
    return problem_response(error.status_code, kind, EXPLANATIONS.get(error.status_code, error.detail))


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("unexpected error in %s %s", request.method, request.url.path, exc_info=error)
    return problem_response(500, RuneError, "An unexpected error; the log in RUNE_HOME/logs has the details.")
