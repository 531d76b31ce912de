"""FAULTS 39 and 49: which tokens are believed, and when keys are asked for again."""

import asyncio
import base64
import json
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from finetune_api.names import PROGRESS_AUDIENCE
from finetune_operator.errors import Unreachable
from finetune_operator.tokens import Authority, Caller, Keys, TokenRefused, UnknownKey, Verifier, key_set

ISSUER = "https://kubernetes.default.svc"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CALLER = Caller("ml", "sentiment-abc-0-x7k2p", "pod-uid", "default")


@cache
def private_key(name: str) -> Any:
    return ec.generate_private_key(ec.SECP256R1()) if name.startswith("ec") else rsa.generate_private_key(65537, 2048)


def public_jwk(name: str) -> dict[str, Any]:
    algorithm = jwt.algorithms.ECAlgorithm if name.startswith("ec") else jwt.algorithms.RSAAlgorithm
    kind = "ES256" if name.startswith("ec") else "RS256"
    found: dict[str, Any] = algorithm.to_jwk(private_key(name).public_key(), as_dict=True)
    return found | {"kid": name, "use": "sig", "alg": kind}


def claims(**changes: Any) -> dict[str, Any]:
    bound = {
        "namespace": CALLER.namespace,
        "node": {"name": "node-1", "uid": "n"},
        "pod": {"name": CALLER.pod, "uid": CALLER.pod_uid},
        "serviceaccount": {"name": CALLER.service_account, "uid": "s"},
    }
    made = int(NOON.timestamp())
    found = {
        "aud": [PROGRESS_AUDIENCE],
        "iss": ISSUER,
        "sub": "system:serviceaccount:ml:default",
        "iat": made,
        "nbf": made,
        "exp": made + 3600,
        "kubernetes.io": bound,
    }
    return {name: value for name, value in (found | changes).items() if value is not None}


def token(key: str = "rsa-1", kid: str | None = None, **changes: Any) -> str:
    algorithm = "ES256" if key.startswith("ec") else "RS256"
    return jwt.encode(claims(**changes), private_key(key), algorithm=algorithm, headers={"kid": kid or key})


def verify(text: str, now: datetime = NOON) -> Caller:
    keys = key_set({"keys": [public_jwk("rsa-1"), public_jwk("ec-1")]})
    return Verifier(ISSUER).verify(text, keys, now)


@pytest.mark.parametrize("key", ["rsa-1", "ec-1"])
def test_a_pods_token_for_us_tells_the_pod(key: str):
    assert verify(token(key)) == CALLER


def test_the_audience_may_be_one_text_or_a_list_that_names_us():
    assert verify(token(aud=PROGRESS_AUDIENCE)) == CALLER
    assert verify(token(aud=["other", PROGRESS_AUDIENCE])) == CALLER


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"aud": ["https://kubernetes.default.svc"]}, "audience"),
        ({"aud": None}, "audience"),
        ({"aud": PROGRESS_AUDIENCE + "x"}, "audience"),
        ({"iss": "https://other"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"exp": None}, "claims"),
        ({"exp": "tomorrow"}, "claims"),
        ({"kubernetes.io": None}, "claims"),
        ({"kubernetes.io": {"namespace": "ml", "serviceaccount": {"name": "default", "uid": "s"}}}, "claims"),
        ({"kubernetes.io": {"namespace": "ml", "pod": None, "serviceaccount": {"name": "default"}}}, "claims"),
        (
            {"kubernetes.io": {"namespace": 7, "pod": {"name": "p", "uid": "u"}, "serviceaccount": {"name": "d"}}},
            "claims",
        ),
        ({"kubernetes.io": "text"}, "claims"),
    ],
)
def test_a_token_that_says_something_else_is_refused(changes: dict[str, Any], verdict: str):
    with pytest.raises(TokenRefused) as refused:
        verify(token(**changes))

    assert refused.value.verdict == verdict


def test_the_clocks_may_differ_by_a_minute_and_no_more():
    expiry = NOON + timedelta(hours=1)
    assert verify(token(), expiry + timedelta(seconds=59)) == CALLER
    assert verify(token(), NOON - timedelta(seconds=59)) == CALLER

    for wrong in (expiry + timedelta(seconds=62), NOON - timedelta(seconds=62)):
        with pytest.raises(TokenRefused) as refused:
            verify(token(), wrong)
        assert refused.value.verdict == "expired"


def encoded(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def forged() -> dict[str, str]:
    header, body, signature = token().split(".")
    pem = (
        private_key("rsa-1")
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    confused = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signed = f"{encoded({'alg': 'HS256', 'kid': 'rsa-1', 'typ': 'JWT'})}.{body}"
    mac = base64.urlsafe_b64encode(confused.sign(signed.encode(), pem)).rstrip(b"=").decode()
    brought = {"alg": "RS256", "kid": "x", "jwk": public_jwk("rsa-2")}
    other = claims() | {"kubernetes.io": claims()["kubernetes.io"] | {"namespace": "kube-system"}}
    return {
        "no algorithm": f"{encoded({'alg': 'none', 'kid': 'rsa-1'})}.{body}.",
        "the public key as a secret": f"{signed}.{mac}",
        "claims changed after signing": f"{header}.{encoded(other)}.{signature}",
        "another key under a known name": token("rsa-2", kid="rsa-1"),
        "the algorithm of another kind of key": token("ec-1", kid="rsa-1"),
        "no key name": jwt.encode(claims(), private_key("rsa-1"), algorithm="RS256"),
        "a key name that is no text": f"{encoded({'alg': 'RS256', 'kid': 7})}.{body}.{signature}",
        "a key brought along": f"{encoded(brought)}.{body}.{signature}",
        "not a token": "a.b.c",
        "not text": "é" * 10,
        "nothing": "",
        "too long": "x" * 9000,
        "deep": f"{base64.urlsafe_b64encode(b'[' * 5000).decode()}.{body}.{signature}",
    }


@pytest.mark.parametrize("how", forged())
def test_a_forged_token_is_refused_by_its_signature(how: str):
    with pytest.raises(TokenRefused) as refused:
        verify(forged()[how])

    assert refused.value.verdict == "signature"


def test_a_secret_key_in_the_key_set_is_never_used():
    secret = {"kty": "oct", "kid": "s", "alg": "HS256", "k": encoded("secret")}
    assert key_set({"keys": [secret, {"kty": "RSA"}, {"kty": "RSA", "kid": "broken"}, public_jwk("rsa-1")]}).keys() == {
        "rsa-1"
    }
    assert key_set({}) == {}


class ApiServer:
    """Publishes keys and counts how often it was asked."""

    def __init__(self, *names: str):
        self.names = list(names)
        self.asked = 0
        self.down = False

    async def get(self, path: str) -> dict[str, Any]:
        await asyncio.sleep(0)
        if self.down:
            raise Unreachable("down")
        if path == "/.well-known/openid-configuration":
            return {"issuer": ISSUER}
        assert path == "/openid/v1/jwks"
        self.asked += 1
        return {"keys": [public_jwk(each) for each in self.names]}


def test_keys_are_fetched_at_the_first_token_and_once_for_many_at_a_time():
    server = ApiServer("rsa-1")

    async def scenario() -> list[Caller]:
        authority = Authority(server.get, lambda: NOON)
        return await asyncio.gather(*(authority.check(token()) for _ in range(5)))

    assert asyncio.run(scenario()) == [CALLER] * 5
    assert server.asked == 1


def test_an_unknown_key_has_the_keys_fetched_again_but_not_within_30_s():
    server = ApiServer("rsa-1")
    seconds = [0.0]

    async def scenario() -> None:
        keys = Keys(lambda: server.get("/openid/v1/jwks"), lambda: seconds[0])
        await keys.refetch()
        server.names.append("rsa-2")
        seconds[0] = 29.0
        await keys.refetch()
        assert keys.known.keys() == {"rsa-1"}
        seconds[0] = 31.0
        await keys.refetch()
        assert keys.known.keys() == {"rsa-1", "rsa-2"}

    asyncio.run(scenario())
    assert server.asked == 2


def test_a_flood_of_unknown_keys_asks_the_api_server_once():
    server = ApiServer("rsa-1")

    async def scenario() -> None:
        authority = Authority(server.get, lambda: NOON)
        for _ in range(20):
            with pytest.raises(UnknownKey):
                await authority.check(token("rsa-2"))

    asyncio.run(scenario())
    assert server.asked == 1


def test_an_api_server_that_does_not_answer_is_no_verdict_and_keys_known_before_still_serve():
    server = ApiServer("rsa-1")

    async def scenario() -> None:
        authority = Authority(server.get, lambda: NOON)
        server.down = True
        with pytest.raises(Unreachable):
            await authority.check(token())
        server.down = False
        assert await authority.check(token()) == CALLER
        server.down = True
        assert await authority.check(token()) == CALLER

    asyncio.run(scenario())
