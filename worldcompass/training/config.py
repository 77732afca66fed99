"""Everything that a run depends on besides its world, critics and scenarios."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any, get_args

from worldcompass.doctor.guard import OnDisease
from worldcompass.rollout import Rollout, imagine_groups, imagine_whole_videos
from worldcompass.runs.trackers import Track, installed
from worldcompass.training.advantages import Scale, all_groups
from worldcompass.training.balance import Balance, fixed
from worldcompass.training.lora import Lora
from worldcompass.training.objective import Objective, nft_loss
from worldcompass.training.optim import MakeOptimizer, muon
from worldcompass.training.policy import Decay


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a run depends on besides its world, critics and scenarios."""

    steps: int = 100
    """Training steps; each is one rollout and ``updates_per_rollout`` optimiser updates."""
    seed: int = 0
    prompts_per_step: int = 6
    """N: scenarios imagined in one step, each a group."""
    group_size: int = 12
    """G: candidate futures of one chunk."""
    groups_at_once: int | None = None
    """Groups imagined in one batch, all that the world can when None; fewer let critics in other processes score
    the first ones while the next are imagined, and need less memory."""
    best: int = 3
    """Highest ranked candidates of each group that are trained on."""
    worst: int = 3
    """Lowest ranked candidates of each group that are trained on."""
    chunk_length: int | None = None
    """Latents per chunk; the world's default when None."""
    first_chunk: int = 0
    """The curriculum goes through ``first_chunk`` .. ``last_chunk``, one per step, and starts again."""
    last_chunk: int = 7
    """Index from 0, inclusive."""
    denoising_steps: int | None = None
    """Steps of the rollout; the world's default when None."""
    explore: float = 0.0
    """Guidance of a group's candidates, evenly spread from 0 to this; 0 needs no ``Guidable`` world."""
    shared_noise: bool = False
    """The candidates of a group start from the same noise and differ by their guidance alone; needs ``explore``."""
    noise_levels: int = 5
    """Levels per chosen candidate, drawn without replacement from the rollout's own."""
    updates_per_rollout: int = 1
    """Optimiser updates among which a rollout's rows (candidates x levels) are shared out."""
    micro_rows: int = 64
    """Rows of one forward pass in the update; gradients add up, so it changes memory, not results."""
    beta: float = 1.0
    """How far the implicit good and bad policies stand apart from the behaviour's."""
    advantage_clip: float = 2.0
    """Advantages are clipped to +-this and divided by it."""
    reward_clip: float | None = None
    """Before they are weighed, the advantages of each reward are clipped to +-this; None, as in the paper: not."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weight of each reward by its critic's name; 1 where not named."""
    kl_weight: float = 0.0
    """Weight of the pull towards the start weights; the paper's recipe has none."""
    mean_weight: float = 0.0
    """Weight of the pull of each latent's means towards the start weights': long videos keep their colours."""
    lr: float = 1e-5
    lr_end: float = 1.0
    """Learning rate of the last step as a share of ``lr``; linear in between."""
    weight_decay: float = 1e-4
    max_grad_norm: float = 2.0
    behaviour_decay: Decay = field(default_factory=Decay)
    """How the weights that imagine follow the trained ones, once per training step."""
    checkpoint_decay: float = 0.9
    """Decay of the average that is evaluated and shipped, once per training step."""
    lora: Lora | None = None
    """Train low-rank adapters instead of the whole network."""
    autocast_bf16: bool = False
    """Run the network in bfloat16; latents, losses and weights stay float32. Refused on a CPU that lacks it."""
    save_every: int = 5
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Newest ones that stay; more while ``on_disease`` is ``rollback``, which goes back some steps."""
    probe_every: int = 0
    """Steps between looks: clips before training and now, scored where there is a held-out judge; 0 is never."""
    on_disease: OnDisease = "warn"
    """When the doctor finds one: ``warn``; ``stop`` after saving; ``rollback`` to the last healthy checkpoint."""
    accept_changes: bool = False
    """Go on with a run whose other settings were not these; without it they are shown and refused."""
    recipe: str = ""
    """What the configuration was made by, for those who read a run later."""
    track: Track = "none"
    """Where metrics go besides metrics.jsonl, offline: ``tensorboard``, ``wandb`` or ``trackio``."""
    ranks_per_group: int = 1
    """Processes that share the candidates of a group, each on the same past; alone it changes nothing."""
    shard: bool = False
    """Split parameters, averages and optimiser over the processes of the run (FSDP2); alone it changes nothing."""
    gather_bf16: bool = False
    """Gather what is sharded in bfloat16, half the traffic; master weights and reductions stay float32. Rounds what
    autocast alone does not, such as the scales of norms."""
    shard_within: int = 0
    """Split over so many processes only, those of one node, and copy over the nodes; 0 splits over all."""
    offload: bool = False
    """Keep what is sharded in the CPU's memory between uses."""
    scale: Scale = all_groups
    """``own_group``, ``all_groups``, ``largest_group``, or ``damped``, which is between the first two."""
    balance: Balance = fixed
    """``fixed``, or ``soft_minimum``: weights that follow each reward's progress."""
    objective: Objective = nft_loss
    """``nft_loss`` or one of its rivals."""
    rollout: Rollout = imagine_groups
    """``imagine_groups``, or the baseline ``imagine_whole_videos``."""
    make_optimizer: MakeOptimizer = muon
    """``muon`` or ``adamw``."""

    def __post_init__(self) -> None:
        rows = (self.best + self.worst) * self.noise_levels
        rules = {
            "steps, prompts_per_step, noise_levels, micro_rows, save_every must be at least 1": min(
                self.steps, self.prompts_per_step, self.noise_levels, self.micro_rows, self.save_every
            )
            >= 1,
            "group_size must be at least 2": self.group_size >= 2,
            "groups_at_once must be at least 1": self.groups_at_once is None or self.groups_at_once >= 1,
            "best + worst must be between 1 and group_size": 1 <= self.best + self.worst <= self.group_size,
            "best and worst must not be negative": min(self.best, self.worst) >= 0,
            "need 0 <= first_chunk <= last_chunk": 0 <= self.first_chunk <= self.last_chunk,
            f"updates_per_rollout must be 1..{rows}": 1 <= self.updates_per_rollout <= rows,
            "shard_within must not be negative; it, offload and gather_bf16 need shard=true": self.shard_within
            >= 0
            and (self.shard or not (self.shard_within or self.offload or self.gather_bf16)),
            "gather_bf16 needs autocast_bf16=true": self.autocast_bf16 or not self.gather_bf16,
            **self._rules_of_shared_groups(rows),
            "beta, advantage_clip, lr, max_grad_norm must be positive": all(
                value > 0 for value in (self.beta, self.advantage_clip, self.lr, self.max_grad_norm)
            ),
            "reward_clip must be positive or None": self.reward_clip is None or self.reward_clip > 0,
            "kl_weight, mean_weight, explore, lr_end and probe_every must not be negative": all(
                value >= 0
                for value in (self.kl_weight, self.mean_weight, self.explore, self.lr_end, self.probe_every)
            ),
            "weights must be finite and not negative": all(
                math.isfinite(weight) and weight >= 0 for weight in self.weights.values()
            ),
            "shared_noise without explore makes all candidates the same": self.explore > 0
            or not self.shared_noise,
            f"on_disease must be one of {', '.join(get_args(OnDisease))}": self.on_disease
            in get_args(OnDisease),
            f"track needs the package {self.track}: pip install 'worldcompass[track]'": installed(self.track),
        }
        for rule, holds in rules.items():
            if not holds:
                named = [f.name for f in dataclasses.fields(self) if re.search(rf"\b{f.name}\b", rule)]
                got = ", ".join(f"{name}={getattr(self, name)}" for name in named)
                raise ValueError(f"{rule}; got {got}")

    def _rules_of_shared_groups(self, rows: int) -> dict[str, bool]:
        ranks = self.ranks_per_group
        return {
            "ranks_per_group must be at least 1": ranks >= 1,
            "ranks_per_group needs candidates that share a past, as imagine_groups makes": ranks == 1
            or self.rollout is not imagine_whole_videos,
            "group_size, best + worst and the rows of each update must be multiples of ranks_per_group, with 2 "
            "candidates or more for each": ranks <= 1
            or (
                self.group_size % ranks == (self.best + self.worst) % ranks == 0
                and self.group_size >= 2 * ranks
                and rows % (self.updates_per_rollout * ranks) == 0
            ),
        }

    def described(self) -> dict[str, Any]:
        """The configuration as json can hold it, functions by their full names."""
        values = dataclasses.asdict(self)
        return {k: f"{v.__module__}.{v.__qualname__}" if callable(v) else v for k, v in values.items()}
