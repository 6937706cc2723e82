"""A zip in pieces: what a process of the control plane left unchecked, the next one checks."""

from __future__ import annotations

import asyncio
import io
import zipfile
from pathlib import Path

from raycls import home as homes
from raycls.control_plane.parcels import Checks
from raycls.lifecycle.parcels import Parcel, Parcels
from raycls.lifecycle.uploads import Uploads
from tests.unit.data import shapes
from tests.unit.lifecycle.pictures import png

PICTURES = 3


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for seed in range(PICTURES):
            archive.writestr(f"circle/{seed}.png", png(seed))
    return buffer.getvalue()


def _sent(data: bytes) -> Parcel:
    """What a former process had when it was killed: all pieces, and nothing of them checked."""
    parcels = Parcels(homes.home() / "parcels", 1 << 20)
    parcel = parcels.begin("ann", "shapes", "photos.zip", len(data))
    return parcels.append(parcel.id, 0, data)


async def _checked(parcel: Parcel) -> Parcel:
    """Start another process's checks, and wait until this one has ended."""
    checks = Checks(1 << 20)
    running = asyncio.create_task(checks.run())
    try:
        async with asyncio.timeout(30):
            while (found := checks.parcels.load(parcel.id)).state == "checking":
                await asyncio.sleep(0.02)
    finally:
        running.cancel()
    return found


def test_a_whole_zip_is_checked_after_a_restart(home: Path) -> None:
    shapes.make()
    parcel = _sent(_zip())
    assert parcel.state == "checking"
    done = asyncio.run(_checked(parcel))
    assert (done.state, done.error) == ("done", "")
    assert done.answer
    assert len(done.answer["taken"]) == PICTURES
    assert len(Uploads.of_process().of("shapes")) == PICTURES


def test_a_zip_that_was_half_taken_ends_with_each_picture_once(home: Path) -> None:
    """The former process had stored some pictures before it was killed: they are known by their hash."""
    shapes.make()
    data = _zip()
    assert asyncio.run(_checked(_sent(data))).state == "done"
    again = asyncio.run(_checked(_sent(data)))
    assert again.answer
    assert (len(again.answer["taken"]), len(again.answer["known"])) == (0, PICTURES)
    assert len(Uploads.of_process().of("shapes")) == PICTURES


def test_a_file_that_is_no_zip_ends_with_the_reason(home: Path) -> None:
    shapes.make()
    ended = asyncio.run(_checked(_sent(b"no zip at all")))
    assert ended.state == "failed"
    assert "zip" in ended.error
