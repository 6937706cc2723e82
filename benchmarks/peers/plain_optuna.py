"""The peer of `raycls tune`: Optuna as in its documentation, in one process, with the same training loop.

    python benchmarks/peers/plain_optuna.py --dataset cifar10 --preset quick --settings '["train_fraction=0.2"]' \
        --trials 12 --epochs 3 --seed 0

It uses no Ray and no MLflow: `study.optimize` with TPE, PyTorch on all cores, no early stopping. The last line of
stdout is one JSON document: the study's seconds (without the imports), and the values and accuracy of each trial.
"""

import argparse
import json
import time

import optuna

from raycls.config import override
from raycls.data.versions import open_dataset
from raycls.training import loop
from raycls.training.presets import preset
from raycls.training.sampling import images_in_use
from raycls.tuning.optuna_study import RANDOM_TRIALS
from raycls.tuning.space import around, configured, own_values, suggest

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="cifar10")
parser.add_argument("--preset", default="quick")
parser.add_argument("--settings", type=json.loads, default=[])
parser.add_argument("--trials", type=int, default=12)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

optuna.logging.set_verbosity(optuna.logging.WARNING)
dataset = open_dataset(options.dataset)
config = override(
    preset(options.preset, dataset.info), [*options.settings, f"training.epochs={options.epochs}"]
)
space = around(config, images_in_use(config, dataset))


def objective(trial: optuna.Trial) -> float:
    training = loop.start(configured(config, suggest(trial, space)), dataset)
    best = 0.0
    for metrics, _ in training.epochs():
        best = max(best, metrics["val_accuracy"])
        trial.report(metrics["val_accuracy"], training.epoch)
    return best


started = time.perf_counter()
study = optuna.create_study(
    direction="maximize",
    sampler=optuna.samplers.TPESampler(seed=options.seed, n_startup_trials=RANDOM_TRIALS),
)
study.enqueue_trial(own_values(space, config) or {})
study.optimize(objective, n_trials=options.trials)
trials = [
    {
        "values": trial.params,
        "val_accuracy": max(trial.intermediate_values.values()),
        "epochs": trial.last_step,
    }
    for trial in study.trials
]
print(json.dumps({"seconds": time.perf_counter() - started, "trials": trials}))
