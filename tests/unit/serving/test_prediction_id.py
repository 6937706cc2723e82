"""The id of an answer: what it says, and that nobody else can issue one."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta

import pytest

from raycls.errors import UsageError
from raycls.serving.prediction_id import Signer, read

KEY = secrets.token_hex(32)


def test_an_id_says_what_was_predicted() -> None:
    text = Signer(KEY, "pets/7").sign([(3, 0.75), (65_000, 1.0), (0, 0.0)])
    claims = read(KEY, text)
    assert claims.model == "pets/7"
    assert [index for index, _ in claims.predicted] == [3, 65_000, 0]
    assert [share for _, share in claims.predicted] == pytest.approx([0.75, 1, 0], abs=1e-4)
    assert timedelta(0) <= datetime.now(UTC) - claims.time < timedelta(minutes=1)


def test_no_two_ids_are_the_same() -> None:
    signers = [Signer(KEY, "pets/7") for _ in range(2)]
    assert len({signer.sign([(0, 0.5)]) for signer in signers for _ in range(1000)}) == 2000


def test_whatever_is_changed_is_noticed() -> None:
    text = Signer(KEY, "pets/7").sign([(3, 0.75)])
    changed = [text[:i] + ("0" if text[i] != "0" else "1") + text[i + 1 :] for i in range(len(text))]
    for wrong in [
        *changed,
        "",
        "00",
        "é",
        "not hex",
        text[:-2],
        text + "00",
        text * 2,
        "0" * 10_000,
        f" {text}",
        f"{text[:2]} {text[2:]}",
    ]:
        with pytest.raises(UsageError, match="has not issued"):
            read(KEY, wrong)
    with pytest.raises(UsageError, match="has not issued"):
        read(secrets.token_hex(32), text)
    with pytest.raises(UsageError, match="has not issued"):
        read("", text)  # a server without a key issues none
