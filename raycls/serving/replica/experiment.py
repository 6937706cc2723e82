"""A challenger beside the champion: which of the two answers a request, and what is counted of both.

    live = LiveExperiment(experiment, inference, await connect(experiment.id, most_images=64), champion="6")
    outcomes, version = await live.run(images, headers, still_wanted)

With `shadow`, the champion answers, and a share of the images also goes to the challenger. Its answers are compared and
never sent. With `split`, the challenger answers a share of the requests. The same client (X-Client-Id), or the same
picture where there is none, always gets the same version. Where the challenger raises, hangs, dies or answers no
numbers, the champion answers in its place. After BROKEN failures in a row this replica asks the challenger no more;
the control plane sees that and ends the experiment.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

from raycls.engines.predictor import Prediction
from raycls.errors import ImageError
from raycls.serving.replica.arm_counts import ExperimentCounts
from raycls.serving.replica.challenger_link import ChallengerError, ChallengerLink
from raycls.serving.replica.inference import Inference
from raycls.serving.state import Experiment

BROKEN = 5  # failures in a row, after which a replica asks the challenger no more
# Images on which the two disagreed, until the control plane takes them, and their bytes.
KEPT, KEPT_BYTES = 32, 32 << 20
CLIENT = "x-client-id"
Outcome = Prediction | ImageError


class LiveExperiment:
    """One experiment, as one replica of the champion takes part in it."""

    def __init__(self, experiment: Experiment, inference: Inference, link: ChallengerLink, champion: str):
        """champion: its version, as answers name it."""
        self.experiment = experiment
        self._inference, self._link, self._champion = inference, link, champion
        self._salt = experiment.id.encode()[:16]
        self._shadows: set[asyncio.Task[None]] = set()
        self.counts = ExperimentCounts(
            experiment.id, len(inference.predictor.card.classes), len(link.classes)
        )
        self.disagreements: deque[tuple[bytes, str, str]] = deque(maxlen=KEPT)
        self._failures = 0  # in a row

    async def run(
        self, images: Sequence[bytes], headers: Mapping[str, str], still_wanted: Callable[[], bool]
    ) -> tuple[Sequence[Outcome], str]:
        """Return an outcome for each image, in order, and the version that they are of. Raises ClientGone."""
        if self.experiment.mode == "split" and self.goes_to_challenger(images, headers):
            try:
                return await self._challenged(images), self._link.version
            except ChallengerError:
                self.counts.replaced += 1
        started = time.perf_counter()
        outcomes = await self._inference.run(images, still_wanted)
        predictions = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
        self.counts.champion.answered(predictions, time.perf_counter() - started)
        shadowed = self.experiment.mode == "shadow" and random.random() < self.experiment.share
        if shadowed and not self.counts.broken and len(predictions) == len(images):
            task = asyncio.create_task(self._shadow(images, predictions))
            self._shadows.add(task)
            task.add_done_callback(self._shadows.discard)
        return outcomes, self._champion

    def goes_to_challenger(self, images: Sequence[bytes], headers: Mapping[str, str]) -> bool:
        """Return whether the challenger answers this client, or this picture, in a split."""
        if self.counts.broken:
            return False
        client = headers.get(CLIENT)
        key = client.encode("latin-1") if client else images[0]
        place = blake2b(key, digest_size=8, salt=self._salt).digest()
        return int.from_bytes(place) < self.experiment.share * 2**64

    async def _challenged(self, images: Sequence[bytes]) -> list[Prediction]:
        """Return the challenger's predictions. Raises ChallengerError, and counts why."""
        try:
            predictions, seconds = await self._link.run(images)
        except ChallengerError as error:
            if error.is_failure:
                self._failures += 1
                self.counts.broken = self.counts.broken or self._failures >= BROKEN
            self.counts.challenger.failed(error.kind)
            raise
        self._failures = 0
        self.counts.challenger.answered(predictions, seconds)
        return predictions

    async def _shadow(self, images: Sequence[bytes], predictions: Sequence[Prediction]) -> None:
        try:
            answers = await self._challenged(images)
        except ChallengerError:
            return
        for data, ours, theirs in zip(images, predictions, answers, strict=True):
            same = ours.class_name == theirs.class_name
            self.counts.compared(same)
            if not same:
                self.disagreements.append((data, ours.class_name, theirs.class_name))
                while sum(len(kept) for kept, _, _ in self.disagreements) > KEPT_BYTES:
                    self.disagreements.popleft()

    def end(self) -> None:
        """Cancel what still runs beside answers."""
        for task in self._shadows:
            task.cancel()
        self._link.close()
