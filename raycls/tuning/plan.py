"""Completes and checks the settings of a study before anything starts.

spec = plan("cifar10", preset("fast", info), trials=24, max_epochs=2)
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raycls import cluster, home, progress, registry, tracking
from raycls.config import Config, override, validated
from raycls.data.packed import DatasetInfo
from raycls.data.prepare import open_or_prepare
from raycls.errors import UsageError
from raycls.models.timm_networks import PREFIX
from raycls.models.weights import PRETRAINED
from raycls.registry.policy import UNBALANCED, default_metric
from raycls.training import setup
from raycls.training.sampling import images_in_use
from raycls.training.shared_weights import of_network
from raycls.tuning import space as spaces
from raycls.tuning.space import Space
from raycls.tuning.spec import StudySpec

MOST_GP_TRIALS = 250


def plan(
    reference: str,
    config: Config,
    *,
    trials: int | None = None,
    max_epochs: int | None = None,
    space: Space | None = None,
    init: str | None = None,
    model: str | None = None,
    **options: Any,
) -> StudySpec:
    """Return the complete, checked specification of a study.

    reference: the dataset, NAME or NAME@VERSION. config: the winner is trained with it, except for the settings that
    are searched; its metric is what the study goes by, default `default_metric`. trials: default 8, or the whole grid
    with `search="grid"`. max_epochs: default the epochs of config. space: default `space.around`. init: a registered
    model that every trial starts from. model: the name to register the winner under, default the dataset's name.
    options: further fields of StudySpec. `_strategy` chooses search and scheduler if they are missing. Raises
    ConfigError, and UsageError, also if no trial fits on the cluster.
    """
    import ray

    from raycls.tuning.execution import check_room

    tracking.check(options.get("log", ()))
    if model:
        registry.check_name(model)
    dataset = open_or_prepare(reference)
    if not model:
        registry.check_name(dataset.info.name)
    if config.training.probe:
        raise UsageError("a probe has no settings to search: `raycls train` with --preset probe makes one")
    config = _with_metric(config, dataset.info)
    short = override(config, [f"training.epochs={max_epochs}"]) if max_epochs else config
    timed = options.get("objective") == "accuracy,latency"
    if not timed and (options.get("latency_budget_ms") or options.get("latency_batch")):
        raise UsageError("--latency-budget-ms and --latency-batch take --objective accuracy,latency")
    if timed and options.get("scheduler") not in (None, "none"):
        raise UsageError(
            f"--scheduler {options['scheduler']} goes by accuracy alone: leave it out for two objectives"
        )
    workers = max(options.get("workers") or 1, options.get("workers_per_trial") or 1)
    setup.check(short, dataset, workers)
    if space is None:
        space = spaces.around(short, images_in_use(short, dataset)) | (
            spaces.architectures(config, dataset.info.image_size) if timed else {}
        )
    spaces.check(space, config)
    _check_weights(options.get("weights"), config, space)
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
    # Ray waits for processes and MLflow for the disk, so both start at once.
    with ThreadPoolExecutor(1) as beside:
        opened = beside.submit(tracking.client)
        cluster.connect()
        opened.result()
    options |= _strategy(options, timed, trials)
    if options.get("gpus_per_trial") is None:
        options["gpus_per_trial"] = 1.0 if ray.cluster_resources().get("GPU") else 0.0
    setup.check_precision(config, {"use_gpu": bool(options["gpus_per_trial"])})
    asked = {
        "dataset": dataset.info.name,
        "dataset_version": dataset.info.version,
        "fingerprint": dataset.info.fingerprint,
        "config": config,
        "storage": home.storage(),
        "space": space,
        "trials": trials,
        "max_epochs": short.training.epochs,
        "model": model or dataset.info.name,
        "init": registry.resolve(init).reference if init else None,
    }
    spec = validated(StudySpec, asked | options)
    check_room(spec)
    return spec


def _check_weights(weights: str | None, config: Config, space: Space) -> None:
    """Raise SourceError or UsageError where a network of the study has no weights of its own to start from."""
    searched = space.get("network.name")
    if weights is None or weights == PRETRAINED or searched is None:
        return
    if of_network(weights, config.network.name) == weights:
        raise UsageError(
            "one file of weights does not fit several networks: give --weights a folder with a file for each, named "
            f"after it, such as {config.network.name.removeprefix(PREFIX)}.pth, or pretrained"
        )
    for name in searched.choices or ():
        of_network(weights, name)


def _with_metric(config: Config, info: DatasetInfo) -> Config:
    """Return the configuration with its metric stated. Say so if it is not accuracy and nobody asked for it."""
    if config.training.metric:
        return config
    metric = default_metric(info.class_counts["train"])
    if metric != "accuracy":
        progress.say(
            f"the classes of {info.reference} are unbalanced beyond 1:{UNBALANCED}: the study goes by {metric}; "
            "--metric accuracy changes that"
        )
    elif config.training.balance != "none":
        metric = "macro_recall"
    return override(config, [f"training.metric={metric}"])


def _strategy(options: dict[str, Any], timed: bool, trials: int) -> dict[str, str]:
    """Return the scheduler and the search. docs/tuning.md gives the reasons for the defaults."""
    scheduler = options.get("scheduler") or "none"
    # A Gaussian process cannot learn from trials that were stopped early, and it is slow with hundreds of trials.
    whole = scheduler == "none" and not timed and trials <= MOST_GP_TRIALS
    return {"scheduler": scheduler, "search": options.get("search") or ("gp" if whole else "tpe")}
