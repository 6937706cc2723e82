"""What a decoding task says of images that it cannot read."""

from __future__ import annotations

from raycls.data.ingest import decode_batch


def test_a_reason_tells_no_password_of_a_uri() -> None:
    (chunk,) = decode_batch([("file", "http://user:SECRET@127.0.0.1:9/cat.png", 0, 0)], 8, "crop", "packed")
    (row,) = chunk.rows.to_pylist()
    assert row["kind"] == "unreadable"
    assert row["reason"]
    assert "SECRET" not in str(row)


def test_a_batch_in_which_nothing_can_be_read_is_no_error() -> None:
    (chunk,) = decode_batch([("file", "/nowhere/at/all.png", 0, 0)], 8, "crop", "packed")
    assert chunk.images.shape == (0, 8, 8, 3)
    assert chunk.rows["reason"].to_pylist() == ["No such file or directory"]
