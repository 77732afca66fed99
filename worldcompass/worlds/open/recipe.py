"""The base of the recipes of open checkpoints: checks, loading, post-training, export and plan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor, nn

from worldcompass.errors import UserError
from worldcompass.noise import ExplicitLevels
from worldcompass.parallel.team import Team
from worldcompass.recordings import ReadActions, Recording, actions_in
from worldcompass.rewards.bundle import OwnRewards, Rewards
from worldcompass.rewards.discriminator import Discriminator
from worldcompass.rewards.truth_paired import TwoSided
from worldcompass.runs.final import exporting
from worldcompass.runs.folder import RunFolder
from worldcompass.runs.requirements import NeededFile, differences, lacking, lacks
from worldcompass.seeding import generator_for
from worldcompass.settings import HARMLESS
from worldcompass.training.config import Config
from worldcompass.training.curriculum import chunks_needed
from worldcompass.training.loop import train_parts
from worldcompass.training.lora import Lora, export_lora, merge_lora
from worldcompass.training.optim import adamw, choose_trained
from worldcompass.training.preflight import check_guidance, try_critics
from worldcompass.training.probe import SHOWN, HeldOut
from worldcompass.training.run import Parts
from worldcompass.types import Scenario
from worldcompass.world import WorldModel, WorldSpec
from worldcompass.worlds.open.prepare import Preparation
from worldcompass.worlds.open.recordings import recorded_scenarios
from worldcompass.worlds.open.weights import FILE_NAME, export_weights, file_in, load_weights, shapes_of

if TYPE_CHECKING:
    from worldcompass.cost.plan import Needs

# Probes during training: latents of a video, and denoising steps.
LOOK_LATENTS, LOOK_STEPS = 32, 20
LOOK_SEED = 9_000_000  # of trajectories that no run draws, as its own seeds are far below
STEADINESS, REALITY = "steadiness", "reality"
PUT_THERE = "put what is missing there, or give its path with --set"

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by their official names."""


class OpenWorld(WorldModel[Any], Protocol):
    """A ``WorldModel`` whose video decoder is a part that its recipe loads."""

    @property
    def decoder(self) -> Any:
        """The video decoder: with a network ``net``, or without weights."""
        ...


class Source(Protocol):
    """Where the weights of a recipe's world come from: official files, or random stand-ins."""

    def fill(self, net: nn.Module, dtype: torch.dtype, device: str) -> None:
        """Set the weights of a network on the meta device."""
        ...

    def decoder(self, device: str) -> Any:
        """The video decoder with its weights."""
        ...

    def weight_files(self) -> list[Path]:
        """The files of the network's weights."""
        ...

    def files(self, network: Shapes, decoder: Shapes) -> tuple[NeededFile, ...]:
        """Files that must exist before a run begins, with the expected tensors of network and decoder."""
        ...

    def notes(self) -> tuple[str, ...]:
        """Lines about the inputs that a user should check by eye."""
        ...


@dataclass(frozen=True, kw_only=True)
class OpenRecipe(ABC):
    """Loads a world, post-trains it and exports its weights.

    A family of models says how its world is built, what its scenarios are and how its files are named.
    """

    config: Config
    rewards: Rewards
    """Source of the critics."""
    source: Any
    """Source of the weights, a ``Source``."""
    half_weights: bool = True
    """Keep frozen weights in bfloat16. Trained weights are always float32."""
    recompute: bool = field(default=True, metadata=HARMLESS)
    """Recompute each block's activations in the backward pass instead of storing them."""
    recordings: Path | None = None
    """Folder of videos with actions to train on, see ``recordings.py``; prepared images when None."""

    @abstractmethod
    def build(self, fill: Callable[[nn.Module], object], decoder: Any) -> OpenWorld:
        """The world; ``fill`` sets the weights of a network on the meta device."""

    @abstractmethod
    def blank_decoder(self) -> Any:
        """The video decoder on the meta device."""

    @abstractmethod
    def scenarios_along(self, num_latents: int, seed: int) -> list[Scenario]:
        """Prepared starts with trajectories drawn from ``seed``.

        Raises:
            UserError: when the data set is missing or does not fit.
        """

    @abstractmethod
    def start_of(self, video: Path) -> tuple[Mapping[str, Tensor], str]:
        """Conditioning and caption of a recording, prepared from its first frame.

        Raises:
            UserError: when they are missing, or were prepared from something else.
        """

    @abstractmethod
    def preparation(self) -> Preparation:
        """How ``worldcompass prepare`` makes the data set of this model."""

    @abstractmethod
    def with_depth(self, num_blocks: int) -> Self:
        """The recipe with a network of another depth, for ``worldcompass plan``."""

    @property
    @abstractmethod
    def num_blocks(self) -> int:
        """Depth of the network."""

    @property
    @abstractmethod
    def remembered_chunks(self) -> int:
        """Chunks that the largest context holds."""

    @abstractmethod
    def begin(self, world: Any, pasts: int) -> Any:
        """A context of pasts whose conditioning has its greatest length, for ``worldcompass plan``."""

    def first_latent(self, conditioning: Mapping[str, Tensor]) -> Tensor | None:
        """The latent (C, H, W) that shows a prepared start image; None when a world has no start image."""
        return conditioning.get("latent")

    @property
    def exported(self) -> str:
        """The name of the file that the official inference of the model reads."""
        return FILE_NAME

    @property
    def read_actions(self) -> ReadActions:
        """Reads the actions of a recording."""
        return actions_in

    def run(self, out: Path, device: str, resume: bool) -> None:
        """Post-train and write ``out/weights``: a file in the official form, and adapters if there are any.

        Raises:
            UserError: before anything is loaded, when a file or a package is missing or a checkpoint does not fit.
        """
        self.check()
        if Team.current().is_main:
            print("\n".join(self.source.notes()), end="\n" * bool(self.source.notes()), flush=True)
        parts = self.parts(device)
        try_critics(
            parts.world, parts.critics, parts.scenarios[0], self._length * self.config.sampling.clip_chunks
        )
        policy = train_parts(parts, out, resume=resume, held_out=self.looks(parts.scenarios))
        main, folder = Team.current().is_main, RunFolder(out)
        with policy.checkpoint(), exporting(folder, writes=main) as weights:
            if self.config.optimiser.lora is not None:
                export_lora(policy.net, self.config.optimiser.lora, weights / "adapter")
                merge_lora(policy.net)
            self.export(policy.net, weights / self.exported)
        if main:
            print(f"wrote {folder.weights / self.exported}; curves: worldcompass report {out}")

    def export(self, net: nn.Module, file: Path) -> None:
        """Write a network's weights under the official names, see ``export_weights``."""
        export_weights(net, file)

    def load(self, net: nn.Module, file: Path, dtype: torch.dtype, device: str) -> None:
        """Load weights under the official names, such as exported ones; see ``load_weights``."""
        load_weights(net, file, dtype, device)

    def shapes_in_file(self, net: Any) -> Shapes:
        """Official names and shapes of the tensors of a network's file."""
        return shapes_of(net)

    def file_in(self, folder: Path) -> Path:
        """The file of weights in a folder."""
        return file_in(folder)

    def check(self) -> None:
        """Check all inputs of the run; reads only headers.

        Raises:
            UserError: naming the missing files and packages, or the first tensor that differs.
        """
        self.check_settings()
        if things := lacking(self._files(), self.rewards.modules()):
            remedy = f"{PUT_THERE}; 'worldcompass plan' with the same settings lists all inputs"
            raise UserError(lacks("this run", things, remedy))
        blank = self.blank()
        check_guidance(blank, self.config.sampling.explore)
        for file in self._files(blank):
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
        self.check_settings()
        if things := lacking(self._files_of(self.blank()), ()):
            raise UserError(lacks("this world", things, PUT_THERE))

    def check_settings(self) -> None:
        """Refuse settings that do not fit together, such as weights in bfloat16 without autocast.

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
            if config.rewards.weights.get(REALITY):
                critics = [*critics, Discriminator(seed=config.seed, name=REALITY)]
            config = config.changed(weights={STEADINESS: 0.0, **config.rewards.weights})
        fill = partial(self.source.fill, dtype=self.loaded_as, device=device)
        return Parts(self.world(fill, self.source.decoder(device)), critics, scenarios, config)

    def scenarios(self) -> list[Scenario]:
        """Scenarios of the training, long enough for the curriculum's last chunk.

        Raises:
            UserError: when there are none, or they do not fit.
        """
        num_latents = self._num_latents
        if self.recordings is not None:
            return recorded_scenarios(self.recordings, self.spec, num_latents, self.begun, self.read_actions)
        if not (found := self.scenarios_along(num_latents, self.config.seed)):
            raise UserError("these settings leave no scenarios: expected one or more images and trajectories")
        return found

    def looks(self, scenarios: Sequence[Scenario]) -> HeldOut:
        """What the probes of a training on ``scenarios`` film: its first recordings, or images along other ways."""
        num_latents = min(LOOK_LATENTS, self._num_latents)
        if self.recordings is not None:
            found = [replace(s, actions=s.actions.latents(0, num_latents)) for s in scenarios[:SHOWN]]
        else:
            found = self.scenarios_along(num_latents, LOOK_SEED + self.config.seed)
        spec = self.spec
        own = self.config.sampling.denoising_steps or spec.num_steps
        fixed = isinstance(spec.schedule, ExplicitLevels)
        return HeldOut(None, found[:SHOWN], own if fixed else min(LOOK_STEPS, own))

    def begun(self, recording: Recording, scenario: Scenario) -> Scenario:
        """The scenario of a recording with its conditioning and caption.

        Raises:
            UserError: when they are missing, or were prepared from something else.
        """
        conditioning, caption = self.start_of(recording.video)
        return replace(scenario, conditioning=conditioning, caption=caption)

    @property
    def spec(self) -> WorldSpec:
        """Facts about the world; loads no weights."""
        return self.blank().spec

    @property
    def chunk(self) -> int:
        """Latents of a chunk."""
        return self.spec.chunk_lengths[0]

    def blank(self) -> OpenWorld:
        """The world on the meta device, without weights."""
        return self.world(lambda net: net.to(self.loaded_as), self.blank_decoder())

    def needs(self) -> Needs:
        """The needs for ``worldcompass plan``; loads nothing."""
        from worldcompass.cost.plan import Needs

        self.check_settings()
        world = self.blank()
        check_guidance(world, self.config.sampling.explore)
        files = self._files(world)
        choose_trained(world.net, self.config.optimiser, generator_for("plan"))
        return Needs(
            config=self.config,
            spec=world.spec,
            net=world.net,
            other_bytes=sum(p.nbytes for module in _modules(world.decoder) for p in module.parameters()),
            num_blocks=self.num_blocks,
            world_of_depth=self._of_depth,
            begin=self.begin,
            num_chunks=min(self.config.sampling.last_chunk, self.remembered_chunks),
            files=files,
            modules=self.rewards.modules(),
            critic_bytes=self.rewards.gpu_bytes(),
            notes=self.source.notes(),
        )

    @property
    def loaded_as(self) -> torch.dtype:
        """Dtype of the loaded network: bfloat16 for a frozen one with adapters, unless ``half_weights`` is off."""
        return (
            torch.bfloat16 if self.half_weights and self.config.optimiser.lora is not None else torch.float32
        )

    @property
    def _num_latents(self) -> int:
        """Latents of the curriculum's longest video."""
        return chunks_needed(self.config.sampling) * self._length

    @property
    def _length(self) -> int:
        """Latents of a chunk of the training."""
        return self.config.sampling.chunk_length or self.chunk

    def world(self, fill: Callable[[nn.Module], object], decoder: Any) -> OpenWorld:
        """The world that ``build`` makes, its frozen weights in bfloat16 if ``half_weights`` says so."""
        world = self.build(fill, decoder)
        if self.half_weights:
            for parameter in world.net.parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.bfloat16()
        return world

    def _files(self, blank: OpenWorld | None = None) -> tuple[NeededFile, ...]:
        """All files that the run reads, with the expected tensors of ``blank`` if it is given."""
        return (*self._files_of(blank), *self.rewards.files())

    def _files_of(self, blank: OpenWorld | None) -> tuple[NeededFile, ...]:
        if blank is None:
            return self.source.files({}, {})
        decoder = {name: shape for net in _modules(blank.decoder) for name, shape in shapes_of(net).items()}
        return self.source.files(self.shapes_in_file(blank.net), decoder)

    def _of_depth(self, depth: int) -> tuple[OpenWorld, list[nn.Module]]:
        world = self.with_depth(depth).blank()
        choose_trained(world.net, self.config.optimiser, generator_for("plan"))
        return world, [world.net, *_modules(world.decoder)]


@dataclass(frozen=True, kw_only=True)
class SizedRecipe(OpenRecipe):
    """An ``OpenRecipe`` whose settings say the sizes of network and latents, and whose source takes them."""

    network: Any
    """Sizes of the network, with ``num_blocks``."""
    latent_size: tuple[int, int]
    """Cells of a latent, (height, width)."""

    def blank_decoder(self) -> Any:
        """See ``OpenRecipe``."""
        return self.source.blank_decoder()

    def scenarios_along(self, num_latents: int, seed: int) -> list[Scenario]:
        """See ``OpenRecipe``."""
        return self.source.scenarios(self.network, self.latent_size, num_latents, seed)

    def start_of(self, video: Path) -> tuple[Mapping[str, Tensor], str]:
        """See ``OpenRecipe``."""
        return self.source.start_of(video, self.network, self.latent_size)

    def with_depth(self, num_blocks: int) -> Self:
        """See ``OpenRecipe``."""
        return replace(self, network=replace(self.network, num_blocks=num_blocks))

    @property
    def num_blocks(self) -> int:
        """See ``OpenRecipe``."""
        return self.network.num_blocks


def begin_on(world: WorldModel[Any], pasts: int, conditioning: Mapping[str, Tensor]) -> Any:
    """A context of equal pasts that start from one conditioning, without commands, for ``OpenRecipe.begin``."""
    still = world.spec.actions.commanded(torch.zeros(1, dtype=torch.long))
    return world.begin([Scenario(str(past), still, conditioning=conditioning) for past in range(pasts)])


def with_lora(recipe: Any, targets: str) -> Any:
    """The recipe for one GPU: one prompt at a time, low-rank adapters, AdamW.

    Rank, optimiser and learning rate are this project's choice, not tested on real weights. The learning rate is
    ten times that of whole networks, as is usual for adapters.

    Args:
        recipe: of a whole network.
        targets: pattern of the layers with adapters, see ``Lora.targets``.
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


def tiny(recipe: Any, critics: Callable[[], list[Any]], **changes: Any) -> Any:
    """The same loop with a tiny random network, which runs on a CPU in seconds and learns nothing.

    Args:
        recipe: of the real network.
        critics: stand-ins, with the names of the recipe's rewards.
        changes: fields of the recipe that make it tiny, such as its network and its source of stand-ins.
    """
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
    return replace(recipe, config=config, rewards=OwnRewards(critics), half_weights=False, **changes)


def _modules(decoder: Any) -> list[nn.Module]:
    return [decoder.net] if isinstance(getattr(decoder, "net", None), nn.Module) else []
