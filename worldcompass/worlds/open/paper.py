"""The settings of the method's paper, from which the recipes of all open checkpoints start."""

from __future__ import annotations

from worldcompass.parallel.sharding import Parallel
from worldcompass.rewards.paper import INTERACTION, QUALITY
from worldcompass.training.advantages import all_groups
from worldcompass.training.balance import Weighing
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.keeping import Keeping
from worldcompass.training.objective import nft_loss
from worldcompass.training.optim import Optimiser, muon
from worldcompass.training.policy import Decay
from worldcompass.training.selection import Learning

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
