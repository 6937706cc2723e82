"""What the progress says: how many, how fast, what is left, what failed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from raycls.scoring.ledger import Ledger, Listing
from raycls.scoring.rows import Counts
from raycls.scoring.tally import Tally


def test_a_part_counts_once_and_the_end_is_known_with_the_listing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(str(tmp_path))
    began = time.time() - 10
    with Tally("scoring with pets/3", Counts(500, 1, 0), ledger) as tally:
        tally.add(5, Counts(1000, 2, 7), began)
        assert tally.description().startswith("scoring with pets/3: 1,500 pictures, more are being listed")
        ledger.end_listing(Listing(parts=9, pictures=13_500, fingerprint=""))
        tally.add(6, Counts(500, 0, 0), began + 3)
        tally.add(6, Counts(500, 0, 0), began + 3)
        assert tally.all == Counts(2000, 3, 7)
        assert (tally.scored, tally.parts) == (1500, {5, 6})
        # 1,500 in some 10 s, and 11,500 are left.
        assert tally.pictures_per_s == pytest.approx(150, rel=0.1)
        assert "2,000 of 13,500 pictures, about 77 s left, 15" in tally.description()
        assert tally.description().endswith("/s, 3 failed")
    assert "3 failed: done in" in " ".join(capsys.readouterr().err.split())
