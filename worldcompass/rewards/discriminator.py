"""A reward that moves with the policy: small networks that tell imagined chunks from the engine's.

A fixed judge of looks has a fixed blind side, which training finds. These networks learn from the candidates of
every step, after they were scored, so a new trick is a fake that they have seen. The real side is reachable truth,
the engine through the world's autoencoder, so what the decoder cannot show is never asked for.

DiffusionNFT's reward is the probability that a future is "optimal"; with "optimal" read as "from the engine" that
probability is a discriminator's output. Sources: Adv-GRPO (arXiv 2511.20256) and SHIFT (2603.17426) for the moving
reward, SimGAN (1612.07828) for the replay and the patches, R3GAN (2501.05441) for the paired loss and penalties.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, leaky_relu, softplus

from worldcompass.critic import Need
from worldcompass.media.pixels import luma, window_means
from worldcompass.rewards.abstain import abstain
from worldcompass.rewards.examples import CLIP, Replay, chunk_clips, clip_frames, pairs_of
from worldcompass.runs.checkpoint import pack_optimizer, unpack_optimizer
from worldcompass.seeding import Key, generator_for
from worldcompass.types import Group, Scores

WIDTHS = (16, 32, 32)  # channels of the three convolutions, each of stride 2; a patch sees 15 pixels
PATCHES = 0.7  # share of the patches' mean in the logit; the rest is one logit of the whole picture
GREY, RANGE = 127.5, 64.0  # levels of 255 that become 0 and 1
BLUR = 5  # pixels of the low-pass that the high-pass takes away


def as_luma(clips_N33hw: Tensor) -> Tensor:
    """Brightness of the frames and its changes, (N, 5, h, w): blind to colour."""
    bright = luma(clips_N33hw) / RANGE - GREY / RANGE
    return torch.cat([bright, bright.diff(dim=1)], 1)


def as_detail(clips_N33hw: Tensor) -> Tensor:
    """What a blur takes away, (N, 9, h, w): blind to shade and large shapes."""
    frames = clips_N33hw.float().flatten(1, 2) / RANGE
    return frames - window_means(frames, BLUR, BLUR // 2)


def as_small(clips_N33hw: Tensor) -> Tensor:
    """Frames of half the size and their changes, (N, 15, h / 2, w / 2): blind to fine grain."""
    frames = clips_N33hw.float() / RANGE - GREY / RANGE
    small = avg_pool2d(frames.flatten(1, 2), 2).unflatten(1, (3, 3))
    return torch.cat([small.flatten(1, 2), small.diff(dim=1).flatten(1, 2)], 1)


VIEWS: tuple[tuple[Callable[[Tensor], Tensor], int], ...] = ((as_luma, 5), (as_detail, 9), (as_small, 15))


class PatchNet(nn.Module):
    """Logit of a view: the mean over patches, and one of the whole picture. No normalisation over the batch."""

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        sizes = (channels, *WIDTHS)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(sizes))
        self.patch, self.whole = nn.Conv2d(WIDTHS[-1], 1, 1), nn.Linear(WIDTHS[-1], 1)
        with torch.no_grad():
            for parameter in self.parameters():
                fan = parameter[0].numel()
                drawn = torch.randn(parameter.shape, generator=generator) * (2 / fan) ** 0.5
                parameter.copy_(drawn if parameter.ndim > 1 else torch.zeros_like(parameter))

    def forward(self, view_NChw: Tensor) -> Tensor:
        """Logits, (N,)."""
        x = view_NChw
        for layer in self.convolutions:
            x = leaky_relu(layer(x), 0.2)
        patches = self.patch(x).mean((1, 2, 3))
        return PATCHES * patches + (1 - PATCHES) * self.whole(x.mean((-2, -1)))[:, 0]


@dataclass(frozen=True)
class Schooling:
    """How the networks learn."""

    updates: int = 6
    """Per step."""
    pairs: int = 32
    """Pairs of a real and an imagined clip in an update."""
    lr: float = 2e-3
    penalty: float = 1.0
    """Weight of the squared change of a logit under noise, which stands for the gradient penalties R1 and R2."""
    noise: float = 6.0
    """Of the penalty, levels of 255."""
    least_accuracy: float = 0.6
    """Share of a step's pairs told apart before any was learned from, below which the critic abstains."""
    enough: float = 0.95
    """Share above which it learns from a step with one update only."""


class Discriminator:
    """Probability that a candidate looks more like the engine than its unguided sibling; between 0 and 1.

    ``sigma(D(x) - D(sibling))`` of three networks with different inputs, the mean less one deviation: a candidate
    must convince them all. The siblings are those without guidance, or all of the group when none is known. It
    abstains until it tells a new step's pairs apart. Chunks of one or two frames are seen behind the frames before
    them, and teach it after true pasts alone.
    """

    needs: tuple[Need, ...] = ("truth", "reachable")

    def __init__(self, schooling: Schooling | None = None, seed: int = 0, name: str = "reality") -> None:
        """Start with untrained networks drawn from ``seed``."""
        self.schooling, self.seed, self.name = schooling or Schooling(), seed, name
        self.load({})

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; reads pixels and guidance alone."""
        frames_GF3hw = clip_frames(group, group.frames_GF3hw)
        if float(self._accuracy) < self.schooling.least_accuracy or frames_GF3hw.shape[1] < CLIP:
            return abstain(group)
        with torch.no_grad():
            logits_DG = self.logits(frames_GF3hw)
        guidance = group.guidance_G
        plain_G = None if guidance is None else (guidance == 0).to(logits_DG.device)
        known = plain_G is not None and bool(plain_G.any())
        centre_D1 = (logits_DG[:, plain_G] if known else logits_DG).mean(1, keepdim=True)
        values_DG = (logits_DG - centre_D1).sigmoid()
        values_G = (values_DG.mean(0) - values_DG.std(0)).float().cpu()
        return Scores(values_G, torch.ones(len(values_G), dtype=torch.bool))

    def logits(self, frames_GF3hw: Tensor) -> Tensor:
        """Mean logit of every network over the chunk's clips, (D, G); higher for the engine."""
        clips_GX33hw = chunk_clips(frames_GF3hw)
        size = clips_GX33hw.shape[:2]
        nets = self.nets.to(frames_GF3hw.device)
        logits = self._each(nets, clips_GX33hw.flatten(0, 1))
        return torch.stack([logit.unflatten(0, size).mean(1) for logit in logits])

    @staticmethod
    def _each(nets: nn.ModuleList, clips_N33hw: Tensor) -> list[Tensor]:
        return [net(view(clips_N33hw)) for net, (view, _) in zip(nets, VIEWS, strict=True)]

    # ------------------------------------------------------------------ learning

    def examples(self, groups: Sequence[Group], keys: tuple[Key, ...]) -> Tensor:
        """See ``Learner``: pairs of clips, see ``pairs_of``."""
        return pairs_of(groups, keys)

    def learn(self, examples: Tensor, keys: tuple[Key, ...]) -> dict[str, float]:
        """See ``Learner``: ``accuracy`` on the new pairs before any was learned from, and the last ``loss``."""
        if not len(examples):
            return {}
        plan, new = self.schooling, examples.cpu()
        with torch.no_grad():
            real, fake = (torch.stack(self._each(self.nets, new[:, side])) for side in (0, 1))
            told = ((real > fake).float() + 0.5 * (real == fake)).mean()
        self._accuracy = told.clone()
        updates = 1 if float(told) > plan.enough else plan.updates
        loss = 0.0
        for update in range(updates):
            generator = generator_for(*keys, self.name, update)
            batch = self.replay.batch(new, plan.pairs, generator)
            noise = plan.noise * torch.randn(batch.shape, generator=generator)
            loss = self._update(batch, noise)
        self.replay.keep(new, generator_for(*keys, self.name, "replay"))
        return {"accuracy": float(told), "loss": loss}

    def _update(self, pairs: Tensor, noise: Tensor) -> float:
        """One step on the relativistic loss of the pairs, ``softplus(D(fake) - D(real))``, and the penalty."""
        self.optimizer.zero_grad(set_to_none=True)
        near = pairs.float() + noise
        total = torch.zeros(())
        for net, (view, _) in zip(self.nets, VIEWS, strict=True):
            real, fake, real_near, fake_near = (
                net(view(clips)) for clips in (pairs[:, 0], pairs[:, 1], near[:, 0], near[:, 1])
            )
            penalty = (real_near - real).square() + (fake_near - fake).square()
            total = total + (softplus(fake - real) + self.schooling.penalty * penalty).mean()
        torch.autograd.backward(total)
        self.optimizer.step()
        return float(total.detach()) / len(VIEWS)

    def state(self) -> dict[str, Tensor]:
        """See ``Learner``."""
        tensors, _ = pack_optimizer(self.optimizer)
        nets = {f"nets/{name}": t for name, t in self.nets.state_dict().items()}
        kept = {f"replay/{name}": t for name, t in self.replay.state().items()}
        return {
            **nets,
            **{f"optimizer/{n}": t for n, t in tensors.items()},
            **kept,
            "accuracy": self._accuracy,
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See ``Learner``."""
        generator = generator_for("discriminator", self.seed)
        self.nets = nn.ModuleList(PatchNet(channels, generator) for _, channels in VIEWS)
        self.optimizer = torch.optim.Adam(self.nets.parameters(), lr=self.schooling.lr, betas=(0.5, 0.99))
        parts: dict[str, dict[str, Tensor]] = {"nets": {}, "optimizer": {}, "replay": {}, "accuracy": {}}
        for name, tensor in state.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        self.replay = Replay.of(parts["replay"])
        self._accuracy = parts["accuracy"].get("", torch.zeros(())).clone()
        if parts["nets"]:
            self.nets.load_state_dict(parts["nets"])
            plain = {"state": {}, "param_groups": self.optimizer.state_dict()["param_groups"]}
            unpack_optimizer(self.optimizer, parts["optimizer"], plain)
