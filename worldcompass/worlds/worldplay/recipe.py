"""The recipe of both WorldPlay models, with the settings of the method's paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from worldcompass.parallel.sharding import Parallel
from worldcompass.recordings import ReadActions
from worldcompass.rewards.bundle import Rewards
from worldcompass.rewards.paper import INTERACTION, QUALITY, PaperRewards
from worldcompass.training.advantages import all_groups
from worldcompass.training.balance import Weighing
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.keeping import Keeping
from worldcompass.training.objective import nft_loss
from worldcompass.training.optim import Optimiser, muon
from worldcompass.training.policy import Decay
from worldcompass.training.selection import Learning
from worldcompass.types import Scenario
from worldcompass.worlds.open.decoder import Decoder
from worldcompass.worlds.open.poses import TRAINING_MOTION
from worldcompass.worlds.open.prepare import Preparation
from worldcompass.worlds.open.recipe import OpenRecipe
from worldcompass.worlds.open.weights import FILE_NAME, GENERATOR_FILE
from worldcompass.worlds.worldplay.config import Config5B, Config8B
from worldcompass.worlds.worldplay.context import timesteps, whole_timesteps
from worldcompass.worlds.worldplay.preparation import preparation_of
from worldcompass.worlds.worldplay.recordings import read_moves
from worldcompass.worlds.worldplay.sources import OfficialFiles, StandIns
from worldcompass.worlds.worldplay.transformer_5b import Transformer5B
from worldcompass.worlds.worldplay.transformer_8b import Transformer8B
from worldcompass.worlds.worldplay.world import CHUNK, FAMILY_5B, FAMILY_8B, WorldPlay, WorldPlayContext

Network = Config8B | Config5B
Source = OfficialFiles | StandIns


@dataclass(frozen=True, kw_only=True)
class WorldPlayRecipe(OpenRecipe):
    """See ``OpenRecipe``. Recordings are videos with poses, see ``worldplay.recordings``."""

    network: Network
    latent_size: tuple[int, int]
    """Cells of a latent, (height, width); 16 pixels each in the official models."""
    source: Source
    """Source of weights, decoder, conditioning and trajectories."""
    whole_timesteps: bool = False
    """Truncate the network's timesteps to whole numbers, as the released training does."""
    rewards: Rewards = field(default_factory=PaperRewards)
    """Source of the critics."""

    def build(self, fill: Callable[[nn.Module], object], decoder: Decoder) -> WorldPlay:
        """See ``OpenRecipe``."""
        kind = Transformer8B if isinstance(self.network, Config8B) else Transformer5B
        family = FAMILY_8B if isinstance(self.network, Config8B) else FAMILY_5B
        with torch.device("meta"):
            net = kind(self.network, self.recompute)  # type: ignore[arg-type]
        fill(net)
        timestep_of = whole_timesteps if self.whole_timesteps else timesteps
        return WorldPlay(family, net, decoder, self.latent_size, TRAINING_MOTION, timestep_of)

    def blank_decoder(self) -> Decoder:
        """See ``OpenRecipe``."""
        return self.source.blank_decoder(self.network)

    def scenarios_along(self, num_latents: int, seed: int) -> list[Scenario]:
        """See ``OpenRecipe``."""
        return self.source.scenarios(self.network, self.latent_size, num_latents, seed)

    def start_of(self, video: Path) -> tuple[Mapping[str, Tensor], str]:
        """See ``OpenRecipe``."""
        return self.source.start_of(video, self.network, self.latent_size)

    def preparation(self) -> Preparation:
        """See ``OpenRecipe``."""
        return preparation_of(self.network, self.latent_size)

    def with_depth(self, num_blocks: int) -> Self:
        """See ``OpenRecipe``."""
        return replace(self, network=replace(self.network, num_blocks=num_blocks))

    @property
    def num_blocks(self) -> int:
        """See ``OpenRecipe``."""
        return self.network.num_blocks

    @property
    def remembered_chunks(self) -> int:
        """See ``OpenRecipe``."""
        family = FAMILY_8B if isinstance(self.network, Config8B) else FAMILY_5B
        return family.memory.num_latents // CHUNK

    def begin(self, world: Any, pasts: int) -> WorldPlayContext:
        """See ``OpenRecipe``."""
        return self.source.begin(world, pasts)

    @property
    def exported(self) -> str:
        """See ``OpenRecipe``."""
        return FILE_NAME if isinstance(self.network, Config8B) else GENERATOR_FILE

    @property
    def read_actions(self) -> ReadActions:
        """See ``OpenRecipe``: poses in the official form, or a path."""
        return read_moves


# The paper's settings (arXiv 2602.09022), as in WorldCompass's released training script for the 8B. The comment
# after each value gives its name there, or another source. The 5B's training was not released.
PAPER = Config(
    steps=100,  # max_train_steps; the paper's curve shows about 48
    seed=42,  # seed
    sampling=Sampling(
        prompts_per_step=8,  # one per GPU of its node
        group_size=12,  # grpo_generation_num
        first_chunk=0,  # min_chunk_id 1, counted from 1
        last_chunk=15,  # max_chunk_id 16; min2max: clips grow by one chunk per step, then restart at the shortest
        denoising_steps=40,  # sampling_steps
    ),
    rewards=Weighing(
        weights={INTERACTION: 2.0, QUALITY: 1.0},  # weights of its action and its drift reward, 2:1
        scale=all_groups,  # std_type global
        advantage_clip=2.0,  # adv_clip_max
    ),
    learning=Learning(
        best=3,  # bestofn 6: half of them the best
        worst=3,  # and half the worst
        noise_levels=20,  # train_timestep_fraction 0.5 of them
        updates_per_rollout=3,  # gradient_accumulation_steps 2 of 6 chosen candidates
        micro_rows=4,  # this project's choice; it affects only memory
        objective=nft_loss,  # the paper's; the script computes advantage_weighted_loss, see docs/worldplay.md
        beta=1.0,  # in its loss the negative velocity is 2 v_old - v
        kl_weight=0.0,  # no reference in its loss
    ),
    optimiser=Optimiser(
        make_optimizer=muon,  # Muon, with AdamW for one-dimensional parameters
        lr=1e-5,  # learning_rate
        weight_decay=1e-4,  # weight_decay
        max_grad_norm=2.0
        / 20,  # max_grad_norm, of a loss that sums its 20 noise levels; here the mean of rows
        behaviour_decay=Decay(0.2, 0.9, 0.01),  # ema min, max, step
        checkpoint_decay=0.9,  # ema_ckpt_decay
        autocast_bf16=True,  # computes in bfloat16 with float32 master weights
    ),
    keeping=Keeping(save_every=6, probe_every=6),  # checkpoints and evaluation videos every 6 steps
    parallel=Parallel(shard=True),  # HSDP over the GPUs of a node
)
