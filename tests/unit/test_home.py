"""A temporary home: it replaces all places of the caller, which are restored afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycls import home as homes
from raycls.errors import ClusterError

THEIRS = {
    "RAYCLS_STORAGE": "s3://theirs/storage",
    "RAYCLS_STUDIES": "postgresql://theirs/studies",
    "MLFLOW_TRACKING_URI": "http://theirs:5000",
}


@pytest.mark.parametrize("named", [THEIRS, {}])
def test_a_temporary_home_replaces_all_places_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: dict[str, str]
) -> None:
    monkeypatch.delenv("RAYCLS_HOME", raising=False)
    for name, value in named.items():
        monkeypatch.setenv(name, value)

    def everything() -> list[str]:
        return [str(homes.home()), homes.storage(), homes.study_storage(), homes.tracking_uri()]

    before = everything()
    with pytest.raises(ValueError, match="whatever"), homes.elsewhere(tmp_path):
        assert all(str(tmp_path) in place for place in everything())
        raise ValueError("whatever")
    assert everything() == before


def test_only_one_holds_a_lock_and_it_is_free_afterwards(tmp_path: Path) -> None:
    with homes.elsewhere(tmp_path / "new"):
        for _ in range(2):
            with homes.lock("some.lock", "wait"), pytest.raises(ClusterError, match="wait"):  # noqa: SIM117
                with homes.lock("some.lock", "wait"):
                    pass
