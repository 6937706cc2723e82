"""Score pictures in bulk as a Ray job: `raycls score` with the same arguments, on the cluster.

    RAY_AUTH_MODE=token ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python jobs/score.py pets@champion s3://bucket/photos --output s3://bucket/scores

All nodes take part where pictures and scores are named by URIs. `ray job stop` stops the job as Ctrl-C does. A new job
with the same arguments continues it, also on a new cluster.
"""

import sys

from raycls.cli import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]])
