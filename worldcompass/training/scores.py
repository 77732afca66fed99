"""Scores of a step's groups; critics in other processes score while the next groups are imagined."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future

import torch
from torch import Tensor
from torch.nn.functional import pad

from worldcompass.critic import Critic, Elsewhere, FailedCritic, Retrying, ask
from worldcompass.errors import LostCritic
from worldcompass.types import Group, Scores


class Verdicts:
    """Scores of a step's groups by every critic.

    ``ask`` sends groups to critics ``Elsewhere`` at once, each from a thread. The other critics score in
    ``collect``, outside the contexts of imagination. Scores do not depend on this order.
    """

    def __init__(self, critics: Sequence[Critic]) -> None:
        self._critics = critics
        self._turns = {c.name: threading.Semaphore(c.at_once) for c in critics if isinstance(c, Elsewhere)}
        self._tries = {c.name: c.tries for c in critics if isinstance(c, Retrying)}
        self._asked: list[dict[str, Future[Scores]]] = []
        self._groups: list[Group] = []

    def ask(self, groups: Iterable[Group]) -> None:
        """Submit groups, in the order in which ``collect`` returns their scores.

        Pixels are copied from the device here, as a copy in a thread would wait for the next group.
        """
        for group in groups:
            self._groups.append(group)
            sent = group.to("cpu") if self._turns else group
            self._asked.append(
                {
                    critic.name: _in_thread(critic, sent, self._turns[critic.name])
                    for critic in self._critics
                    if critic.name in self._turns
                }
            )

    def collect(self) -> tuple[Tensor, Tensor, Tensor]:
        """Values and validity of all groups, (N, G, R) float32 and bool on the CPU, and values of each latent.

        The latter are (N, G, L, R) for the L latents of a clip. A critic that scores clips as a whole gives all
        latents that score; latents that it leaves out, such as a given start image, get 0 in all candidates.

        Raises:
            LostCritic: when a critic fails or can no longer be reached; the remaining requests are cancelled.
        """
        try:
            here = [
                {
                    critic.name: _scores(critic, group)
                    for critic in self._critics
                    if critic.name not in self._turns
                }
                for group in self._groups
            ]
            there = [{name: future.result() for name, future in asked.items()} for asked in self._asked]
        finally:
            for asked in self._asked:
                for future in asked.values():
                    future.cancel()
        names = [critic.name for critic in self._critics]
        rows = [[(a | b)[name] for name in names] for a, b in zip(here, there, strict=True)]
        values = torch.stack([torch.stack([s.values_G for s in row], -1).cpu().float() for row in rows])
        valid = torch.stack([torch.stack([s.valid_G for s in row], -1).cpu() for row in rows])
        each = [
            torch.stack([_of_latents(s, len(group.actions)) for s in row], -1)
            for group, row in zip(self._groups, rows, strict=True)
        ]
        return values, valid, torch.stack(each)

    def failed(self) -> dict[str, float]:
        """Share of failed tries for these groups, of every critic that retries."""
        shares: dict[str, float] = {}
        for critic in self._critics:
            if isinstance(critic, Retrying):
                made, failed = (
                    now - b for now, b in zip(critic.tries, self._tries[critic.name], strict=True)
                )
                shares[critic.name] = failed / made if made else 0.0
        return shares


def _of_latents(scores: Scores, count: int) -> Tensor:
    """Scores of a clip's latents, float32 (G, L) on the CPU."""
    if scores.each_GL is None:
        return scores.values_G.cpu().float()[:, None].expand(-1, count)
    return pad(scores.each_GL.cpu().float(), (count - scores.each_GL.shape[1], 0))


def _scores(critic: Critic, group: Group) -> Scores:
    try:
        return ask(critic, group)
    except FailedCritic as why:
        raise LostCritic(
            f"the critic {critic.name} {why}. Fix it and resume with --resume: all earlier steps are saved"
        ) from why


def _in_thread(critic: Critic, group: Group, turn: threading.Semaphore) -> Future[Scores]:
    """Score in a daemon thread, which does not keep a program from ending as an executor's thread would."""
    future: Future[Scores] = Future()

    def call() -> None:
        with turn:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(_scores(critic, group))
            except BaseException as error:  # raised again where the result is taken
                future.set_exception(error)

    threading.Thread(target=call, daemon=True, name=f"critic {critic.name}").start()
    return future
