"""One sender gives at most a tenth of a class."""

from __future__ import annotations

from raycls.data.senders import within_share


def test_shares_are_counted_for_each_class_and_source() -> None:
    former = [("a.png", "cat")] * 18 + [("uploads:ann", "cat")] * 1 + [("b.png", "dog")] * 8
    ann, bob = ("uploads:ann", "cat"), ("uploads:bob", "cat")
    assert within_share(former, [ann, bob, ann, bob, bob], ()) == [True, True, False, True, False]
    assert within_share(former, [("uploads:ann", "dog")], ()) == [False]
    assert within_share(former, [("uploads:ann", "dog")], {"uploads:ann"}) == [True]
