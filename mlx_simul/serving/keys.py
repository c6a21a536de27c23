"""Who may use a server: keys from a file, and short-lived secrets for pages."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

from mlx_simul.errors import InvalidOptionError

MIN_KEY_CHARS = 16
MAX_KEY_FILE_BYTES = 1_048_576
MAX_SECRETS = 10_000
"""The most secrets of one owner at a time."""

LOCAL = "local"
"""The owner of every session of a server without keys."""


def read_keys(path: Path) -> dict[str, str]:
    """Keys and the names of their owners.

    Args:
        path: of a file with a name and a key on each line; ``#`` begins a comment.

    Returns:
        For each key its owner.

    Raises:
        InvalidOptionError: if it cannot be read, or a line is wrong; no key is in the message.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_FILE_BYTES + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOptionError(f"the key file {path} cannot be read: {error}.") from error
    if len(data) > MAX_KEY_FILE_BYTES:
        raise InvalidOptionError(
            f"the key file {path} has more than {MAX_KEY_FILE_BYTES} bytes; split its users."
        )
    owners: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or len(words[1]) < MIN_KEY_CHARS:
            raise InvalidOptionError(
                f"{path}, line {number}: a line must be a name and a key of at least "
                f"{MIN_KEY_CHARS} characters without spaces."
            )
        owners[words[1]] = words[0]
    if not owners:
        raise InvalidOptionError(f"the key file {path} has no keys.")
    return owners


class Keys:
    """Decides whose a key is. Keys are compared in constant time, and kept as hashes.

    Args:
        owners: for each key its owner; None asks for no key.
        clock_s: seconds since 1970, to let secrets expire.
    """

    def __init__(
        self, owners: Mapping[str, str] | None, clock_s: Callable[[], float] = time.time
    ) -> None:
        self._owners = None if owners is None else {_hash(key): who for key, who in owners.items()}
        self._clock_s = clock_s
        self._secrets: dict[bytes, tuple[str, float]] = {}

    @property
    def needed(self) -> bool:
        """Whether a client has to have one."""
        return self._owners is not None

    def owner(self, key: str | None) -> str | None:
        """The owner of a key or a secret; None if it is nobody's.

        Args:
            key: what the client gave; None if nothing.
        """
        found = self.owner_of_key(key)
        if found is not None or key is None:
            return found
        owner, expires_s = self._secrets.get(_hash(key), (None, 0.0))
        return owner if self._clock_s() < expires_s else None

    def owner_of_key(self, key: str | None) -> str | None:
        """The owner of a key; a secret does not count as one."""
        if self._owners is None:
            return LOCAL
        if key is None:
            return None
        given, found = _hash(key), None
        for known, owner in self._owners.items():
            if hmac.compare_digest(known, given):
                found = owner
        return found

    def make_secret(self, owner: str, lifetime_s: float) -> tuple[str, int]:
        """A secret that stands for its owner's key for a while, and when it expires.

        Raises:
            OverflowError: if its owner has too many already.
        """
        now_s = self._clock_s()
        self._secrets = {key: each for key, each in self._secrets.items() if now_s < each[1]}
        if sum(who == owner for who, _ in self._secrets.values()) >= MAX_SECRETS:
            raise OverflowError(
                f"{MAX_SECRETS} secrets of this key's owner have not expired; wait until some have"
            )
        secret = f"ek_{secrets.token_urlsafe(24)}"
        expires_s = int(now_s + lifetime_s)
        self._secrets[_hash(secret)] = (owner, expires_s)
        return secret, expires_s


def _hash(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogatepass")).digest()
