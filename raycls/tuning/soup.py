"""A soup of a study's best trials: they are trained in full first, as a study keeps no weights of its trials.

    made = of_study("pets-study", members=3)        # the soup of raycls/training/soups.py, or None

Each one becomes a version. The winner's training is there already, and so is what an interrupted call has trained. The
cost is one full training for each other member.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raycls import progress
from raycls.config import Config
from raycls.errors import StudyError
from raycls.tracking import resumable
from raycls.training.filing import TrainingResult
from raycls.training.soups import soup
from raycls.tuning import record
from raycls.tuning.space import architecture, configured
from raycls.tuning.spec import StudySpec, Trial
from raycls.tuning.study import Study, train_in_full


def of_study(name: str, members: int, model: str | None = None) -> TrainingResult | None:
    """Train the best trials of a finished study in full, and mix them as `raycls.training.soups.soup`.

    model: the registered name of trainings and soup, by default the study's. Raises StudyError where the study is
    unfinished or has fewer than two trials that ended well, and as the trainings and the soup.
    """
    found = record.load(name)
    if record.winner_of(found) is None:
        raise StudyError(
            f"study {name} is not finished: go on with `raycls tune DATASET --resume {name}` first"
        )
    spec = resumable.spec_of(StudySpec, record.run_of(found))
    study = Study(name=name, run_id=record.run_of(found), spec=spec, trials=record.trials_of(found))
    best = best_trials(study.trials, members)
    if len(best) < 2:
        raise StudyError(f"study {name} has {len(best)} trial that ended well: a soup takes two")
    check_shapes(name, spec.config, best)
    progress.say(
        f"the best {len(best)} of {len(study.trials)} trials: {', '.join(f'#{trial.number}' for trial in best)}. Those "
        "that were not trained in full are trained now"
    )
    # Of each of them, not of the one that its latency budget allows.
    alone = spec.model_copy(update={"objective": "accuracy", **({"model": model} if model else {})})
    study = replace(study, spec=alone)
    versions = [train_in_full(replace(study, trials=(trial,))).version for trial in best]
    return soup([version.reference for version in versions if version], model)


def best_trials(trials: tuple[Trial, ...], count: int) -> list[Trial]:
    """Return the trials with the highest scores, the best one first. The earlier one wins a tie."""
    scored = [trial for trial in trials if trial.scored]
    return sorted(scored, key=lambda trial: (-(trial.score or 0.0), trial.number))[:count]


def check_shapes(study: str, config: Config, trials: Sequence[Trial]) -> None:
    """Raise StudyError where the trials have networks of several shapes, before any of them is trained."""
    shapes = {architecture(configured(config, trial.values)) for trial in trials}
    if len(shapes) > 1:
        raise StudyError(
            f"the best {len(trials)} trials of study {study} have networks of {len(shapes)} shapes, whose weights do "
            "not mix: search the other settings of one network"
        )
