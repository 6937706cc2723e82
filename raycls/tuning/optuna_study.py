"""A study in Optuna's storage: its sampler, its pruner, and the trials that it begins with.

    study = open_study(open_storage(), spec, "pets-study", run_id)
    trial = study.ask()

Knows Optuna, and nothing of Ray or of runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raycls import home
from raycls.errors import StudyError
from raycls.tuning.space import grid, own_values
from raycls.tuning.spec import StudySpec

if TYPE_CHECKING:
    import optuna

RUN, GIVEN = "mlflow_run", "given"  # attributes of studies and trials in Optuna's storage
RANDOM_TRIALS = 4  # before the sampler uses results; Optuna's default of 10 is most of a small study
REDUCTION = 3  # one of three trials continues from one rung to the next


def open_study(storage: optuna.storages.RDBStorage, spec: StudySpec, name: str, run_id: str) -> optuna.Study:
    """Return the study in Optuna's storage. Create it if it is missing, and queue its first trials."""
    import optuna

    directions: list[Literal["maximize", "minimize"]] = (
        ["maximize", "minimize"] if spec.timed else ["maximize"]
    )
    study = optuna.create_study(
        study_name=name, storage=storage, directions=directions, pruner=_pruner(spec), load_if_exists=True
    )
    if study.user_attrs.setdefault(RUN, run_id) != run_id:
        raise StudyError(f"Optuna's storage has another study {name!r}: choose another --study")
    study.set_user_attr(RUN, run_id)
    # Each attempt at the study seeds its sampler differently. The same seed would draw the same values again.
    study.sampler = _sampler(spec, (spec.seed + 1_000_003 * len(study.get_trials(deepcopy=False))) % 2**32)
    for values in _first(spec):
        study.enqueue_trial(values, user_attrs={GIVEN: spec.search != "grid"}, skip_if_exists=True)
    return study


def _first(spec: StudySpec) -> list[dict[str, Any]]:
    """Return the values of the first trials: the whole grid, or the given configuration.

    The given configuration is tried first if the space contains it, so the best trial is not worse than it.
    """
    if spec.search == "grid":
        return grid(spec.space)[: spec.trials]
    own = own_values(spec.space, spec.config)
    return [own] if own else []


def open_storage() -> optuna.storages.RDBStorage:
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    # Optuna warns of missing optional packages, which are not needed.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    uri = home.study_storage()
    try:
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        return optuna.storages.RDBStorage(uri)
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, OSError) as error:
        raise StudyError(
            f"Optuna's storage {uri} does not answer: {str(error).splitlines()[0]}; check RAYCLS_STUDIES, or unset it "
            "for a database under RAYCLS_HOME"
        ) from None


def _sampler(spec: StudySpec, seed: int) -> optuna.samplers.BaseSampler:
    from optuna.samplers import GPSampler, RandomSampler, TPESampler

    # GP and TPE model all settings together, because a large batch needs a large learning rate. They also consider
    # running trials, so trials that run at the same time differ.
    if spec.search == "gp":
        return GPSampler(seed=seed, n_startup_trials=RANDOM_TRIALS, warn_independent_sampling=False)
    if spec.search == "tpe":
        return TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)
    return RandomSampler(seed=seed)


def _pruner(spec: StudySpec) -> optuna.pruners.BasePruner:
    from optuna.pruners import HyperbandPruner, NopPruner, SuccessiveHalvingPruner

    if spec.scheduler == "asha":
        # The first decision comes after a third of a trial. In the first epochs the learning rate is at its peak, and
        # the ranking there says little about the final one (docs/tuning.md).
        third = max(1, spec.max_epochs // REDUCTION)
        return SuccessiveHalvingPruner(min_resource=third, reduction_factor=REDUCTION)
    if spec.scheduler == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=spec.max_epochs, reduction_factor=REDUCTION)
    return NopPruner()
