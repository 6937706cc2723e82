"""Run a study as a Ray job: `raycls tune` with the same arguments, on the cluster.

    RAY_AUTH_MODE=token ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python jobs/tune.py cifar10 --trials 8 --max-epochs 2

Every node needs raycls's dependencies and the dataset: either under its RAYCLS_HOME, or in RAYCLS_STORAGE after
`raycls data push`. raycls itself is uploaded with the working directory. `ray job stop` stops the job as Ctrl-C does. A
new job with `cifar10 --resume STUDY` continues it, also on a new cluster.
"""

import sys

from raycls.cli import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
