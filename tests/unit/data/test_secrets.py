"""What a URI holds that is secret is not shown."""

from __future__ import annotations

import pytest

from raycls.data.files import has_password, shown


@pytest.mark.parametrize(
    "uri", ["s3://KEY:SECRET@bucket/x", "s3://AKIA:ab/SECRET@bucket/x", "https://u:SECRET@h/a"]
)
def test_secrets_are_not_shown(uri: str) -> None:
    assert "SECRET" not in shown(uri)
    assert has_password(uri)
    assert shown("s3://bucket/a@b/c.png") == "s3://bucket/a@b/c.png"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abfs://c@a.net/x?client_secret=SECRET", "abfs://a.net/x?client_secret=…"),
        ("https://h/a.jpg?sv=SECRET&sig=SECRET%3D", "https://h/a.jpg?sv=…&sig=…"),
        ("https://h/a.jpg?SECRET", "https://h/a.jpg?…"),
        ("'s3://b/x?key=SECRET': gone, 3 of 4?", "'s3://b/x?key=…': gone, 3 of 4?"),
        ("is it s3://b/x? or s3://b/y?a=SECRET, then", "is it s3://b/x? or s3://b/y?a=…, then"),
        ("why? photos/a?b=c.png", "why? photos/a?b=c.png"),
    ],
)
def test_values_after_the_question_mark_of_a_uri_are_not_shown(text: str, expected: str) -> None:
    assert shown(text) == expected


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/a@b/c.png",
        "s3://bucket/12:30@noon.png",
        "http://host:8080/a@b.png",
        "gs://anonymous@bucket/a.png",
        "abfs://container@account.dfs.core.windows.net/a.png",
    ],
)
def test_a_name_or_a_port_is_no_password(uri: str) -> None:
    assert not has_password(uri)
