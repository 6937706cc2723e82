"""Retrain a model as a Ray job: `raycls retrain start` with the same arguments, on the cluster.

    RAY_AUTH_MODE=token ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python jobs/retrain.py pets --then promote

`ray job stop` stops the job as Ctrl-C does. `raycls retrain run ID` continues it.
"""

import sys

from raycls.cli import main

if __name__ == "__main__":
    main(["retrain", "start", *sys.argv[1:]])
