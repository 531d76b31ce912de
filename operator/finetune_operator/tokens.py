"""Who posts: a pod's projected service-account token, checked offline against the API server's published keys.

A token is good for one audience only, so one that was made for us opens nothing else, and one for the API server is
refused here. Time is the API server's, since its clock set the expiry.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import jwt

from finetune_api.names import PROGRESS_AUDIENCE
from finetune_operator.errors import ClusterError, OperatorError

Verdict = Literal["expired", "audience", "issuer", "signature", "claims"]
KeySet = Mapping[str, jwt.PyJWK]
"""Public keys by their id."""

# What Kubernetes signs with. A key fixes its own algorithm besides, so no token can choose how it is checked.
_ALGORITHMS: Final = ("RS256", "ES256", "ES384", "ES512")
_KEY_TYPES: Final = frozenset({"RSA", "EC"})
_MAX_TOKEN: Final = 8192
_REFETCH_EVERY_S: Final = 30.0
_RETRY_AFTER_S: Final = 2.0
_ISSUER_PATH: Final = "/.well-known/openid-configuration"
_KEYS_PATH: Final = "/openid/v1/jwks"


class TokenRefused(OperatorError):
    """The token does not show who posts; `verdict` is the check that failed."""

    def __init__(self, verdict: Verdict, message: str) -> None:
        """Keep the verdict."""
        super().__init__(message)
        self.verdict: Verdict = verdict


class UnknownKey(TokenRefused):
    """Signed with a key that is not among those known: rotated since, or not the API server's."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The pod that a token was made for."""

    namespace: str
    pod: str
    pod_uid: str
    service_account: str


class Verifier:
    """Checks tokens. Reads no clock and no network."""

    def __init__(self, issuer: str, audience: str = PROGRESS_AUDIENCE, leeway_s: float = 60.0) -> None:
        """Fix what a token must say.

        Args:
            issuer: The API server's service-account issuer.
            audience: Whom tokens must be made for.
            leeway_s: How far clocks may differ.
        """
        self._issuer = issuer
        self._audience = audience
        self._leeway_s = leeway_s

    def verify(self, token: str, keys: KeySet, now: datetime) -> Caller:
        """Check a token.

        Args:
            token: What came after `Bearer`.
            keys: The API server's public keys.
            now: The API server's time.

        Returns:
            Whom it was made for.

        Raises:
            TokenRefused: It does not hold; the verdict says what is wrong.
        """  # noqa: DOC502
        claims = self._signed(token, keys)
        # The signature comes first: nothing that an unsigned token says is told to anybody.
        if claims.get("iss") != self._issuer:
            raise TokenRefused("issuer", f"the issuer must be {self._issuer}, found {claims.get('iss')!r}")
        audience: Any = claims.get("aud")
        if self._audience not in ([audience] if isinstance(audience, str) else audience or ()):
            raise TokenRefused("audience", f"the audience must be {self._audience}, found {audience!r}")
        self._check_time(claims, now.timestamp())
        return _caller(claims)

    def _signed(self, token: str, keys: KeySet) -> Mapping[str, Any]:
        if len(token) > _MAX_TOKEN:
            raise TokenRefused("signature", f"the token has {len(token)} characters, at most {_MAX_TOKEN} are read")
        try:
            identity: Any = jwt.get_unverified_header(token).get("kid")
            if not isinstance(identity, str) or identity not in keys:
                raise UnknownKey("signature", f"signed with key {identity!r}, which the API server does not publish")
            # Times, issuer and audience are checked by us, against the API server's time.
            options: Any = {"verify_signature": True, "verify_exp": False, "verify_nbf": False, "verify_iat": False}
            options |= {"verify_aud": False, "verify_iss": False, "verify_sub": False, "verify_jti": False}
            return jwt.decode(token, keys[identity], algorithms=list(_ALGORITHMS), options=options)
        except jwt.PyJWTError as error:
            raise TokenRefused("signature", f"the signature does not hold: {error}") from error
        except (ValueError, TypeError, RecursionError) as error:
            raise TokenRefused("signature", f"not a token: {error}") from error

    def _check_time(self, claims: Mapping[str, Any], now_s: float) -> None:
        expires, begins = _number(claims.get("exp")), _number(claims.get("nbf", 0))
        # Written so that NaN fails.
        if not now_s <= expires + self._leeway_s:
            raise TokenRefused("expired", f"expired {now_s - expires:.0f} s ago")
        if not now_s >= begins - self._leeway_s:
            raise TokenRefused("expired", f"not valid before {begins - now_s:.0f} s from now")


class Keys:
    """The API server's public keys, fetched when a token names one that is not known, but not too often."""

    def __init__(
        self, fetch: Callable[[], Awaitable[Mapping[str, Any]]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start without keys.

        Args:
            fetch: Returns the JSON Web Key Set, or raises ClusterError.
            clock: Monotonic seconds.
        """
        self._fetch = fetch
        self._clock = clock
        self._next_at = float("-inf")
        self._lock = asyncio.Lock()
        self.known: KeySet = {}

    async def refetch(self) -> None:
        """Fetch the keys, unless that was just done; a caller that comes meanwhile waits for the same answer.

        Raises:
            ClusterError: The API server did not answer; the keys known so far stay.
        """
        async with self._lock:
            if self._clock() < self._next_at:
                return
            try:
                self.known = key_set(await self._fetch())
            except ClusterError:
                self._next_at = self._clock() + _RETRY_AFTER_S
                raise
            self._next_at = self._clock() + _REFETCH_EVERY_S


class Authority:
    """Tells who posts, with issuer and keys as the API server publishes them."""

    def __init__(self, get: Callable[[str], Awaitable[Mapping[str, Any]]], now: Callable[[], datetime]) -> None:
        """Remember where to ask; nothing is asked before the first token.

        Args:
            get: Returns the JSON of a path of the API server, or raises ClusterError.
            now: The API server's time.
        """
        self._get = get
        self._now = now
        self._keys = Keys(lambda: get(_KEYS_PATH))
        self._verifier: Verifier | None = None

    async def check(self, token: str) -> Caller:
        """Check a token.

        Args:
            token: What came after `Bearer`.

        Returns:
            Whom it was made for.

        Raises:
            TokenRefused: It does not hold.
            ClusterError: The API server's keys could not be read.
        """  # noqa: DOC502
        if self._verifier is None:
            self._verifier = Verifier(str((await self._get(_ISSUER_PATH))["issuer"]))
        try:
            return self._verifier.verify(token, self._keys.known, self._now())
        except UnknownKey:
            await self._keys.refetch()
        return self._verifier.verify(token, self._keys.known, self._now())


def key_set(document: Mapping[str, Any]) -> KeySet:
    """Return the usable keys of a JSON Web Key Set; a secret key among them would be no proof of anything."""
    keys: dict[str, jwt.PyJWK] = {}
    listed: Sequence[Mapping[str, Any]] = document.get("keys") or ()
    for each in listed:
        if each.get("kty") not in _KEY_TYPES or not isinstance(each.get("kid"), str):
            continue
        try:
            keys[each["kid"]] = jwt.PyJWK(dict(each))
        except jwt.PyJWTError:
            continue
    return keys


def _caller(claims: Mapping[str, Any]) -> Caller:
    bound: Any = claims.get("kubernetes.io")
    try:
        values = [bound["namespace"], bound["pod"]["name"], bound["pod"]["uid"], bound["serviceaccount"]["name"]]
    except (KeyError, TypeError) as error:
        raise TokenRefused("claims", f"the token is not bound to a pod: {error} is missing") from error
    if not all(isinstance(each, str) and each for each in values):
        raise TokenRefused("claims", "namespace, pod and service account must be texts")
    return Caller(*values)


def _number(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise TokenRefused("claims", f"exp and nbf must be numbers, found {value!r}")
