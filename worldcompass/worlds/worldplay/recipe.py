"""The base of all WorldPlay recipes: loading, post-training and export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from worldcompass.critic import Critic
from worldcompass.errors import UserError
from worldcompass.parallel.sharding import Parallel
from worldcompass.parallel.team import Team
from worldcompass.recordings import Recording
from worldcompass.rewards.bundle import OwnRewards, Rewards
from worldcompass.rewards.paper import INTERACTION, QUALITY, PaperRewards
from worldcompass.rewards.truth_paired import TwoSided
from worldcompass.runs.final import exporting
from worldcompass.runs.folder import RunFolder
from worldcompass.runs.requirements import NeededFile, differences, lacking
from worldcompass.seeding import generator_for
from worldcompass.settings import HARMLESS
from worldcompass.training.advantages import all_groups
from worldcompass.training.balance import Weighing
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.keeping import Keeping
from worldcompass.training.loop import train_parts
from worldcompass.training.lora import Lora, export_lora, merge_lora
from worldcompass.training.objective import nft_loss
from worldcompass.training.optim import Optimiser, adamw, choose_trained, muon
from worldcompass.training.policy import Decay
from worldcompass.training.preflight import try_critics
from worldcompass.training.probe import SHOWN, HeldOut
from worldcompass.training.run import Parts
from worldcompass.training.selection import Learning
from worldcompass.types import Scenario
from worldcompass.world import WorldSpec
from worldcompass.worlds.worldplay.config import Config5B, Config8B
from worldcompass.worlds.worldplay.context import timesteps, whole_timesteps
from worldcompass.worlds.worldplay.decoder import VideoDecoder
from worldcompass.worlds.worldplay.poses import TRAINING_MOTION
from worldcompass.worlds.worldplay.recordings import recorded_scenarios
from worldcompass.worlds.worldplay.sources import OfficialFiles, StandIns
from worldcompass.worlds.worldplay.transformer_5b import Transformer5B
from worldcompass.worlds.worldplay.transformer_8b import Transformer8B
from worldcompass.worlds.worldplay.weights import FILE_NAME, GENERATOR_FILE, export_weights
from worldcompass.worlds.worldplay.world import CHUNK, FAMILY_5B, FAMILY_8B, Decoder, WorldPlay

if TYPE_CHECKING:
    from worldcompass.cost.plan import Needs

# Probes during training, as the released trainer's evaluation: latents of a video, and denoising steps.
LOOK_LATENTS, LOOK_STEPS = 32, 20
LOOK_SEED = 9_000_000  # of trajectories that no run draws, as its own seeds are far below
STEADINESS = "steadiness"

Network = Config8B | Config5B
Source = OfficialFiles | StandIns


@dataclass(frozen=True)
class WorldPlayRecipe:
    """Loads a world, post-trains it and exports its weights."""

    config: Config
    network: Network
    latent_size: tuple[int, int]
    """Cells of a latent, (height, width); 16 pixels each in the official models."""
    source: Source
    """Source of weights, decoder, conditioning and trajectories."""
    half_weights: bool = True
    """Keep frozen weights in bfloat16. Trained weights are always float32."""
    recompute: bool = field(default=True, metadata=HARMLESS)
    """Recompute each block's activations in the backward pass instead of storing them."""
    whole_timesteps: bool = False
    """Truncate the network's timesteps to whole numbers, as the released training does."""
    rewards: Rewards = field(default_factory=PaperRewards)
    """Source of the critics."""
    recordings: Path | None = None
    """Folder of videos with poses to train on, see ``worldplay.recordings``; images with trajectories when None."""

    def run(self, out: Path, device: str, resume: bool) -> None:
        """Post-train and write ``out/weights``: a file in the official form, and adapters if there are any.

        Raises:
            UserError: before anything is loaded, when a file or a package is missing or a checkpoint does not fit.
        """
        self.check()
        if Team.current().is_main:
            print("\n".join(self.source.notes()), end="\n" * bool(self.source.notes()), flush=True)
        parts = self.parts(device)
        length = self.config.sampling.chunk_length or CHUNK
        try_critics(parts.world, parts.critics, parts.scenarios[0], length)
        policy = train_parts(parts, out, resume=resume, held_out=self.looks(parts.scenarios))
        main, folder = Team.current().is_main, RunFolder(out)
        with policy.checkpoint(), exporting(folder, writes=main) as weights:
            if self.config.optimiser.lora is not None:
                export_lora(policy.net, self.config.optimiser.lora, weights / "adapter")
                merge_lora(policy.net)
            export_weights(policy.net, weights / self._exported)
        if main:
            print(f"wrote {folder.weights / self._exported}; curves: worldcompass report {out}")

    def check(self) -> None:
        """Check all inputs of the run; reads only headers.

        Raises:
            UserError: naming the missing files and packages, or the first tensor that differs.
        """
        self._check_types()
        if lacks := lacking(self._files(), self.rewards.modules()):
            raise UserError(
                f"this run lacks {'; '.join(lacks)}: put it there or give its path with --set; 'worldcompass plan'"
                " with the same settings lists all inputs"
            )
        for file in self._files(self._blank()):
            if wrong := differences(file):
                more = (
                    f" and {len(wrong) - 1} more: give the file of this model; 'worldcompass plan' lists them"
                )
                raise UserError(
                    f"{file.path} is not {file.what} as this recipe needs it: {wrong[0]}{more if wrong[1:] else ''}"
                )

    def check_world(self) -> None:
        """Check the inputs of the world alone, without the critics; reads only headers.

        Raises:
            UserError: naming the missing files.
        """
        self._check_types()
        network = self._blank()
        files = self.source.files(_shapes([network.net]), _shapes(_modules(network.decoder)))
        if lacks := lacking(files, ()):
            raise UserError(f"this world lacks {'; '.join(lacks)}: put it there or give its path with --set")

    def _check_types(self) -> None:
        """Refuse weights in bfloat16 without autocast, as the network's other tensors are float32.

        Raises:
            UserError: says which settings fit together.
        """
        if self.half_weights and not self.config.optimiser.autocast_bf16:
            raise UserError(
                "half_weights keeps frozen weights in bfloat16, which needs config.autocast_bf16=true: set that, or"
                " half_weights=false"
            )

    def parts(self, device: str) -> Parts:
        """The parts of a training run, with loaded weights."""
        scenarios, critics, config = self.scenarios(), self.rewards.critics(device), self.config
        if self.recordings is not None:
            # It asks for reachable truth, with which the doctor compares the pictures; by default it has no weight.
            critics = [*critics, TwoSided(name=STEADINESS)]
            config = config.changed(weights={STEADINESS: 0.0, **config.rewards.weights})
        world = self.world(
            partial(self.source.fill, dtype=self._loaded_as, device=device), self.source.decoder(device)
        )
        return Parts(world, critics, scenarios, config)

    def scenarios(self) -> list[Scenario]:
        """Scenarios of the training, long enough for the curriculum's last chunk."""
        num_latents = (self.config.sampling.last_chunk + 1) * CHUNK
        if self.recordings is not None:
            return recorded_scenarios(self.recordings, self.spec, num_latents, self.begun)
        return self.source.scenarios(self.network, self.latent_size, num_latents, self.config.seed)

    def looks(self, scenarios: Sequence[Scenario]) -> HeldOut:
        """What the probes of a training on ``scenarios`` film: its first recordings, or images along other ways."""
        num_latents = min(LOOK_LATENTS, (self.config.sampling.last_chunk + 1) * CHUNK)
        if self.recordings is not None:
            found = [replace(s, actions=s.actions.latents(0, num_latents)) for s in scenarios[:SHOWN]]
        else:
            seed = LOOK_SEED + self.config.seed
            found = self.source.scenarios(self.network, self.latent_size, num_latents, seed)
        steps = min(LOOK_STEPS, self.config.sampling.denoising_steps or LOOK_STEPS)
        return HeldOut(None, found[:SHOWN], steps)

    def begun(self, recording: Recording, scenario: Scenario) -> Scenario:
        """The scenario of a recording with its conditioning and caption.

        Raises:
            UserError: when they are missing, or were prepared from something else.
        """
        conditioning, caption = self.source.start_of(recording.video, self.network, self.latent_size)
        return replace(scenario, conditioning=conditioning, caption=caption)

    @property
    def spec(self) -> WorldSpec:
        """Facts about the world; loads no weights."""
        return self._blank().spec

    def world(self, fill: Callable[[nn.Module], object], decoder: Decoder) -> WorldPlay:
        """The world; ``fill`` sets the weights of a network on the meta device."""
        kind = Transformer8B if isinstance(self.network, Config8B) else Transformer5B
        family = FAMILY_8B if isinstance(self.network, Config8B) else FAMILY_5B
        with torch.device("meta"):
            net = kind(self.network, self.recompute)  # type: ignore[arg-type]
        fill(net)
        timestep_of = whole_timesteps if self.whole_timesteps else timesteps
        world = WorldPlay(family, net, decoder, self.latent_size, TRAINING_MOTION, timestep_of)
        if self.half_weights:
            for parameter in net.parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.bfloat16()
        return world

    def needs(self) -> Needs:
        """The needs for ``worldcompass plan``; loads nothing."""
        from worldcompass.cost.plan import Needs

        self._check_types()
        world = self._blank()
        files = self._files(world)
        choose_trained(world.net, self.config.optimiser, generator_for("plan"))
        return Needs(
            config=self.config,
            spec=world.spec,
            net=world.net,
            other_bytes=sum(p.nbytes for module in _modules(world.decoder) for p in module.parameters()),
            num_blocks=self.network.num_blocks,
            world_of_depth=self._of_depth,
            begin=self.source.begin,
            num_chunks=min(self.config.sampling.last_chunk, world.family.memory.num_latents // CHUNK),
            files=files,
            modules=self.rewards.modules(),
            critic_bytes=self.rewards.gpu_bytes(),
            notes=self.source.notes(),
        )

    def _files(self, blank: WorldPlay | None = None) -> tuple[NeededFile, ...]:
        """All files that the run reads, with the expected tensors of ``blank`` if it is given."""
        network, decoder = ([blank.net], _modules(blank.decoder)) if blank else ([], [])
        return (*self.source.files(_shapes(network), _shapes(decoder)), *self.rewards.files())

    def _of_depth(self, depth: int) -> tuple[WorldPlay, list[nn.Module]]:
        world = replace(self, network=replace(self.network, num_blocks=depth))._blank()
        choose_trained(world.net, self.config.optimiser, generator_for("plan"))
        return world, [world.net, *_modules(world.decoder)]

    def _blank(self) -> WorldPlay:
        """The world without weights."""
        return self.world(lambda net: net.to(self._loaded_as), self.source.blank_decoder(self.network))

    @property
    def _exported(self) -> str:
        """The name of the file that the official inference of the model reads."""
        return FILE_NAME if isinstance(self.network, Config8B) else GENERATOR_FILE

    @property
    def _loaded_as(self) -> torch.dtype:
        """Dtype of the loaded network: bfloat16 for a frozen one with adapters, unless ``half_weights`` is off."""
        return (
            torch.bfloat16 if self.half_weights and self.config.optimiser.lora is not None else torch.float32
        )


def _shapes(modules: Sequence[nn.Module]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for module in modules for name, t in module.state_dict().items()}


def _modules(decoder: Decoder) -> list[nn.Module]:
    return [decoder.net] if isinstance(decoder, VideoDecoder) else []


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


def with_lora(recipe: WorldPlayRecipe, targets: str) -> WorldPlayRecipe:
    """The recipe for one GPU: one prompt at a time, adapters of the video half, AdamW.

    The paper trains the whole network. Rank, optimiser and learning rate are this project's choice, not tested on
    real weights. The learning rate is ten times higher, as is usual for adapters.
    """
    config = recipe.config.changed(
        prompts_per_step=1,
        micro_rows=1,
        lora=Lora(rank=32, alpha=32.0, targets=targets),
        lr=1e-4,
        make_optimizer=adamw,
        shard=False,
    )
    return replace(recipe, config=config)


def tiny(recipe: WorldPlayRecipe, network: Network, critics: Callable[[], list[Critic]]) -> WorldPlayRecipe:
    """The same loop with a tiny random network, which runs on a CPU in seconds and learns nothing."""
    config = recipe.config.changed(
        steps=2,
        prompts_per_step=2,
        group_size=4,
        best=1,
        worst=1,
        last_chunk=1,
        denoising_steps=3,
        noise_levels=2,
        updates_per_rollout=2,
        micro_rows=4,
        lr=1e-3,
        autocast_bf16=False,
        save_every=1,
        probe_every=2,
    )
    return replace(
        recipe,
        config=config,
        network=network,
        latent_size=(6, 8),
        source=StandIns(),
        rewards=OwnRewards(critics),
        half_weights=False,
    )
