import pytest

from raycls.data.class_names import ClassNames, printable
from raycls.errors import DataError


def test_a_name_is_one_line_that_a_terminal_prints_as_it_is() -> None:
    assert printable("q\n0123  #\x1b[31m.png") == r"q\n0123  #\x1b[31m.png"
    assert printable("caf\udce9 \u2028 é 😀") == r"caf\xe9 \u2028 é 😀"


def test_names_are_sorted_and_later_ones_follow_the_former():
    assert ClassNames.of(["dog", "cat"]).classes == ("cat", "dog")
    assert ClassNames.of(["ant", "dog", "cat", "bee"], former=("cat", "dog")).classes == (
        "cat",
        "dog",
        "ant",
        "bee",
    )


def test_normal_forms_and_spaces_around_a_name_are_one_class(capsys):
    names = ClassNames.of(["caf\u00e9", "cafe\u0301", " tea ", "tea"])
    assert names.classes == ("caf\u00e9", "tea")
    assert {names.of_label[label] for label in ("caf\u00e9", "cafe\u0301")} == {"caf\u00e9"}
    assert "caf\u00e9, is spelled in 2 ways: 'caf\\xe9', 'cafe\\u0301'" in capsys.readouterr().err


def test_names_that_differ_in_case_are_refused_or_merged():
    with pytest.raises(
        DataError, match=r"the classes Cat and cat differ only in upper and lower case: .*--merge-case"
    ):
        ClassNames.of(["Cat", "cat", "dog"])
    merged = ClassNames.of(["Cat", "cat", "dog"], merge_case=True)
    assert merged.classes == ("Cat", "dog")
    assert merged.of_label["cat"] == "Cat"
    with pytest.raises(DataError, match="CAT and cat differ"):
        ClassNames.of(["CAT", "dog"], former=("cat", "dog"))
    assert ClassNames.of(["CAT", "dog"], former=("cat", "dog"), merge_case=True).of_label["CAT"] == "cat"


def test_numbers_stay_apart():
    names = ["0", "1", "2", "10", "11", "00", "1e3", "1.0", "-1"]
    assert ClassNames.of(names).classes == tuple(sorted(names))


@pytest.mark.parametrize("name", ["  ", "a\nb", "tab\t."])
def test_names_that_cannot_be_shown_are_refused(name):
    with pytest.raises(DataError, match="cannot name a class"):
        ClassNames.of([name, "dog"])


def test_bytes_that_are_no_utf8_are_shown_as_numbers():
    assert printable("caf\udce9") == "caf\\xe9"
    assert ClassNames.of(["caf\udce9", "tea"]).classes == ("caf\\xe9", "tea")
