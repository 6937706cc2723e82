"""The gate that every promotion passes: is the version fit, and is it better than the champion?

    with home.lock(registry.PROMOTING, "another promotion runs"):
        admitted = admit(registry.resolve("pets/7"), policy)      # raises RefusedError, and records the refusal
        crown(admitted)

`raycls promote`, studies and retraining differ only in what they do between the two: `promote` serves the version, with
`recorded` around it. The checks of raycls/registry/checks.py always apply. Only the comparison can be overruled, by
somebody who gives a reason.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from raycls import home, progress, registry
from raycls.errors import RefusedError, UsageError
from raycls.registry import history
from raycls.registry.checks import examine
from raycls.registry.compare import Comparison, compare
from raycls.registry.model_version import ModelVersion
from raycls.registry.policy import PromotionPolicy
from raycls.registry.versions import CHAMPION, PROMOTING


@dataclass(frozen=True, kw_only=True)
class Admission:
    """A version that may become champion: why, after which comparison, and by whom. champion: the one until now."""

    version: ModelVersion
    champion: ModelVersion | None
    kind: history.Kind
    reason: str
    policy: PromotionPolicy
    comparison: Comparison | None
    by: str | None


def admit(
    version: ModelVersion,
    policy: PromotionPolicy,
    *,
    new_classes: bool = False,
    force: str | None = None,
    by: str | None = None,
) -> Admission:
    """Check the version and compare it with the champion. Return the admission, with the version's engine chosen.

    new_classes: accept a version that does not know all of the champion's classes. force: the reason for a promotion
    without the comparison. by: who asks, for the history; default user@host.

    Raises RefusedError if the version is not fit, not better, or cannot be compared; the history then has a refusal.
    """
    if force is not None and not force.strip():
        raise UsageError("a forced promotion needs a reason: add --reason TEXT")
    champion = registry.champion(version.name)
    comparison: Comparison | None = None

    def admitted(kind: history.Kind, reason: str) -> Admission:
        return Admission(
            version=version,
            champion=champion,
            kind=kind,
            reason=reason,
            policy=policy,
            comparison=comparison,
            by=by,
        )

    try:
        version = examine(version, None if new_classes else champion, policy)
        if force is not None:
            return admitted("forced", force)
        if champion is None:
            progress.say(f"{version.reference} is the first champion")
            return admitted("first", "there was no champion")
        if champion.reference == version.reference:
            return admitted("promotion", "it is the champion already")
        comparison = _compare(version, champion, policy)
        for remark in comparison.remarks:
            progress.say(remark)
        progress.say(f"policy: {comparison.policy}")
        if comparison.verdict != "better":
            raise _refused(version, champion, f"{comparison.verdict}, {comparison.reason}")
    except RefusedError as error:
        reason = comparison.reason if comparison else str(error)
        history.record_refusal(version, champion, by=by, reason=reason, policy=policy, comparison=comparison)
        raise
    progress.say(f"{version.reference} replaces champion {champion.reference}: {comparison.reason}")
    return admitted("promotion", comparison.reason)


def crown(admission: Admission) -> ModelVersion:
    """Make the admitted version champion, record it, and return it with its aliases."""
    with recorded(admission):
        return registry.set_alias(admission.version.name, admission.version.version, CHAMPION)


def recorded(admission: Admission) -> AbstractContextManager[None]:
    """Return the record of a promotion, for around all of it; nothing is recorded of what is champion already."""
    version, champion = admission.version, admission.champion
    if champion and champion.reference == version.reference:
        return nullcontext()
    return history.recorded(
        admission.kind,
        version,
        champion,
        by=admission.by,
        reason=admission.reason,
        policy=admission.policy,
        comparison=admission.comparison,
    )


def promote_if_better(version: ModelVersion, policy: PromotionPolicy, *, by: str | None = None) -> bool:
    """Make the version champion if it passes the gate. Say why if it does not. Wait for a promotion that runs.

    The version is not served: `raycls promote` does that.
    """
    with home.lock(PROMOTING, "", wait=True):
        try:
            crown(admit(version, policy, by=by))
        except RefusedError as error:
            progress.say(str(error))
            return False
    return True


def _compare(version: ModelVersion, champion: ModelVersion, policy: PromotionPolicy) -> Comparison:
    try:
        return compare(version, champion, policy)
    except Exception as error:  # a network's own code may raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _refused(version, champion, f"they cannot be compared: {reason}") from error


def _refused(version: ModelVersion, champion: ModelVersion, why: str) -> RefusedError:
    return RefusedError(
        f"{champion.reference} stays champion, {version.reference} is not promoted: {why}. To promote it all the same, "
        f"give a reason: `raycls promote {version.name} {version.version} --force --reason TEXT`"
    )
