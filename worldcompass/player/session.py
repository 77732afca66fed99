"""One browser's walk: keys in, paced pictures and gauges out.

Two tasks share a session. ``_walk`` computes the next step in the panes' workers. It starts as late as possible to
use the newest keys (``pace``). ``_Screen`` sends the finished frames one by one at the player's pace. At most one
step waits between them, so a slow browser slows only its own walk.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from worldcompass.actions import ActionSpace
from worldcompass.errors import UserError
from worldcompass.player.fittings import Fittings
from worldcompass.player.gauges import Gauge, Reader
from worldcompass.player.goals import Referee, Watch, reached
from worldcompass.player.messages import Begin, Keys, Message, Record, Rewind, encode_frame, pack_pictures
from worldcompass.player.pace import Costs, Pace
from worldcompass.player.panes import Pane, Place, WorldPane
from worldcompass.player.recording import Recording, Shelf
from worldcompass.player.starts import Start, Starts, start_from_picture
from worldcompass.world import WorldModel

MAX_WALK_LATENTS = 1500  # of one walk: about 4 minutes
KEPT_MOMENTS = 48  # latents that can be rewound: 12 clips
MAX_COMMANDS = 16  # in the queue; only programs send more, which are refused
SEND_TIMEOUT = 20.0  # seconds until an unresponsive browser is dropped


@dataclass(frozen=True)
class Moment:
    """The places, gauges and watches of all panes after a step."""

    places: tuple[Place | None, ...]
    gauges: tuple[Gauge, ...]
    watches: tuple[Watch | None, ...]

    @property
    def composites_M(self) -> tuple[int, ...]:
        """The actions so far, with the start's 0 first."""
        return next(place.composites_M for place in self.places if place is not None)


@dataclass(frozen=True)
class Shared:
    """The parts that all sessions of a server share."""

    panes: tuple[Pane, ...]
    starts: Starts
    shelf: Shelf
    fps: float
    fittings: Fittings = field(default_factory=Fittings)

    @property
    def world(self) -> WorldModel[Any]:
        """The first world of the panes; all panes have the same actions and size."""
        return next(pane.world for pane in self.panes if isinstance(pane, WorldPane))

    def start_from(self, data: bytes) -> Start:
        """A start from a user's PNG or JPEG file.

        Raises:
            UserError: when it is no picture, or none that the world can start from.
        """
        start = start_from_picture(data, self.world.spec.frame_size)
        self.fittings.check(start.image_3hw)
        return start

    @property
    def space(self) -> ActionSpace:
        """The action space, the same in every pane."""
        return self.world.spec.actions


class Send:
    """The text and picture channels to a browser, with a timeout.

    Raises:
        TimeoutError: from both, after ``SEND_TIMEOUT`` seconds without progress.
    """

    def __init__(
        self, text: Callable[[dict[str, Any]], Awaitable[None]], pictures: Callable[[bytes], Awaitable[None]]
    ) -> None:
        self._text, self._pictures = text, pictures

    async def text(self, message: dict[str, Any]) -> None:
        """Send JSON."""
        await asyncio.wait_for(self._text(message), SEND_TIMEOUT)

    async def pictures(self, message: bytes) -> None:
        """Send one moment of all panes."""
        await asyncio.wait_for(self._pictures(message), SEND_TIMEOUT)


class _Screen:
    """Sends pictures to one browser in order and at the player's pace; at most one step waits."""

    def __init__(self, send: Send, fps: float) -> None:
        self._send, self.pace = send, Pace(fps)
        self._steps: asyncio.Queue[list[tuple[float, bytes]]] = asyncio.Queue(1)

    async def put(self, messages: list[bytes]) -> None:
        """Queue pictures; waits while the browser is slow."""
        times = self.pace.place(time.monotonic(), len(messages))
        await self._steps.put(list(zip(times, messages, strict=True)))

    async def run(self) -> None:
        """Send each picture at its display time."""
        last = 0.0
        while True:
            for wanted, message in await self._steps.get():
                await asyncio.sleep(self.pace.after(last, wanted) - time.monotonic())
                last = time.monotonic()
                await self._send.pictures(message)


class Session:
    """The walk of one browser. All methods run in the event loop; only steps run in workers."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.moments: deque[Moment] = deque(maxlen=KEPT_MOMENTS + 1)
        self.start: Start | None = None
        self.seed = 0
        self.script: tuple[int, ...] = ()
        self.held: frozenset[str] = frozenset()
        self.pressed: set[str] = set()
        self.number = 0
        self.recording: Recording | None = None
        self.commands: deque[Message] = deque()
        self.wake = asyncio.Event()

    def hear(self, message: Message) -> None:
        """Accept a message; it takes effect at the next step.

        Raises:
            UserError: for keys that the world does not know, or for too many waiting commands.
        """
        if isinstance(message, Keys):
            new = frozenset(message.held)
            self._read(message.held)
            self.pressed |= new - self.held
            self.held, self.number = new, message.number
        elif len(self.commands) >= MAX_COMMANDS:
            raise UserError("too many commands at once: wait for the picture to update")
        else:
            self.commands.append(message)
        self.wake.set()

    def _read(self, keys: Iterable[str]) -> int:
        try:
            return self.shared.space.of_words(keys)
        except ValueError as error:
            raise UserError(str(error)) from error

    async def run(self, send: Send, *others: Coroutine[Any, Any, None]) -> list[BaseException | None]:
        """Walk and show until cancelled, the browser is gone, or one of ``others`` ends; how all of them ended.

        What went wrong is returned and not raised: an exception that a cancelled task group keeps refers to the
        frame that keeps it, and so keeps the walk, its tensors and its connection until Python collects cycles.
        """
        self.held, self.pressed = frozenset(), set()
        screen = _Screen(send, self.shared.fps)
        tasks = [asyncio.create_task(part) for part in (*others, screen.run(), self._walk(send, screen))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        return ends

    async def _walk(self, send: Send, screen: _Screen) -> None:
        if self.moments:
            await self._show_place(send, screen)
        costs = Costs()
        while True:
            await asyncio.sleep(screen.pace.due - costs.ahead - time.monotonic())
            while self.commands:
                await self._obey(self.commands.popleft(), send, screen)
            composite = self._next_composite()
            if composite is None:
                self.wake.clear()
                await self.wake.wait()
                continue
            begun, number = time.monotonic(), self.number
            moment = await self._step(composite)
            messages = self._pictures(moment, number)
            costs.add(time.monotonic() - begun)
            await screen.put(messages)
            await self._remember(moment, send)

    def _next_composite(self) -> int | None:
        """The action of the keys, which stop a replay, or of the replayed path; None while the walk pauses."""
        if not self.moments or len(self.moments[-1].composites_M) > MAX_WALK_LATENTS:
            return None
        keys, self.pressed = self.held | self.pressed, set()
        if keys:
            self.script = ()
            return self._read(keys)
        done = len(self.moments[-1].composites_M)
        return self.script[done] if done < len(self.script) else None

    async def _step(self, composite: int) -> Moment:
        here = self.moments[-1]
        places = await asyncio.gather(
            *(
                in_worker(pane, place.step, composite) if place else _nothing()
                for pane, place in zip(self.shared.panes, here.places, strict=True)
            )
        )
        return replace(here, places=tuple(places))

    async def _remember(self, moment: Moment, send: Send) -> None:
        """Store a step whose pictures are being sent: settle its places and read the gauges."""
        before, reader = self.moments[-1], self.shared.fittings.reader
        truth = _truth(self.shared.panes, moment)
        settled = await asyncio.gather(
            *(
                in_worker(pane, _settle, reader, gauge, watch, old, new, truth)
                for pane, gauge, watch, old, new in zip(
                    self.shared.panes,
                    before.gauges,
                    before.watches,
                    before.places,
                    moment.places,
                    strict=True,
                )
            )
        )
        moment = Moment(*zip(*settled, strict=True))
        self.moments.append(moment)
        if self.recording is not None and not self.recording.add(_frames(moment)):
            await self._stop_recording(send)
        await self._tell(send)

    async def _obey(self, command: Message, send: Send, screen: _Screen) -> None:
        try:
            if isinstance(command, Record):
                await self._record(command.on, send)
                return
            if isinstance(command, Begin):
                await self._begin(command)
            elif isinstance(command, Rewind):
                self._rewind(command.latents)
        except UserError as error:
            await send.text({"type": "error", "text": str(error)})
        else:
            await self._show_place(send, screen)

    async def _show_place(self, send: Send, screen: _Screen) -> None:
        """Show the current place without a step."""
        await self._tell(send)
        await screen.put(self._pictures(self.moments[-1], self.number)[-1:])

    async def _begin(self, command: Begin) -> None:
        start = self.shared.starts.find(command.start)
        script = read_path(self.shared.space, command.path)
        places = await asyncio.gather(
            *(in_worker(pane, pane.begin, start, command.seed) for pane in self.shared.panes)
        )
        self.start, self.seed, self.script, self.pressed = start, command.seed, script, set()
        self.moments.clear()
        gauges = tuple(Gauge.begin(start.image_3hw, pane.real) for pane in self.shared.panes)
        watches = await asyncio.gather(
            *(
                in_worker(pane, _watch, self.shared.fittings.referee, start, place)
                for pane, place in zip(self.shared.panes, places, strict=True)
            )
        )
        self.moments.append(Moment(tuple(places), gauges, tuple(watches)))

    def _rewind(self, latents: int) -> None:
        if not self.moments:
            raise UserError("there is nothing to rewind: choose a start first")
        goal = max(1, len(self.moments[-1].composites_M) - latents)
        self.script = ()
        while len(self.moments) > 1 and len(self.moments[-1].composites_M) > goal:
            self.moments.pop()

    async def _record(self, on: bool, send: Send) -> None:
        if not on:
            await self._stop_recording(send)
        elif not self.moments:
            raise UserError("there is nothing to record: choose a start first")
        else:
            shown = [
                p.name for p, place in zip(self.shared.panes, self.moments[-1].places, strict=True) if place
            ]
            self.recording = Recording(tuple(shown), self.shared.fps)
            self.recording.add([frames[-1:] for frames in _frames(self.moments[-1])])
            await send.text({"type": "recording", "seconds": self.recording.longest})

    async def _stop_recording(self, send: Send) -> None:
        recording, self.recording = self.recording, None
        if recording is None:
            return
        await send.text({"type": "saving"})
        files = await asyncio.to_thread(self.shared.shelf.save, recording)
        await send.text({"type": "recorded", **files})

    def _pictures(self, moment: Moment, number: int) -> list[bytes]:
        """The messages of a moment's frames; panes without a place send empty pictures."""
        shown = [place.frames_F3hw if place else None for place in moment.places]
        count = max(len(frames) for frames in shown if frames is not None)
        latent = len(moment.composites_M) - 1
        jpegs = [_jpegs(frames, count) for frames in shown]
        return [pack_pictures(pictures, number, latent) for pictures in zip(*jpegs, strict=True)]

    async def _tell(self, send: Send) -> None:
        """Send the gauges and the facts that make up the link."""
        assert self.start is not None
        moment = self.moments[-1]
        done = len(moment.composites_M) - 1
        await send.text(
            {
                "type": "state",
                "start": self.start.id,
                "seed": self.seed,
                "path": self.shared.space.path(moment.composites_M),
                "latents": done,
                "rewindable": done + 1 - len(self.moments[0].composites_M),
                "full": done >= MAX_WALK_LATENTS,
                "replaying": done + 1 < len(self.script),
                "goals": list(referee.goals(self.start)) if (referee := self.shared.fittings.referee) else [],
                "action": list(self.shared.space.words(moment.composites_M[-1])),
                "recorded": self.recording.seconds if self.recording else None,
                "panes": [
                    {**gauge.as_json(self.shared.space), "reached": reached(watch)}
                    for gauge, watch in zip(moment.gauges, moment.watches, strict=True)
                ],
            }
        )


def read_path(space: ActionSpace, text: str, longest: int = MAX_WALK_LATENTS) -> tuple[int, ...]:
    """The composite actions of a path, with the start's 0 first; an empty path has no step.

    Raises:
        UserError: when the path is malformed or too long.
    """
    if not text.strip():
        return (0,)
    try:
        return tuple(space.parse(text, longest).tolist())
    except ValueError as error:
        raise UserError(str(error)) from error


def _settle(
    reader: Reader | None,
    gauge: Gauge,
    watch: Watch | None,
    before: Place | None,
    now: Place | None,
    truth_3hw: Tensor | None,
) -> tuple[Place | None, Gauge, Watch | None]:
    """A pane's place, prepared for the next step, with its gauge and watch."""
    if watch is not None and now is not None:
        watch = watch.after(now)
    return None if now is None else now.settle(), gauge.after(reader, before, now, truth_3hw), watch


def _watch(referee: Referee | None, start: Start, place: Place | None) -> Watch | None:
    return None if referee is None or place is None else referee.watch(start, place)


def _truth(panes: Sequence[Pane], moment: Moment) -> Tensor | None:
    """The engine's last frame, if a pane shows it."""
    shown = zip(panes, moment.places, strict=True)
    return next((place.frames_F3hw[-1] for pane, place in shown if pane.real and place is not None), None)


def _frames(moment: Moment) -> Sequence[Tensor]:
    return [place.frames_F3hw for place in moment.places if place is not None]


def _jpegs(frames_F3hw: Tensor | None, count: int) -> list[bytes]:
    """``count`` JPEGs of a pane; its last frame repeats if it has fewer, and without a place they are empty."""
    if frames_F3hw is None:
        return [b""] * count
    jpegs = [encode_frame(frame) for frame in frames_F3hw]
    return jpegs + jpegs[-1:] * (count - len(jpegs))


async def in_worker(pane: Pane, function: Callable[..., Any], *arguments: object) -> Any:
    """The function's result, computed in turn by the pane's own thread."""
    return await asyncio.get_running_loop().run_in_executor(pane.worker, function, *arguments)


async def _nothing() -> None:
    return None
