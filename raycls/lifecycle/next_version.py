"""The next version of a dataset: the one before, and the pictures that reviewers accepted.

added = add_uploads("pets", trusted=["ann"])
added.dataset.info.reference      # "pets@3", or "pets@2" if nothing is new
"""

from __future__ import annotations

from collections.abc import Collection

from raycls.data.additions import Added, Wanted, add_pictures
from raycls.data.place import telling
from raycls.data.senders import Addition
from raycls.lifecycle.records import Record
from raycls.lifecycle.uploads import Uploads


def add_uploads(name: str, uploads: Uploads | None = None, *, trusted: Collection[str] = ()) -> Added:
    """Return the next version of a dataset, or the newest one if no picture was accepted since.

    What the version has says which pictures were used, so a call that is killed loses none and uses none twice. For
    trusted and for the errors see `raycls.data.additions.add_pictures`.
    """
    store = uploads or Uploads.of_process()

    @telling()
    def read() -> Wanted:
        records = store.of(name)
        accepted = sorted((each for each in records if each.state == "accepted"), key=_accepted_at)
        return Wanted(
            [Addition(each.sha256, each.label, each.sender, store.where(each)) for each in accepted],
            known={each.sha256 for each in records},
        )

    added = add_pictures(name, read, trusted=trusted)
    with telling():
        store.tidy()
    return added


def _accepted_at(record: Record) -> tuple[float, str]:
    first = min(step.time for step in record.history if step.to_state == "accepted")
    return first, record.sha256
