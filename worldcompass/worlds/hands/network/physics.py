"""How things move when the gripper moves: a small network that learns it from where things really went."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.hands.facts import FINGER_HALF, THINGS
from worldcompass.worlds.hands.network.state import State

WIDTH, DEPTH, HEADS = 128, 3, 4
FAR, STEP_UNIT, PLACE_UNIT = 0.3, 0.05, 0.1  # metres: of distances that still count; units of the inputs
STILL_BORN = 2.0  # weight of standing still before anything is learned, as a logit
FEATURES = 27
PLACE_ERROR, GRIP_ERROR = 0.002, 0.0015  # deviations of the errors that starts get, metres
SPEED_LOST = 0.25  # share of starts that lose their speeds


class Attending(nn.Module):
    """Things that look at each other, then a perceptron for each."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, x_NTD: Tensor, sees_NTT: Tensor) -> Tensor:
        """The same shape; bool ``sees_NTT`` says who sees whom."""
        q, k, v = self.qkv(self.before(x_NTD)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=sees_NTT[:, None])
        x = x_NTD + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.down(functional.silu(self.up(self.between(x))))


class Physics(nn.Module):
    """Each thing stays, comes along with the gripper, or does something of its own; a new network lets all stay."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(FEATURES, WIDTH)
        self.kind = nn.Parameter(0.3 * torch.randn(len(THINGS), WIDTH))
        self.blocks = nn.ModuleList(Attending() for _ in range(DEPTH))
        self.norm, self.leave = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 + 3 + 3)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        with torch.no_grad():
            self.leave.bias[0] = STILL_BORN

    def forward(self, state: State, grip_N4: Tensor, nudge_NT3: Tensor | None = None) -> State:
        """The state (N, ...) one latent later.

        Args:
            state: now.
            grip_N4: where the gripper will be.
            nudge_NT3: metres that things go beside what is learned here.
        """
        here = state.here_T
        x = self.enter(_features(state, grip_N4)) + self.kind
        sees = here[:, None, :] | torch.eye(len(THINGS), dtype=torch.bool, device=here.device)
        for block in self.blocks:
            x = block(x, sees)
        ways, own, turned = self.leave(self.norm(x)).float().split((2, 3, 3), -1)
        along = (grip_N4 - state.grip_4)[:, None, :3]
        gone = ways.softmax(-1)[..., 1:] * along + STEP_UNIT * own
        if nudge_NT3 is not None:
            gone = gone + nudge_NT3
        gone = gone * here[..., None]
        up = functional.normalize(state.up_T3 + turned * here[..., None] + 1e-6, dim=-1)
        return State(grip_N4, state.middle_T3 + gone, up, gone)


def _features(state: State, grip_N4: Tensor) -> Tensor:
    """What each thing knows: itself, and where gripper and fingers are and will be; (N, T, FEATURES)."""
    now, then = state.grip_4[:, None], grip_N4[:, None]
    aside = now[..., 3:] / 2 + FINGER_HALF[0]
    middle = state.middle_T3 * state.here_T[..., None]
    from_grip = middle - now[..., :3]
    from_fingers = [from_grip[..., :1] + side * aside for side in (-1, 1)]
    near = torch.cat([from_grip, middle - then[..., :3]], -1).clamp(-FAR, FAR)
    told = torch.cat([now / PLACE_UNIT, (then - now) / STEP_UNIT], -1).expand(-1, len(THINGS), -1)
    return torch.cat(
        [
            middle / PLACE_UNIT, state.up_T3, state.speed_T3 / STEP_UNIT, near / STEP_UNIT,
            *(x.clamp(-FAR, FAR) / STEP_UNIT for x in from_fingers),
            from_grip.norm(dim=-1, keepdim=True) / PLACE_UNIT,
            told, state.here_T[..., None].to(middle),
        ],
        -1,
    )  # fmt: skip


def physics_loss(physics: Physics, numbers_NMD: Tensor, generator: torch.Generator, steps: int) -> Tensor:
    """Error of the things' places, in centimetres, and of their axes, after each of some latents in a row.

    Starts get small errors and lose their speeds at times, as those of imagined pictures and of single ones do.

    Args:
        physics: that learns.
        numbers_NMD: true states of N videos, see ``State.numbers``.
        generator: of the starts and errors.
        steps: latents in a row.
    """
    count, length = numbers_NMD.shape[:2]
    begin = torch.randint(length - steps, (count,), generator=generator)
    rows = begin[:, None] + torch.arange(steps + 1)
    true = State.of(numbers_NMD[torch.arange(count)[:, None], rows.to(numbers_NMD.device)])
    state, grip = _disturbed(true.each((slice(None), 0)), generator), true.grip_4
    errors = []
    for step in range(1, steps + 1):
        state = physics(state, grip[:, step])
        errors.append(_error(state, true.each((slice(None), step))))
    return torch.stack(errors).mean()


def _disturbed(state: State, generator: torch.Generator) -> State:
    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    here = state.here_T[..., None]
    keeps = torch.rand(len(here), 1, 1, generator=generator).to(state.grip_4) > SPEED_LOST
    return State(
        state.grip_4 + GRIP_ERROR * noise(state.grip_4),
        state.middle_T3 + PLACE_ERROR * noise(state.middle_T3) * here,
        state.up_T3,
        state.speed_T3 * keeps,
    )


def _error(found: State, true: State) -> Tensor:
    here = true.here_T.float()
    away = 100 * (found.middle_T3 - true.middle_T3)
    placed = functional.smooth_l1_loss(away, torch.zeros_like(away), reduction="none", beta=0.3).mean(-1)
    turned = (found.up_T3 - true.up_T3).abs().mean(-1)
    return ((placed + 0.5 * turned) * here).sum() / here.sum().clamp_min(1)
