"""The core against numbers from the official code: schedule, advantages, loss and gradient, Muon, averages.

The folder is named by the environment variable WORLDCOMPASS_GOLDEN; sizes come from each case's config.json.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from worldcompass.noise import ShiftedLevels, corrupt, euler_step
from worldcompass.training.advantages import (
    all_groups,
    group_advantages,
    keep_extremes,
    largest_group,
    own_group,
)
from worldcompass.training.objective import advantage_weighted_loss, nft_loss
from worldcompass.training.optim import Muon
from worldcompass.training.policy import Decay, Policy
from worldcompass.worlds.worldplay.context import whole_timesteps

ROOT = os.environ.get("WORLDCOMPASS_GOLDEN")
pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not ROOT, reason="WORLDCOMPASS_GOLDEN names no folder of official numbers"),
]

SCALES = {"sample": own_group, "global": all_groups, "sample_max": largest_group}


def case(name):
    folder = Path(ROOT or ".") / name
    files = [folder / "inputs.safetensors", folder / "outputs.safetensors"]
    return json.loads((folder / "config.json").read_text()), *(load_file(f) for f in files)


def test_sigma_schedules_equal_the_official_ones():
    config, _, outputs = case("f_sigma_flux_step")
    schedule = ShiftedLevels(float(config["shift"]), 1)
    for steps in config["steps"]:
        torch.testing.assert_close(schedule.sigmas(steps), outputs[f"sigmas.{steps}"], atol=1e-6, rtol=0)


def test_the_euler_step_in_clean_space_equals_the_official_velocity_step():
    """The stored steps with noise added, which the official code never takes, share the clean estimate alone."""
    config, inputs, outputs = case("f_sigma_flux_step")
    sigmas = outputs[f"sigmas.{config['flux_step_schedule']}"]
    indices = [int(name.rsplit(".", 1)[1]) for name in outputs if name.startswith("ode.prev.")]
    assert indices
    for i in indices:
        clean = inputs["latents"] - sigmas[i] * inputs["model_output"]
        for kind in ("ode", "sde"):
            torch.testing.assert_close(clean, outputs[f"{kind}.x0.{i}"], atol=1e-6, rtol=1e-6)
        step = euler_step(inputs["latents"], clean, float(sigmas[i]), float(sigmas[i + 1]))
        torch.testing.assert_close(step, outputs[f"ode.prev.{i}"], atol=1e-6, rtol=1e-5)


def test_advantages_and_selection_equal_the_official_ones():
    config, inputs, outputs = case("g2_advantages")
    for index, part in enumerate(config["cases"]):
        names = [part["action_reward_type"], *config["advantage_order"][1:]]
        scores = torch.stack([inputs[f"{index}.{name}_reward"] for name in names], -1)
        weights = torch.tensor([part["weights"][name] for name in config["advantage_order"]])
        valid = torch.ones_like(scores, dtype=torch.bool)
        ours = group_advantages(scores, valid, weights, SCALES[part["std_type"]])
        theirs = outputs[f"{index}.advantages"].transpose(1, 2)
        torch.testing.assert_close(ours.per_reward_NGR, theirs, atol=1e-6, rtol=1e-5)
        half = part["bestofn"] // 2
        kept = keep_extremes(ours.ranking_NG, half, half).sort(1).values
        assert torch.equal(kept, outputs[f"{index}.selected_sorted"])


def of_nothing_old(clean_pred, clean_behaviour, *rest):
    """The released loss: the behaviour's prediction overwritten by the current one."""
    return nft_loss(clean_pred, clean_pred, *rest)


@pytest.mark.parametrize(
    ("variant", "objective"),
    [("intended", nft_loss), ("official", of_nothing_old), ("official", advantage_weighted_loss)],
)
def test_loss_and_gradient_equal_the_official_ones(variant, objective):
    """``advantage_weighted_loss`` shares the released gradient alone; the released value ignores the advantage."""
    config, inputs, outputs = case("g_nft_loss")
    for i, part in enumerate(config["cases"]):
        weights = torch.tensor(
            [part["weights"][name] for name in config["advantage_order"]], dtype=torch.float64
        )
        raw, clip = inputs[f"{i}.advantages"].double(), part["adv_clip_max"]
        advantage = ((raw * weights).sum() / weights.sum()).clamp(-clip, clip)[None] / clip
        sigma, x0 = inputs[f"{i}.sigma"], inputs[f"{i}.x0"].double()
        assert (whole_timesteps(sigma) == outputs[f"{i}.int_timestep"]).all()
        noisy = corrupt(x0, inputs[f"{i}.noise"].double(), sigma)
        torch.testing.assert_close(noisy.float(), outputs[f"{i}.noisy_latents"], atol=1e-6, rtol=1e-6)
        velocity = inputs[f"{i}.pred_current"].double().requires_grad_()
        behaviour = noisy - sigma * inputs[f"{i}.pred_old"].double()
        loss_B, _ = objective(noisy - sigma * velocity, behaviour, x0, advantage, 1.0, None)
        loss = loss_B.sum() / part["gradient_accumulation_steps"]
        grad = torch.autograd.grad(loss, velocity)[0].float()
        if objective is not advantage_weighted_loss:
            assert loss.item() == pytest.approx(outputs[f"{i}.{variant}.loss"].item(), rel=1e-6)
        theirs = outputs[f"{i}.{variant}.grad_pred"]
        limit = 1e-6 * float(theirs.abs().max())
        torch.testing.assert_close(grad, theirs, atol=limit, rtol=1e-6)


def test_muon_and_both_averages_equal_the_official_ones():
    config, inputs, outputs = case("h_muon_ema")
    names = [name.removeprefix("init.") for name in inputs if name.startswith("init.")]
    net = nn.ParameterDict({n.replace(".", "_"): nn.Parameter(inputs[f"init.{n}"].clone()) for n in names})
    params = {n: net[n.replace(".", "_")] for n in names}
    ema, lr = config["ema"], config["lr"]
    optimizer = Muon(
        list(params.values()),
        lr,
        config["weight_decay"],
        config["momentum"],
        tuple(config["adamw_betas"]),
        config["adamw_eps"],
        torch.bfloat16,  # as the official Newton-Schulz
    )
    policy = Policy(net, Decay(ema["min_decay"], ema["max_decay"], ema["step_decay"]), ema["ckpt_decay"])
    for step, ema_step in enumerate(config["ema_step_argument"], 1):
        for n, p in params.items():
            p.grad = inputs[f"grad{step}.{n}"].clone()
        optimizer.step()
        policy.follow(ema_step)
        for n, p in params.items():
            # The order of bfloat16 sums may differ between machines by one rounding, 2^-8.
            limit = 1e-6 if p.ndim < 2 else step * 0.03 * lr * 0.2 * max(p.shape[:2]) ** 0.5
            found = {
                "param": p.detach(),
                "policy": policy.behaviour_weights[n.replace(".", "_")],
                "ckpt": policy.checkpoint_weights[n.replace(".", "_")],
            }
            for kind, value in found.items():
                torch.testing.assert_close(value, outputs[f"{kind}{step}.{n}"], atol=limit, rtol=0)
