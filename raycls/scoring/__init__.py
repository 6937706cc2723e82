"""Scoring pictures in bulk, on Ray Data: each of them once, whatever happens on the way.

    from raycls import scoring

    scored = scoring.score("pets@champion", "photos/", "scores/")

| file | what it does |
|---|---|
| `score.py` | one call, from the names to the totals |
| `output.py` | what must hold of an output, and what an earlier call has left there |
| `ledger.py` | what stands beside the scores: the plan, the listing in parts, what is written |
| `parts.py` | the division of a source's pictures into parts |
| `listing.py` | the listing of the source, whose parts' numbers are a dataset of Ray Data |
| `actor.py` | the actor of Ray Data, which keeps a scorer |
| `scorer.py` | a part: read, decoded, classified and written |
| `reading.py` | the bytes of a part's pictures, several at a time where they come from far away |
| `rows.py` | the columns of the scores, in Parquet and CSV |
| `workers.py` | how many actors run, and what each of them takes |
| `tally.py` | what has been scored, for the progress and the result |
"""

from raycls.scoring.score import Scored, score

__all__ = ["Scored", "score"]
