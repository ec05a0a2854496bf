"""Authentication: bearer tokens from a file, compared by their SHA-256 digests in constant time."""

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

MIN_TOKEN_CHARS = 16
DEFAULT_TOKEN_FILE = "~/.mindeye-dist/token"


class Tokens:
    """The tokens of a file, kept as digests alone.

    Args:
        path: text file with one token a line; empty lines are skipped.

    Raises:
        DataError: the file cannot be read, has no token, or has one that is too short.
    """

    def __init__(self, path: Path) -> None:
        try:
            tokens = [token for line in path.read_text().splitlines() if (token := line.strip())]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"token_file: {path} cannot be read: {error}") from error
        if not tokens or min(map(len, tokens)) < MIN_TOKEN_CHARS:
            raise DataError(
                f"token_file: {path}: expected tokens of at least {MIN_TOKEN_CHARS} characters, "
                "one a line"
            )
        self._digests = [_digest(token.encode()) for token in tokens]

    def accepts(self, authorization: bytes) -> bool:
        """Return whether a request's Authorization header carries one of the tokens."""
        scheme, _, token = authorization.partition(b" ")
        sent = _digest(token.strip())
        # All are compared, so that the time does not reveal a near match.
        matches = [hmac.compare_digest(sent, digest) for digest in self._digests]
        return scheme.lower() == b"bearer" and any(matches)


def open_tokens(token_file: str, *, required: bool, host: str) -> Tokens | None:
    """Read the tokens of a service that listens at `host`; None lets anybody ask.

    Raises:
        DataError: the host is reachable from other machines, and no token file of the user's own
            is required.
    """
    if not is_loopback(host) and not (required and token_file):
        raise DataError(
            f"the service would listen at {host}, where other machines reach it: it needs a "
            "token_file and require_token, or http_options.host 127.0.0.1"
        )
    if not required:
        return None
    return Tokens(Path(absolute_path(token_file)) if token_file else ensure_default_token_file())


def ensure_default_token_file() -> Path:
    """Return the file with the token of this user's services; write one if there is none."""
    path = Path(DEFAULT_TOKEN_FILE).expanduser()
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A temporary file is private and complete before the link gives it its name; another
        # process may link its own first, which then counts.
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:
            file.write(f"{secrets.token_urlsafe(32)}\n")
            file.flush()
            with suppress(FileExistsError):
                os.link(file.name, path)
    return path


def is_loopback(host: str) -> bool:
    """Return whether an address is reachable from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
