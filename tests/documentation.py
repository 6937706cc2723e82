"""The commands of the README and of the pages of docs/, which tests run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
# In the order in which one page uses what another has made.
ORDER = (
    "index",
    "data",
    "large",
    "training",
    "pretrained",
    "small",
    "tuning",
    "accuracy",
    "telemetry",
    "confidences",
    "serving",
    "scoring",
    "lifecycle",
    "retraining",
    "console",
    "operations",
    "runbook",
    "cluster",
    "containers",
)
PAGES = [page for name in ORDER if (page := DOCS / f"{name}.md").exists()]
TUNING = DOCS / "tuning.md"

# These differ from a command that the pages' story runs in their options alone. What the options do has tests of its
# own; tests/integration/test_documented_options.py lets raycls read each of them, up to the first trial or epoch.
OPTIONS_ALONE = (
    "raycls train cifar10 --network mlp",
    "raycls train cifar10 --network cnn --set widths=[32,64,128]",
    "raycls train cifar10 --network resnet18 --set epochs=2",
    "raycls train cifar10 --preset smoke --set cutout=6 --set mixup=0.2 --set ema=0.95 --set schedule=cosine "
    "--set warmup=0.1",
    "raycls tune cifar10 --space space.yaml --search tpe --scheduler asha --trials 8 --max-epochs 2",
    "raycls tune cifar10 --search grid --scheduler none --trials 8 --max-epochs 1",
    "raycls tune cifar10 --trials 4 --max-epochs 1 --cpus-per-trial 2",
    "raycls tune cifar10 --trials 4 --max-epochs 1 --workers-per-trial 2",
    "raycls train cifar10 --folds 3 --model folds",  # tests/integration/test_more_data.py trains over folds,
    "raycls train cifar10 --preset quick --profile",  # and test_telemetry.py profiles and logs
    "raycls train animals --network resnet18 --weights resnet18.pth --set frozen_stages=4 --set epochs=1",
    "raycls train animals --network resnet18 --weights resnet18.pth --set epochs=1 --set network.mirror=true",
    # tests/integration/test_tuning.py and test_more_data.py search for these.
    "raycls tune cifar10 --objective accuracy,latency --trials 8 --max-epochs 1 --latency-budget-ms 20 --study widths",
    "raycls tune cifar10 --trials 8 --max-epochs 2 --refit --study searched --model searched",
    "WANDB_MODE=offline raycls tune cifar10 --trials 8 --max-epochs 1 --log wandb",
)


def commands_of(page: Path) -> list[str]:
    """Return the commands of a page's bash blocks, in order."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.S)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def search_space() -> str:
    """Return the space.yaml that docs/tuning.md shows."""
    (space,) = re.findall(r"```yaml\n(.*?)```", TUNING.read_text(), re.S)
    return space
