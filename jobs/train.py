"""One training run as a Ray job: `raycls train` with the same arguments, on the cluster.

    RAY_AUTH_MODE=token ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python jobs/train.py cifar10 --preset fast

Needs raycls's dependencies on every node, and the dataset: under the RAYCLS_HOME there, or pushed to RAYCLS_STORAGE by
`raycls data push`. raycls itself travels in the working directory. `ray job stop` ends it as Ctrl-C does; a further job
with `cifar10 --resume RUN` goes on with it, also after the cluster was started anew.
"""

import sys

from raycls.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
