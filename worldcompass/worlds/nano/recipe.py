"""The recipe of Nano World Models, with the settings of the method's paper as far as they fit single frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from worldcompass.errors import UserError
from worldcompass.rewards.bundle import Rewards
from worldcompass.rewards.paper import QUALITY
from worldcompass.rewards.played import INVERSE_DYNAMICS, PlayedRewards
from worldcompass.runs.requirements import lacking, lacks
from worldcompass.training.advantages import all_groups
from worldcompass.training.balance import Weighing
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling as Futures
from worldcompass.training.keeping import Keeping
from worldcompass.training.objective import nft_loss
from worldcompass.training.optim import Optimiser, muon
from worldcompass.training.policy import Decay
from worldcompass.training.selection import Learning
from worldcompass.types import Scenario
from worldcompass.worlds.nano.checkpoint import Checkpoint
from worldcompass.worlds.nano.noising import Regime
from worldcompass.worlds.nano.preparation import preparation_of
from worldcompass.worlds.nano.sources import OfficialFiles, StandIns
from worldcompass.worlds.nano.transformer import NanoTransformer
from worldcompass.worlds.nano.weights import MODEL_FILE, export_nano, load_nano
from worldcompass.worlds.nano.world import START, NanoContext, NanoWorld, Pictures, Sampling
from worldcompass.worlds.open.prepare import Preparation
from worldcompass.worlds.open.recipe import PUT_THERE, OpenRecipe, begin_on

# Latents per second by the numbers of a setting: PushT has 10 settings per second and 5 of them per latent, RT-1 3
# frames per second. Of other data sets the rate is unknown; this one is the shooter's recordings'.
RATES = {2: 2.0, 7: 3.0}
OTHER_RATE = 16.0


@dataclass(frozen=True, kw_only=True)
class NanoRecipe(OpenRecipe):
    """See ``OpenRecipe``. Recordings are videos with controls, see ``recordings.actions_in``."""

    source: OfficialFiles | StandIns
    """Source of weights, autoencoder, starts and controls."""
    rewards: Rewards = field(default_factory=PlayedRewards)
    """Source of the critics."""
    steps: int | None = 50
    """Denoising steps of a chunk; the checkpoint's own when None."""
    regime: Regime = "full"
    """Timesteps of the official training and planning, or ``respaced``, those of its rollout scripts."""
    history: int | None = None
    """Remembered latents; as many as in the official rollout when None. Fewer leave room for longer chunks."""
    given: int | None = None
    """First frames of a video that are given; the checkpoint's own number when None."""
    fps: float | None = None
    """Latents per second; guessed from the controls when None."""
    half_weights: bool = False
    """See ``OpenRecipe``; the network is small, and the official inference runs in float32."""
    depth: int | None = None
    """Blocks of the network instead of the checkpoint's, for ``worldcompass plan``."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint's configuration."""
        found = self.source.checkpoint
        depth = found.network.num_blocks if self.depth is None else self.depth
        return replace(found, network=replace(found.network, num_blocks=depth))

    @property
    def sampling(self) -> Sampling:
        """The settings of the sampler."""
        own = self.source.checkpoint
        return Sampling(
            own.num_steps if self.steps is None else self.steps, self.regime, self.history, self.num_given
        )

    @property
    def num_given(self) -> int:
        """First frames of a video that are given."""
        return self.given or self.source.checkpoint.given

    @property
    def rate(self) -> float:
        """Latents per second."""
        return self.fps or RATES.get(self.source.checkpoint.setting_size, OTHER_RATE)

    def build(self, fill: Callable[[nn.Module], object], decoder: Pictures) -> NanoWorld:
        """See ``OpenRecipe``.

        Raises:
            UserError: when settings, configuration and autoencoder do not fit together.
        """
        checkpoint = self.checkpoint
        side = checkpoint.network.latent_size * decoder.pixels_per_cell
        if side != checkpoint.side:
            raise UserError(
                f"the checkpoint has frames of {checkpoint.side} pixels, which the autoencoder turns into"
                f" {checkpoint.side / decoder.pixels_per_cell:g} cells instead of {checkpoint.network.latent_size}:"
                " give the one that its configuration names"
            )
        with torch.device("meta"):
            net = NanoTransformer(checkpoint.network, self.recompute)
        try:
            return NanoWorld(
                _filled(net, fill), decoder, checkpoint.noising, self.source.actions, self.sampling, self.rate
            )
        except ValueError as why:
            raise UserError(str(why)) from why

    def check_settings(self) -> None:
        """See ``OpenRecipe``; futures of given frames cannot be compared."""
        super().check_settings()
        length, first = self._length, self.config.sampling.first_chunk
        if (first + 1) * length <= self.num_given:
            raise UserError(
                f"config.first_chunk is {first}, but the first {self.num_given} frames are given: set it to"
                f" {self.num_given // length} or more"
            )

    def blank_decoder(self) -> Pictures:
        """See ``OpenRecipe``."""
        return self.source.blank_decoder()

    def scenarios_along(self, num_latents: int, seed: int) -> list[Scenario]:
        """See ``OpenRecipe``."""
        return self.source.scenarios(self.num_given, num_latents, seed)

    def start_of(self, video: Path) -> tuple[Mapping[str, Tensor], str]:
        """See ``OpenRecipe``."""
        return self.source.start_of(self.num_given, video)

    def preparation(self) -> Preparation:
        """See ``OpenRecipe``."""
        source = self.source
        folder = source.checkpoints if isinstance(source, OfficialFiles) else None

        def check() -> None:
            if things := lacking(source.statistics_files()):
                raise UserError(lacks("the data set", things, PUT_THERE))

        return preparation_of(self.checkpoint, self.num_given, self.rate, source.actions.space, folder, check)

    @property
    def num_blocks(self) -> int:
        """See ``OpenRecipe``: pairs, as blocks within latents and along time take turns."""
        return -(-self.source.checkpoint.network.num_blocks // 2)

    def with_depth(self, num_blocks: int) -> Self:
        """See ``OpenRecipe``."""
        return replace(
            self, depth=self.source.checkpoint.network.num_blocks - 2 * (self.num_blocks - num_blocks)
        )

    @property
    def remembered_chunks(self) -> int:
        """See ``OpenRecipe``."""
        return self.checkpoint.network.num_frames

    def begin(self, world: NanoWorld, pasts: int) -> NanoContext:
        """See ``OpenRecipe``."""
        channels, height, width = world.spec.latent_shape
        return begin_on(world, pasts, {START: torch.zeros(channels, self.num_given, height, width)})

    def first_latent(self, conditioning: Mapping[str, Tensor]) -> Tensor:
        """See ``OpenRecipe``: the last given latent."""
        return conditioning[START][:, -1]

    @property
    def exported(self) -> str:
        """See ``OpenRecipe``."""
        return MODEL_FILE

    def export(self, net: nn.Module, file: Path) -> None:
        """See ``OpenRecipe``; the configuration is copied next to the weights."""
        export_nano(net, file, self.source.config_file)

    def load(self, net: nn.Module, file: Path, dtype: torch.dtype, device: str) -> None:
        """See ``OpenRecipe``."""
        load_nano(net, file, dtype, device)

    def file_in(self, folder: Path) -> Path:
        """See ``OpenRecipe``."""
        return folder / MODEL_FILE


def _filled(net: NanoTransformer, fill: Callable[[nn.Module], Any]) -> NanoTransformer:
    fill(net)
    return net


# The method's settings (arXiv 2602.09022) but for those whose comment gives another reason; none is tried on real
# weights. One chunk is one frame, so that the curriculum counts frames.
SETTINGS = Config(
    steps=100,
    seed=42,
    sampling=Futures(
        prompts_per_step=8,
        group_size=12,
        first_chunk=1,  # frame 0 is given
        last_chunk=16,  # eight seconds of PushT
        clip_chunks=4,  # two seconds: one frame hardly shows a control
    ),
    rewards=Weighing(
        weights={INVERSE_DYNAMICS: 2.0, QUALITY: 1.0},
        scale=all_groups,
        advantage_clip=2.0,
    ),
    learning=Learning(
        best=3,
        worst=3,
        noise_levels=20,
        updates_per_rollout=3,
        micro_rows=16,  # affects only memory
        objective=nft_loss,
        beta=1.0,
        kl_weight=0.0,
    ),
    optimiser=Optimiser(
        make_optimizer=muon,
        lr=1e-5,
        weight_decay=1e-4,
        max_grad_norm=2.0 / 20,  # of the mean over levels; the released threshold is of their sum
        behaviour_decay=Decay(0.2, 0.9, 0.01),
        checkpoint_decay=0.9,
    ),
    keeping=Keeping(save_every=6, probe_every=6),
)
