"""The transformer of the Hands world: it says where the gripper goes, and mends shadows."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.hands.facts import FRAME_SIZE, NOMINAL, THINGS
from worldcompass.worlds.hands.network.autoencoder import CODE, COLOUR, HandsAutoencoder
from worldcompass.worlds.hands.network.layers import laid
from worldcompass.worlds.hands.network.shadows import shadows_of
from worldcompass.worlds.hands.network.state import GRIP, NUMBERS, State
from worldcompass.worlds.hands.network.views import SHOWN, Seen
from worldcompass.worlds.small.heads import LEAST_VARIANCE, posterior_velocity
from worldcompass.worlds.small.mixing import MixingConfig, MixingTransformer
from worldcompass.worlds.small.transformer import Inputs, Rotary, rotary_of

NUM_CONTROLS = 12  # of a command: of the latent, since the last finished one, and how many latents that is
CONFIG = MixingConfig(
    CODE.latent_shape,
    seen=SHOWN,
    controls=NUM_CONTROLS,
    token=(2, 2),
    width=192,
    depth=4,
    head=48,
    frame_size=FRAME_SIZE,
    views=0,
    planes=2,
    held=3,
    finest=4,
    grids=(64, 128),
)
"""Nothing is mixed: of each pixel the head says how much darker it is, and whether the gripper is in front."""
NUDGE = 0.02  # metres that one unit of a thing's correction stands for
PLACE_UNIT = 0.1  # metres
SPREAD_BORN = -1.5  # deviation of the gripper's steps before anything is learned, before the softplus
CELLS = CODE.latent_shape[1] * CODE.latent_shape[2]  # of a number
SHARES = 12  # planes of views before the parts' shares
MOTION_WIDTH = 192
FRONT_BORN = -4.0  # before anything is learned, as a logit
UNSURE = 0.05  # deviation of the guessed latents
ALIKE = 0.01  # deviation of the cells of a number from each other
DARKER = 0.5  # most that a shadow changes, as a share of itself


PLACE_RATES = (0.2, 0.4, 0.6, 0.8, 1.1, 1.4, 1.8, 2.4)  # radians for each row or column of tokens
TIME_RATES = (1.0, 0.6, 0.35, 0.2, 0.1, 0.05, 0.025, 0.012)  # radians for each latent


def rotary_table(positions_BK: Tensor) -> Rotary:
    """The rotary embedding of latents at these positions in time: row, column and time of each token."""
    rows, columns = CONFIG.grid
    device, shape = positions_BK.device, (*positions_BK.shape, CONFIG.tokens)
    row, column = torch.meshgrid(
        torch.arange(rows, device=device).float(), torch.arange(columns, device=device).float(), indexing="ij"
    )
    return rotary_of(
        (row.flatten().expand(shape), PLACE_RATES),
        (column.flatten().expand(shape), PLACE_RATES),
        (positions_BK[..., None].expand(shape), TIME_RATES),
    )


@dataclass(frozen=True)
class Noisy:
    """Numbers of noisy latents in the units of their channels; their noise is the mean of their cells' noise."""

    units_ND: Tensor
    level_N1: Tensor
    """Noise level of a cell."""

    def likely(self, guess_ND: Tensor, spread: Tensor) -> Tensor:
        """The first numbers' posterior means, of guesses with a deviation; see ``posterior_velocity``."""
        keep, noise = 1 - self.level_N1, self.level_N1 / CELLS**0.5
        total = keep.square() * spread.square() + noise.square() + LEAST_VARIANCE
        shown = self.units_ND[:, : guess_ND.shape[1]] - keep * guess_ND
        return guess_ND + spread.square() * keep / total * shown

    def likely_way(self, guess_ND: Tensor, spread_ND: Tensor, row: int) -> Tensor:
        """Posterior means of the first numbers, whose steps from latent to latent deviate from the guess's.

        Errors of steps are independent and add up, as those of a random walk do: so a reward of a step is about
        this step alone, and the gripper doesn't tremble. With the guess m, the steps' deviations s,
        ``C = L diag(s^2) L^T`` for L of ones on and below the diagonal, the share a that noisy latents x keep, and
        their noise n, the mean is ``m + C A (A C A + N)^-1 (x - A m)`` with ``A = diag(a)``, ``N = diag(n^2)``.

        Args:
            guess_ND: in units.
            spread_ND: of the step to each latent.
            row: latents of a row, one after the other.
        """
        units = self.units_ND[:, : guess_ND.shape[1]]
        guess, spread, shown = (_rows(x, row) for x in (guess_ND, spread_ND, units))
        level = _rows(self.level_N1, row)
        adds = torch.ones(row, row, device=guess.device).tril()
        errs = (adds * spread.square()[..., None, :]) @ adds.T
        keep = 1 - level
        seen = keep[..., :, None] * errs * keep[..., None, :]
        noise = level.square() / CELLS + LEAST_VARIANCE
        away = torch.linalg.solve(seen + torch.diag_embed(noise), shown - keep * guess)
        likely = guess + (errs @ (keep * away)[..., None])[..., 0]
        return likely.transpose(1, 2).flatten(0, 1)


def _rows(x_ND: Tensor, row: int) -> Tensor:
    """Numbers of N latents in rows, latents last; (N / row, D, row)."""
    return x_ND.unflatten(0, (-1, row)).transpose(1, 2)


class HandsTransformer(MixingTransformer):
    """Views are ``views_after``; commands are ``HandsWorld.command``.

    The gripper goes where the network says. Things follow by ``Physics`` and a correction, and so does what was cut
    out. Nothing is drawn freely but shadows. So a part may be in a wrong place, but it can't dissolve.
    """

    def __init__(self, autoencoder: HandsAutoencoder, config: MixingConfig = CONFIG) -> None:
        super().__init__(config, autoencoder.code)
        self.numbers = deepcopy(autoencoder.numbers)
        self.physics = deepcopy(autoencoder.physics).requires_grad_(
            False
        )  # what training changes is obedience

    def shown(self, latents_NCHW: Tensor) -> Tensor:
        """See ``MixingTransformer``: colour."""
        return self.code.decode(latents_NCHW[:, :COLOUR])

    def enter(self, inputs: Inputs) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See ``ChunkTransformer``; what was cut out is not looked at, as other planes show it."""
        return super().enter(replace(inputs, seen_PKDyx=inputs.seen_PKDyx[:, :, :SHOWN]))

    def add_head(self) -> None:
        """See ``ChunkTransformer``; all stands still at first."""
        super().add_head()
        del self.spread, self.spread_channels
        told = 2 * self.config.grids[-1]
        self.grip = _perceptron(told + 4, 8)
        self.nudge = _perceptron(told + 3 + len(THINGS), 3)
        with torch.no_grad():
            born = torch.tensor([0.0, FRONT_BORN]).repeat_interleave(self.config.finest**2)
            self.head.bias.copy_(born)  # type: ignore[union-attr]

    def velocity(self, planes_Nchw: Tensor, coarse_Ncyx: Tensor, inputs: Inputs) -> Tensor:
        """See ``MixingTransformer``: of parts where they belong, and of the numbers that say so."""
        views, level = inputs.seen_NDyx.float(), inputs.sigma_N.float()[:, None]
        colour, numbers = inputs.latents_NCHW.float().tensor_split((COLOUR,), 1)
        seen, noisy = Seen.of(views), Noisy(numbers.mean((2, 3)), level)
        state = self.moved(coarse_Ncyx, seen, views[:, SHARES:SHOWN], noisy, inputs.row, inputs.temperature)
        drawn = State.of(
            state.numbers().detach()
        )  # a picture that is a pixel off does not say in which direction
        layers = seen.parts.layers(drawn)
        darker, front = planes_Nchw.chunk(2, 1)
        dark = shadows_of(drawn) * (1 + DARKER * darker.tanh())
        picture = seen.parts.picture(drawn, layers, dark)
        picture = torch.lerp(picture, laid(picture, layers[:, len(THINGS) :]), front.sigmoid())
        level = level[..., None, None]
        painted = posterior_velocity(colour, self.code.encode(picture), level.new_full((1,), UNSURE), level)
        told = posterior_velocity(
            numbers, self.numbers.encode(state.numbers()), level.new_full((1,), ALIKE), level
        )
        return torch.cat([painted, told], 1)

    def moved(
        self, coarse_Ncyx: Tensor, seen: Seen, shares_NLhw: Tensor, noisy: Noisy, row: int, temperature: float
    ) -> State:
        """Where everything is at the end of each latent.

        Args:
            coarse_Ncyx: features after the transformer.
            seen: the views.
            shares_NLhw: of the parts in the last picture.
            noisy: what the noisy latents say.
            row: latents of a row, one after the other.
            temperature: see ``Inputs``.
        """
        cells = functional.adaptive_avg_pool2d(shares_NLhw, self.config.latent_shape[1:]).flatten(2)
        features = coarse_Ncyx.float().flatten(2)
        own = cells @ features.transpose(1, 2) / cells.sum(2, keepdim=True).clamp_min(1e-3)
        whole, state = features.mean(2), seen.state
        gripper = own[:, len(THINGS) :].mean(1)
        told = self.grip(torch.cat([gripper, whole, state.grip_4 / PLACE_UNIT], 1)).float()
        gone, unsure = told.split(GRIP, 1)
        guess = self.numbers.units(state.grip_4 + gone * gone.new_tensor(NOMINAL))
        unsure = temperature * functional.softplus(unsure + SPREAD_BORN)
        grip = self.numbers.numbers(noisy.likely_way(guess, unsure, row))
        kinds = torch.eye(len(THINGS), device=own.device).expand(len(own), -1, -1)
        things = [
            own[:, : len(THINGS)],
            whole[:, None].expand(-1, len(THINGS), -1),
            state.middle_T3 / PLACE_UNIT,
        ]
        nudges = NUDGE * self.nudge(torch.cat([*things, kinds], 2)).float()
        numbers = self.numbers.units(self._unrolled(state, grip, nudges, row).numbers())
        things = torch.arange(NUMBERS, device=numbers.device) >= GRIP  # the gripper's have been drawn
        likely = noisy.likely(numbers, numbers.new_tensor(temperature * UNSURE))
        return State.of(self.numbers.numbers(torch.where(things, likely, numbers)))

    def _unrolled(self, state: State, grip_N4: Tensor, nudge_NT3: Tensor, row: int) -> State:
        """Things after each latent of rows, whose first latents follow the same state."""
        now = state.each(slice(0, None, row))
        grips, nudges = (x.unflatten(0, (-1, row)) for x in (grip_N4, nudge_NT3))
        found = []
        for step in range(row):
            now = self.physics(now, grips[:, step], nudges[:, step])
            found.append(now.numbers())
        return State.of(torch.stack(found, 1).flatten(0, 1))


def _perceptron(told: int, numbers: int) -> nn.Sequential:
    """A small network that says nothing before it has learned."""
    last = nn.Linear(MOTION_WIDTH, numbers)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.Linear(told, MOTION_WIDTH), nn.SiLU(), nn.Linear(MOTION_WIDTH, MOTION_WIDTH), nn.SiLU(), last
    )
