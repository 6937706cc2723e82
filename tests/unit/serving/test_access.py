"""Who may do what: roles, hosts and origins."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.datastructures import Headers

from raycls.serving import auth, state, tokens
from raycls.serving.access import OPEN, Access
from raycls.serving.replica.answer import HTTPProblem
from raycls.serving.state import ROLES, Follower, Role

SECRET = "correct-horse-battery-staple"


def _bearer(secret: str) -> Headers:
    return Headers({"Authorization": f"Bearer {secret}"})


def _status(access: Access, headers: Headers, role: Role) -> int:
    try:
        access.check_role(headers, role)
    except HTTPProblem as problem:
        assert (problem.headers == {"WWW-Authenticate": "Bearer"}) == (problem.status == 401)
        return problem.status
    return 200


def test_each_role_opens_its_own_routes_and_admin_opens_all(home: Path) -> None:
    secrets = {role: tokens.add(f"for-{role}", [role]) for role in ROLES}
    access = Access(Follower(), host="127.0.0.1")
    for role in ROLES:
        for needed in ROLES:
            expected = 200 if role in (needed, "admin") else 403
            assert _status(access, _bearer(secrets[role]), needed) == expected, (role, needed)
        assert _status(access, Headers(), role) == 401
    assert access.check_role(_bearer(secrets["admin"]), "contribute") == "for-admin"


def test_a_token_may_have_several_roles(home: Path) -> None:
    secret = tokens.add("annotator", ["predict", "contribute", "predict"])
    access = Access(Follower(), host="127.0.0.1")
    assert [_status(access, _bearer(secret), role) for role in ROLES] == [200, 200, 403]


def test_without_a_token_predictions_are_open_on_loopback_and_nothing_else_is(home: Path) -> None:
    access = Access(Follower(), host="127.0.0.1")
    assert access.check_role(Headers(), "predict") == OPEN
    for role in ("contribute", "admin"):
        with pytest.raises(HTTPProblem, match=f"raycls tokens add NAME --role {role}") as caught:
            access.check_role(_bearer(SECRET), role)
        assert caught.value.status == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", None])
def test_where_others_reach_the_server_predictions_need_a_token_even_when_the_last_is_revoked(
    home: Path, host: str | None
) -> None:
    secret = tokens.add("client", ["predict"])
    access = Access(Follower(), host=host)
    assert _status(access, _bearer(secret), "predict") == 200
    tokens.revoke("client")
    access.refresh()
    assert _status(access, _bearer(secret), "predict") == 401
    assert _status(access, Headers(), "predict") == 401
    assert _status(Access(Follower(), host=host, no_auth=True), Headers(), "predict") == 200


def test_an_admin_token_does_not_close_predictions_and_a_predict_token_does(home: Path) -> None:
    access = Access(Follower(), host="127.0.0.1")
    tokens.ensure_admin()
    access.refresh()
    assert _status(access, Headers(), "predict") == 200
    secret = tokens.add("client", ["predict"])
    access.refresh()
    assert _status(access, Headers(), "predict") == 401
    assert _status(access, _bearer(secret), "predict") == 200


def test_the_token_of_the_environment_predicts_and_does_nothing_else(home: Path) -> None:
    tokens.ensure_admin()
    tokens.add("annotator", ["contribute"])
    digest = auth.digest(SECRET)
    access = Access(Follower(), host="127.0.0.1", token_sha256=digest)
    assert [_status(access, _bearer(SECRET), role) for role in ROLES] == [200, 403, 403]
    assert _status(access, Headers({"authorization": f"bearer {SECRET}"}), "predict") == 200
    wrong = (f"Bearer {SECRET}x", f"Basic {SECRET}", SECRET, "Bearer", f"Bearer {digest}", "Bearer \xff")
    for given in wrong:
        assert [_status(access, Headers({"Authorization": given}), role) for role in ROLES] == [401] * 3


@pytest.mark.parametrize(
    ("listens", "own", "foreign"),
    [
        (
            "127.0.0.1",
            ["127.0.0.1", "127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000", "127.0.0.9"],
            [
                "evil.example",
                "10.0.0.1:8000",
                "localhost.evil.example",
                "",
                "a b",
                "127.0.0.1@evil.example",
                "x/y",
            ],
        ),
        (
            "0.0.0.0",
            ["10.0.0.1:8000", "localhost", "[fe80::1]:8000", "203.0.113.7"],
            ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""],
        ),
    ],
)
def test_a_server_answers_to_its_own_names(
    home: Path, listens: str, own: list[str], foreign: list[str]
) -> None:
    access = Access(Follower(), host=listens)
    for _ in range(2):  # a good one is remembered
        for name in own:
            access.check_host(Headers({"Host": name}))
        for name in foreign:
            with pytest.raises(HTTPProblem, match="add the name to allowed_hosts") as caught:
                access.check_host(Headers({"Host": name}))
            assert caught.value.status == 421
    named = Access(Follower(), host=listens, allowed_hosts=["Models.example.org"])
    named.check_host(Headers({"Host": "models.example.org:443"}))
    Access(Follower(), host=listens, allowed_hosts=["*"]).check_host(Headers({"Host": "evil.example"}))


def test_a_page_of_another_site_changes_nothing(home: Path) -> None:
    access = Access(Follower(), host="127.0.0.1", no_auth=True)
    host = {"Host": "127.0.0.1:8000"}
    access.check_origin(Headers(host))
    access.check_origin(Headers(host | {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}))
    for foreign in (
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:9000"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "cross-site"},
    ):
        with pytest.raises(HTTPProblem, match="another site") as caught:
            access.check_origin(Headers(host | foreign))
        assert caught.value.status == 403


def test_a_follower_keeps_what_it_knows_where_the_file_is_damaged(home: Path) -> None:
    secret = tokens.add("client", ["predict"])
    follower = Follower()
    access = Access(follower, host="127.0.0.1")
    path = Path(state.place().full(state.FILE))
    content = path.read_bytes()
    path.write_text("{")
    assert not follower.look()
    assert _status(access, _bearer(secret), "predict") == 200
    assert _status(access, Headers(), "predict") == 401
    path.write_bytes(content.replace(b"client", b"renamed"))
    assert follower.look()
    assert access.check_role(_bearer(secret), "predict") == "renamed"
