"""Finds the processes of a challenger, and calls them in turn.

    link = await connect("a1b2c3d4", most_images=64)
    predictions = await link.run([encoded])         # raises ChallengerError

Those on this node are called by raycls/serving/images_socket.py; where there is none, Serve's handle is called. The
processes are looked up again and again, because one may start later than the others, or be replaced.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import ray
from ray import serve

from raycls.serving.control.configuration import CHALLENGERS
from raycls.serving.images_socket import Answers, Door, Peer
from raycls.serving.replica.challenger_link import DEADLINE_S, Answering, ChallengerError, ChallengerLink

DEPLOYMENT = "Challenger"
LOOK_S = 2.0  # between two looks for processes


async def connect(experiment: str, most_images: int) -> ChallengerLink:
    """Return a link to the challenger of an experiment, by its id. Raises ChallengerError where it does not run."""
    try:
        # The first call asks Serve's controller and waits for it.
        handle = await asyncio.to_thread(serve.get_deployment_handle, DEPLOYMENT, CHALLENGERS + experiment)
        calls = _Calls(handle)
        answering = await calls.look()
    except Exception:  # whatever Ray raises
        raise ChallengerError("raised") from None
    link = ChallengerLink(calls.call, answering=answering, most_images=most_images, hang_up=calls.hang_up)
    calls.keep_looking()
    return link


class _Calls:
    """The calls of one replica of the champion to the processes of a challenger."""

    def __init__(self, handle: Any):
        self._handle = handle
        self._node = ray.get_runtime_context().get_node_id()
        self._peers: deque[Peer] = deque()  # that wait for a call, the longest first
        self._known: dict[Door, Peer] = {}
        self._looking: asyncio.Task[None] | None = None

    async def call(self, images: list[bytes]) -> Answers:
        """Call the process that has waited longest. Where it is gone, Serve's handle finds another, once."""
        if self._peers:
            peer = self._peers.popleft()
            try:
                return await peer.call(images)
            except (EOFError, OSError):
                self._known.pop(peer.door, None)
            finally:
                if peer.door in self._known:
                    self._peers.append(peer)
                else:
                    peer.close()
        answers: Answers = await self._handle.classify.remote(images)
        return answers

    async def look(self) -> Answering:
        """Find the processes. Return what they are. Raises what Ray raises."""
        described = self._handle.broadcast("describe").results
        found = await asyncio.to_thread(described, timeout_s=DEADLINE_S * 5, return_exceptions=True)
        running = [each for each in found if isinstance(each, tuple)]
        (answering, _, _), *_ = running
        doors = {door for _, node, door in running if node == self._node}
        for door in self._known.keys() - doors:
            gone = self._known.pop(door)
            if gone in self._peers:  # one that is called ends its call first
                self._peers.remove(gone)
                gone.close()
        for door in doors - self._known.keys():
            self._known[door] = Peer(door)
            self._peers.append(self._known[door])
        return answering

    def keep_looking(self) -> None:
        """Look again and again, until `hang_up`."""

        async def look_again() -> None:
            while True:
                await asyncio.sleep(LOOK_S)
                try:
                    await self.look()
                except Exception:  # whatever Ray raises: the calls fail too, and say so
                    continue

        self._looking = asyncio.create_task(look_again())

    def hang_up(self) -> None:
        if self._looking:
            self._looking.cancel()
        for peer in self._known.values():
            peer.close()
