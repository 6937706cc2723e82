"""A study as a Ray job: `raycls tune` with the same arguments, on the cluster.

    RAY_AUTH_MODE=token ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python jobs/tune.py cifar10 --trials 8 --max-epochs 2

Needs raycls's dependencies on every node, and the dataset: under the RAYCLS_HOME there, or pushed to RAYCLS_STORAGE by
`raycls data push`. raycls itself travels in the working directory. `ray job stop` ends it as Ctrl-C does; a further job
with `cifar10 --resume STUDY` goes on with it, also after the cluster was started anew.
"""

import sys

from raycls.cli import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
