"""Drift: whether the images that a model meets still look like those that it was tried on.

    reference = make(probabilities, embeddings, images, sizes)          # of `val`, at registration
    window = Window(reference)                                          # in a replica
    window.update(probabilities, embeddings, images, sizes)             # after each batch
    findings = examine(reference, window.take())                        # up to 2,000 requests or one hour later
    alarms = [finding for finding in findings if finding.alarm]

features.py measures images, reference.py keeps what is usual, window.py sums up requests in constant memory, and
examine.py compares the two. A replica imports no SciPy for this: examine.py alone needs it.
"""
