"""What a study is asked for, completed and checked before anything is started.

spec = plan("cifar10", preset("fast", manifest), trials=24, max_epochs=2)
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raycls import cluster, home, registry, tracking
from raycls.config import Config, override, validated
from raycls.data.packed import open_dataset
from raycls.errors import UsageError
from raycls.training import setup
from raycls.training.sampling import images_in_use
from raycls.tuning import space as spaces
from raycls.tuning.space import Space
from raycls.tuning.spec import StudySpec

MOST_GP_TRIALS = 250


def plan(
    dataset_name: str,
    config: Config,
    *,
    trials: int | None = None,
    max_epochs: int | None = None,
    space: Space | None = None,
    init: str | None = None,
    model: str | None = None,
    **options: Any,
) -> StudySpec:
    """All that a study needs to know, checked before anything is started.

    config is what the winner will be trained with but for what is searched. trials defaults to 8, or to the whole grid;
    max_epochs to the configuration's; space to `space.around`; search and scheduler to what suits trials so many and so
    long. init is a registered model that every trial starts from; model is the name to register under, default the
    dataset's. options are further fields of StudySpec.
    Raises UsageError, also where not a single trial fits on the cluster, and ConfigError.
    """
    import ray

    from raycls.tuning.execution import check_room

    dataset = open_dataset(dataset_name)
    short = override(config, [f"training.epochs={max_epochs}"]) if max_epochs else config
    timed = options.get("objective") == "accuracy,latency"
    if timed and options.get("scheduler") not in (None, "none"):
        raise UsageError(
            f"--scheduler {options['scheduler']} goes by accuracy alone: leave it out for two objectives"
        )
    workers = max(options.get("workers") or 1, options.get("workers_per_trial") or 1)
    setup.check(short, dataset, workers)
    if space is None:
        space = spaces.around(short, images_in_use(short, dataset)) | (
            spaces.architectures(config) if timed else {}
        )
    spaces.check(space, config)
    for path, domain in space.items():
        for value in domain.ends():
            setup.check(spaces.configured(short, {path: spaces.encoded(value)}), dataset, workers)
    if options.get("search") == "grid":
        whole = len(spaces.grid(space))
        trials = whole if trials is None else min(trials, whole)
    elif trials is None:
        trials = 8
    if trials < 1:
        raise UsageError(f"--trials {trials}: at least one trial is needed")
    with ThreadPoolExecutor(1) as beside:  # both mostly wait: Ray for its processes, MLflow for the disk
        opened = beside.submit(tracking.client)
        cluster.connect()
        opened.result()
    options |= _strategy(options, timed, trials)
    if options.get("gpus_per_trial") is None:
        options["gpus_per_trial"] = 1.0 if ray.cluster_resources().get("GPU") else 0.0
    asked = {
        "dataset": dataset_name,
        "fingerprint": dataset.manifest.fingerprint,
        "config": config,
        "storage": home.storage(),
        "space": space,
        "trials": trials,
        "max_epochs": short.training.epochs,
        "model": model or dataset_name,
        "init": registry.resolve(init).reference if init else None,
    }
    spec = validated(StudySpec, asked | options)
    check_room(spec)
    return spec


def _strategy(options: dict[str, Any], timed: bool, trials: int) -> dict[str, str]:
    """Search and scheduler, where none were asked for; docs/tuning.md says why."""
    scheduler = options.get("scheduler") or "none"
    # A Gaussian process learns nothing from trials that were stopped early, and takes seconds over hundreds of trials.
    whole = scheduler == "none" and not timed and trials <= MOST_GP_TRIALS
    return {"scheduler": scheduler, "search": options.get("search") or ("gp" if whole else "tpe")}
