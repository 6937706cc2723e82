"""Print each patch's state and the present digests of its targets: what to write down for a new version of a library.

python -m raycls.ray_patches
"""

from __future__ import annotations

from raycls.ray_patches import patches
from raycls.ray_patches.guard import digest, state

if __name__ == "__main__":
    for patch in patches():
        print(f"{patch.name}: {' '.join(state(patch))}")
        for target in patch.targets:
            print(f'        "{target}": "{digest(target)}",')
