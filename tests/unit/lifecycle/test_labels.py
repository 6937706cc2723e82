"""Which class a stranger's label means."""

from __future__ import annotations

import pytest

from raycls.errors import UploadTooLargeError
from raycls.lifecycle.labels import class_of, resolve
from raycls.lifecycle.limits import UploadLimits
from tests.unit.lifecycle.pictures import CLASSES


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("cat", "cat"),
        (" Cat ", "cat"),
        ("cafe\u0301", "caf\u00e9"),
        ("big/cat", "big/cat"),
        ("\u06af\u0631\u0628\u0647\u200c\u0647\u0627", "\u06af\u0631\u0628\u0647\u200c\u0647\u0627"),
    ],
)
def test_a_label_finds_its_class_however_it_is_spelled(label: str, found: str) -> None:
    assert class_of(label, (*CLASSES, "caf\u00e9")) == found


def test_labels_are_resolved_together_and_refused_one_by_one() -> None:
    found = resolve(["Bird", "bird", "CAT", "..", "a\nb"], CLASSES, UploadLimits())
    assert found.class_of == {"Bird": "Bird", "bird": "Bird", "CAT": "cat"}
    assert set(found.refused) == {"..", "a\nb"}


def test_many_labels_are_refused() -> None:
    with pytest.raises(UploadTooLargeError, match="more than 2 different labels"):
        resolve(["a", "b", "c"], CLASSES, UploadLimits(labels=2))
