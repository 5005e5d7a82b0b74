"""Refusals of a Docker daemon, as the errors that jobs end with."""

from __future__ import annotations

import os
import re
import resource
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import docker.errors
import requests
import urllib3

from orqal.models import ErrorType

_MISSING = "not found|manifest unknown|does not exist|invalid reference"
"""How registries and the daemon report that an image does not exist."""
_NO_CREDENTIALS = "no basic auth credentials"
_NOT_ALLOWED = f"unauthorized|{_NO_CREDENTIALS}|denied|authentication required|incorrect username|forbidden"
_FOR_GOOD = "x509|certificate|HTTP response to HTTPS client|no matching manifest|unsupported|exec format"
"""Other refusals that would be repeated at a later attempt."""


class EngineError(Exception):
    """A daemon refuses or does not answer: the error that a job ends with."""

    def __init__(self, type: ErrorType, message: str, exit_code: int | None = None, *, passing: bool = False) -> None:
        super().__init__(message)
        self.type = type
        self.message = message
        self.exit_code = exit_code
        self.passing = passing
        """True if another attempt, later or on another host, may succeed."""

    def __reduce__(self) -> tuple[Any, ...]:
        """By default pickle would call __init__ with the message alone: actors raise this to each other."""
        return _unpickled, (type(self), self.args, vars(self))


def _unpickled(kind: type[EngineError], args: tuple[str, ...], facts: dict[str, Any]) -> EngineError:
    error = kind.__new__(kind, *args)
    vars(error).update(facts)
    return error


class Unreachable(EngineError):
    """The daemon does not answer. It may have done what was asked, or not."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorType.DOCKER_ERROR, message, passing=True)


_MISSING_COMMAND, _BARRED_COMMAND = 127, 126
"""The exit codes that shells and `docker run` have for these."""
_MISSING_COMMAND_WORDS = "the command does not exist in the image"
_BARRED_COMMAND_WORDS = "the command cannot be executed in the image"
_INIT_SAYS = re.compile(r"\[FATAL tini \(\d+\)\] (exec .+ failed: .+)\n")
"""What the init (tini, https://github.com/krallin/tini) prints if it cannot start the command, and nothing else."""


def not_executed(exit_code: int, stdout: str, stderr: str) -> str | None:
    """Why the init of a container could not start its command, in words; None if it could, as far as is known."""
    words = {_MISSING_COMMAND: _MISSING_COMMAND_WORDS, _BARRED_COMMAND: _BARRED_COMMAND_WORDS}.get(exit_code)
    if words is None or stdout or (said := _INIT_SAYS.fullmatch(stderr)) is None:
        return None
    return f"Docker would not start the container: {words}: {said[1]}"


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Turn the SDK's exceptions into EngineError, with words for the job's user."""
    try:
        yield
    except docker.errors.APIError as error:
        words, code = explanation(error), None
        no_init = "docker-init" in words
        if no_init:
            words = f"{words}. Its host's Docker has no init: install docker-init there, or use `init = False`"
        elif re.search(r"executable file not found|exec.*no such file or directory", words):
            code, words = _MISSING_COMMAND, f"{_MISSING_COMMAND_WORDS}: {words}"
        elif re.search(r"exec.*permission denied", words):
            code, words = _BARRED_COMMAND, f"{_BARRED_COMMAND_WORDS}: {words}"
        elif found := re.search(r"error setting rlimit type (\d+): operation not permitted", words):
            words = f"{words}. {_too_high(int(found[1]))}"
        passing = no_init or (code is None and _passes(error))
        raise EngineError(
            ErrorType.DOCKER_ERROR, f"Docker would not {action}: {words}", code, passing=passing
        ) from error
    except (docker.errors.DockerException, requests.RequestException) as error:
        if distrust := _distrust(error):
            raise Unreachable(
                f"the Docker daemon at {os.environ.get('DOCKER_HOST')} and this machine differ about TLS: {distrust}. "
                "DOCKER_CERT_PATH must have ca.pem, of the authority that signed the daemon's certificate, and "
                "cert.pem and key.pem, signed by an authority that the daemon trusts; DOCKER_TLS_VERIFY=1 turns TLS on."
            ) from error
        raise Unreachable(
            f"the Docker daemon does not answer ({action}: {error}). Is it running? `docker info` shows it."
        ) from error


def _too_high(number: int) -> str:
    # NOFILE has an alias that comes after it.
    names = {getattr(resource, name): name[7:] for name in reversed(dir(resource)) if name.startswith("RLIMIT_")}
    name = names.get(number, str(number))
    return (
        f"The Docker daemon may not set the limit {name.lower()} so high: ask for less, or raise the daemon's own "
        f"(Limit{name}= in its systemd service)"
    )


def _distrust(error: BaseException) -> str | None:
    """What an error says about TLS; None if it is of another kind."""
    cause: BaseException | None = error
    while cause is not None:
        plainly = "HTTP request to an HTTPS server" in str(cause)
        if plainly or isinstance(cause, ssl.SSLError | urllib3.exceptions.SSLError | docker.errors.TLSParameterError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return None


def not_pulled(reference: str, words: str, status: int = 500) -> EngineError:
    """A pull that the registry or the daemon refused, for good or for now."""
    words = words.strip().rstrip(".")

    def says(pattern: str) -> bool:
        return re.search(pattern, words, re.IGNORECASE) is not None

    # Docker Hub and others answer "denied" for what does not exist. A newer daemon says so of missing credentials, too.
    if (status == 404 or says(_MISSING)) and not says(_NO_CREDENTIALS):
        return EngineError(
            ErrorType.IMAGE_NOT_FOUND,
            f"there is no image {reference!r}, neither on the host nor in its registry: {words}. "
            "Check the name and tag; a private registry may ask for `docker login` on the host.",
        )
    if says(_NOT_ALLOWED):
        return EngineError(
            ErrorType.PULL_FAILED,
            f"the registry does not let this host pull the image {reference!r}: unauthorized, it wants other "
            f"credentials ({words}). Put them on the host: `docker login` as the user that Orqal runs as, or the file "
            "that ORQAL_REGISTRY_AUTH names.",
        )
    return EngineError(
        ErrorType.PULL_FAILED,
        f"the image {reference!r} is not on the host and could not be pulled: {words}. "
        "Check the name, the registry and the host's network, or load it there (`docker load`, `docker import`).",
        passing=status >= 500 and not says(_FOR_GOOD),
    )


def broken_off(reference: str, error: Exception) -> Unreachable:
    """A pull during which the daemon went away or was silent."""
    return Unreachable(f"the Docker daemon went away, or was silent, during the pull of {reference!r}: {error}")


def explanation(error: docker.errors.APIError) -> str:
    """The daemon's own words, without a period at the end."""
    return str(error.explanation or error).strip().rstrip(".")


_OF_THE_REQUEST = (
    "unable to find (user|group)|no matching entries in (passwd|group)|could not select device driver|unresolvable CDI"
    "|no known GPU vendor"
    "|wrong rlimit value|error setting rlimit|is not a directory|invalid (mount|mode|volume)|exec format error"
    "|error mounting .*: (invalid argument|not a directory)"
)
"""What the daemon says, with a 5xx, of requests that it would refuse again."""


def _passes(error: docker.errors.APIError) -> bool:
    """True if the request is not to blame: the daemon is in trouble (its disk is full, say), or someone removed a
    container or image that existed a moment ago."""
    if re.search(_OF_THE_REQUEST, str(error.explanation), re.IGNORECASE):
        return False
    if error.status_code == 404:
        return re.search("No such (container|image)", str(error.explanation)) is not None
    return error.status_code is None or error.status_code in (408, 409, 429) or error.status_code >= 500
