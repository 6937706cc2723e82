"""Requests/s and latency of a served model by number of replicas, against the single replica.

    python benchmarks/serving.py --replicas 1,2                              # serves the champion, each count in turn
    python benchmarks/serving.py --url http://127.0.0.1:8000 --images photos/   # a server that already runs

This is `raycls bench` (whose --help has every option) with its page and plot written into benchmarks/results/ and one
JSON document as the last line of stdout.
"""

import sys
from pathlib import Path

from raycls.cli import main

if __name__ == "__main__":
    main(["bench", "--json", "--output", str(Path(__file__).parent / "results"), *sys.argv[1:]])
