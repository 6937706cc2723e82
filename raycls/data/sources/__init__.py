"""Where images come from. Each source lists its images, with the names, labels, splits and groups that it knows.

    listing = list_source("photos.zip", Choice(labels="top"))

A source opens no image: raycls/data/readers.py reads the bytes. Nothing that is read is unpickled or run.
"""

from raycls.data.sources.choice import Choice, existing, list_source

__all__ = ["Choice", "existing", "list_source"]
