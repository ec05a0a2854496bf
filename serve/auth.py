"""Who may ask: bearer tokens from a file, compared by their digests in constant time."""

import hashlib
import hmac
import ipaddress
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from jobs.command import absolute_path
from mindeye_dist.errors import DataError

SHORTEST = 16
DEFAULT_FILE = "~/.mindeye-dist/token"


class Tokens:
    """The tokens of a file, of which only digests are kept.

    Args:
        path: one token a line; empty lines are no tokens.

    Raises:
        DataError: it cannot be read, or has no token, or one that is too short.
    """

    def __init__(self, path: Path) -> None:
        try:
            words = [word for line in path.read_text().splitlines() if (word := line.strip())]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"token_file: {path} cannot be read: {error}") from error
        if not words or min(map(len, words)) < SHORTEST:
            raise DataError(
                f"token_file: {path}: expected tokens of at least {SHORTEST} characters, one a line"
            )
        self._digests = [_digest(word.encode()) for word in words]

    def allow(self, authorization: bytes) -> bool:
        """Return whether a request's Authorization header bears one of the tokens."""
        scheme, _, word = authorization.partition(b" ")
        given = _digest(word.strip())
        # All are compared, so that the time does not tell which one is near.
        found = [hmac.compare_digest(given, known) for known in self._digests]
        return scheme.lower() == b"bearer" and any(found)


def default_token_file() -> Path:
    """Return the file with the token of this machine's services, made where there is none."""
    path = Path(DEFAULT_FILE).expanduser()
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Readable by its owner alone from the first moment, and whole; others may be as fast.
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:
            file.write(f"{secrets.token_urlsafe(32)}\n")
            file.flush()
            with suppress(FileExistsError):
                os.link(file.name, path)
    return path


def open_tokens(token_file: str, *, required: bool, host: str) -> Tokens | None:
    """Return who may ask a service that listens at `host`; None is anybody.

    Raises:
        DataError: others than this machine's users could ask without a token of their own file.
    """
    if not is_loopback(host) and not (required and token_file):
        raise DataError(
            f"the service would listen at {host}, where others reach it: it needs a token_file and "
            "require_token, or http_options.host 127.0.0.1"
        )
    if not required:
        return None
    return Tokens(Path(absolute_path(token_file)) if token_file else default_token_file())


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(word: bytes) -> bytes:
    return hashlib.sha256(word).digest()
