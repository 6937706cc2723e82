"""The id that an answer of /predict carries, with which a client says later what was right: `X-Prediction-Id`.

    signer = Signer(key, "pets/7")
    text = signer.sign([(3, 0.91)])         # one class index and confidence for each image
    claims = read(key, text)                # raises UsageError for an id that this server has not issued

The id holds what was predicted, signed, so that a server keeps nothing about predictions that nobody comments on. The
signature is keyed BLAKE2 (RFC 7693), which takes a microsecond. Whoever has the id can read the claims: they are the
answer.
"""

from __future__ import annotations

import hmac
import secrets
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import count

from raycls.errors import UsageError

HEADER = "X-Prediction-Id"
_SIGNATURE = 16  # bytes
_HEAD = struct.Struct(
    ">BIQB"
)  # version of the format, seconds since 1970, number, length of the model's reference
_IMAGE = struct.Struct(">HH")  # class index, confidence in units of 1/65535
_FORMAT = 1


@dataclass(frozen=True)
class Issued:
    """What was predicted. model: NAME/VERSION. predicted: class index and confidence (0..1) of each image, in order."""

    model: str
    time: datetime
    predicted: tuple[tuple[int, float], ...]


class Signer:
    """Issues the ids of one replica. key: hex."""

    def __init__(self, key: str, model: str):
        self._keyed, self._model = _keyed(bytes.fromhex(key)), model.encode()
        self._numbers = count(secrets.randbits(63))  # two replicas never issue the same id

    def sign(self, predicted: Sequence[tuple[int, float]]) -> str:
        """Return an id for the images of one request, each with its class index and confidence."""
        head = _HEAD.pack(_FORMAT, int(time.time()), next(self._numbers), len(self._model))
        images = [_IMAGE.pack(index, round(confidence * 0xFFFF)) for index, confidence in predicted]
        claims = head + self._model + b"".join(images)
        signature = self._keyed.copy()
        signature.update(claims)
        return (claims + signature.digest()).hex()


def read(key: str, text: str) -> Issued:
    """Return what an id says. Raises UsageError for one that was not issued with the key."""
    try:
        signed = bytes.fromhex(text)
        if signed.hex() != text.lower():  # fromhex passes over spaces, and an answer has one id
            raise ValueError
        claims, signature = signed[:-_SIGNATURE], signed[-_SIGNATURE:]
        expected = _keyed(bytes.fromhex(key))
        expected.update(claims)
        if not key or not hmac.compare_digest(signature, expected.digest()):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"this server has not issued the prediction id {text[:80]!r}: send an answer's {HEADER}"
        ) from None
    _, seconds, _, length = _HEAD.unpack_from(claims)
    model = claims[_HEAD.size : _HEAD.size + length].decode()
    images = _IMAGE.iter_unpack(claims[_HEAD.size + length :])
    predicted = tuple((index, share / 0xFFFF) for index, share in images)
    return Issued(model, datetime.fromtimestamp(seconds, UTC), predicted)


def _keyed(key: bytes) -> blake2b:
    return blake2b(key=key, digest_size=_SIGNATURE)
