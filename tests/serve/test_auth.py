"""Authentication: when a service needs a token, and how the token file is read and made."""

import stat
import traceback

import pytest

from mindeye_dist.errors import DataError
from serve.auth import (
    DEFAULT_TOKEN_FILE,
    Tokens,
    ensure_default_token_file,
    is_loopback,
    open_tokens,
)

SECRET = "secret-of-this-test-0123456789"
OTHER = "another-secret-of-this-test-42"
LOOPBACK = ["localhost", "127.0.0.1", "127.8.9.10", "::1", "0:0:0:0:0:0:0:1"]
PUBLIC = ["0.0.0.0", "::", "192.168.1.5", "10.0.0.1", "8.8.8.8", "fe80::1", "example.org", "", "*"]
PUBLIC += [
    "localhost.example.org",
    "127.0.0.1.example.org",
    "0",
    "128.0.0.1",
    "127.1",
    " 127.0.0.1",
]


@pytest.fixture
def token_file(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"{SECRET}\n\n  {OTHER}  \n")
    return file


@pytest.mark.parametrize("host", PUBLIC)
def test_public_hosts_need_a_token_file(host, token_file):
    assert not is_loopback(host)
    for file, required in (("", True), ("", False), (str(token_file), False)):
        with pytest.raises(DataError, match="it needs a token_file"):
            open_tokens(file, required=required, host=host)
    assert open_tokens(str(token_file), required=True, host=host)


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_hosts_need_no_token_file(host, token_file):
    assert is_loopback(host)
    assert open_tokens("", required=False, host=host) is None
    assert open_tokens(str(token_file), required=False, host=host) is None
    assert open_tokens(str(token_file), required=True, host=host)


def test_default_token_is_made_once_for_its_owner_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    tokens = open_tokens("", required=True, host="127.0.0.1")
    file = tmp_path / DEFAULT_TOKEN_FILE.removeprefix("~/")
    made = file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert len(made) >= 43  # 32 random bytes
    assert tokens.accepts(f"Bearer {made}".encode())
    assert ensure_default_token_file().read_text().strip() == made
    file.unlink()
    assert ensure_default_token_file().read_text().strip() != made


def test_only_tokens_of_the_file_are_accepted(token_file):
    tokens = Tokens(token_file)
    for word in (SECRET, OTHER):
        for scheme in ("Bearer", "bearer", "BEARER"):
            assert tokens.accepts(f"{scheme} {word}".encode())
    for given in (
        b"",
        b"Bearer",
        b"Bearer ",
        SECRET.encode(),
        f"Basic {SECRET}".encode(),
        f"Bearer{SECRET}".encode(),
        f"Bearer {SECRET[:-1]}".encode(),
        f"Bearer {SECRET}x".encode(),
        f"Bearer {SECRET.upper()}".encode(),
        f"Bearer {SECRET} {OTHER}".encode(),
        f"Bearer {SECRET}\n{OTHER}".encode(),
        f"Bearer {SECRET}, Bearer {OTHER}".encode(),
        b"Bearer \xff\xfe",
        b"Bearer " + b"x" * 10**6,
    ):
        assert not tokens.accepts(given)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n \n\t\n", b"short\n", SECRET.encode() + b"\nshort\n", b"\xff\xfe" + SECRET.encode()],
    ids=["empty", "blank", "short", "one short", "no UTF-8"],
)
def test_files_without_a_good_token_are_refused_without_naming_one(content, tmp_path):
    file = tmp_path / "tokens"
    file.write_bytes(content)
    check_refused(file)


def test_unreadable_files_are_refused(tmp_path):
    check_refused(tmp_path)
    check_refused(tmp_path / "none")


def check_refused(file):
    with pytest.raises(DataError, match="token_file: ") as refused:
        Tokens(file)
    message = "".join(traceback.format_exception(refused.value))
    assert str(file) in message
    assert SECRET not in message
    assert "short" not in message.replace("shorter", "")


def test_tokens_are_kept_as_digests(token_file):
    tokens = Tokens(token_file)
    assert SECRET not in repr(tokens) + str(tokens) + repr(vars(tokens))
    assert SECRET.encode() not in b"".join(vars(tokens)["_digests"])
