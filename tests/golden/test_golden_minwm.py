"""minWM's network, cameras and sampler against numbers from the official code, on tiny random configurations.

The folder is named by the environment variable WORLDCOMPASS_GOLDEN; sizes and options come from each case's
config.json.
"""

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from worldcompass.geometry import rigid_inverse
from worldcompass.noise import ShiftedLevels, corrupt, fresh_noise_step
from worldcompass.types import CameraMoves, Scenario
from worldcompass.worlds.causal_wan.config import read_config
from worldcompass.worlds.causal_wan.levels import warped_levels
from worldcompass.worlds.causal_wan.memory import Past, Window, both_branches
from worldcompass.worlds.causal_wan.minwm import Stage, minwm
from worldcompass.worlds.causal_wan.network import ROPE_THETA, CausalWan, Latents
from worldcompass.worlds.open.poses import MOTION, THRESHOLDS, WorldPlayActions
from worldcompass.worlds.open.prope import cameras
from worldcompass.worlds.open.rotary import rotary_table
from worldcompass.worlds.open.tiny import Blend

ROOT = os.environ.get("WORLDCOMPASS_GOLDEN")
pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not ROOT, reason="WORLDCOMPASS_GOLDEN names no folder of official numbers"),
]
ATOL = 1e-4  # of networks; the stored numbers are float32


def case(name):
    folder = Path(ROOT or ".") / name
    files = [folder / "inputs.safetensors", folder / "outputs.safetensors"]
    return json.loads((folder / "config.json").read_text()), *(load_file(f) for f in files)


def network(name):
    folder = Path(ROOT or ".") / name
    weights = {k.removeprefix("model."): t for k, t in load_file(folder / "weights.safetensors").items()}
    official = json.loads((folder / "config.json").read_text())
    net = CausalWan(read_config({k: tuple(t.shape) for k, t in weights.items()}, official))
    net.load_state_dict(weights)
    return net


def latents(config, inputs, stored, timestep, first):
    """Rows of stored latents (B, K, C, H, W), with the stored cameras of their places in the video."""
    own = slice(first, first + stored.shape[1])
    focal = inputs["Ks"][:, own].diagonal(dim1=-2, dim2=-1)[..., :2]
    poses = rigid_inverse(inputs["viewmats"][:, own])
    return Latents(stored.transpose(1, 2), timestep, first, cameras(poses, torch.cat([focal, focal], -1)))


@pytest.fixture
def close(request):
    """Compares, and prints the largest error of the test (pytest -rP shows it)."""
    errors = [0.0]

    def compare(ours, theirs, atol=ATOL):
        errors.append(float((ours.detach() - theirs).abs().max()))
        torch.testing.assert_close(ours.detach(), theirs, atol=atol, rtol=0)

    yield compare
    print(f"{request.node.name}: largest error {max(errors):.1e}")


def stored_keys(config, part, block, row, grid):
    """A block's keys and values of both branches as the official caches hold them, (tokens, heads, head)."""
    own = part.blocks[block]
    head = own.k_hNd.shape[-1]
    third = 2 * (head // 6)
    table = rotary_table(
        part.first, (part.num_latents, *grid), (head - 2 * third, third, third), ROPE_THETA, "cpu"
    )
    by = type(part.cameras)(
        part.cameras.image_from_world_BK44[None], part.cameras.world_from_image_BK44[None]
    )
    k, v = both_branches(own.k_hNd[None], own.v_hNd[None], table, by)
    names = {"rope_k": k[0], "rope_v": v[0], "prope_k": k[1], "prope_v": v[1]}
    return {name: value[0].transpose(0, 1) for name, value in names.items()}


def grid_of(config):
    return config["latent_height"] // config["patch_size"][1], config["latent_width"] // config["patch_size"][
        2
    ]


def relative(found, stored):
    return float((found - stored).abs().max() / stored.abs().max())


def test_the_first_chunk_its_keys_and_its_gradients(close):
    config, inputs, outputs = case("m_chunk_nocache")
    net = network("m_chunk_nocache")
    noisy = inputs["noisy"].requires_grad_()
    pasts = [Past(states) for states in inputs["prompt_embeds"]]
    chunk = latents(config, inputs, noisy, inputs["timestep"], 0)
    flow = net(chunk, pasts).transpose(1, 2)
    close(flow, outputs["flow"])
    clean = noisy - (inputs["timestep"] / 1000)[..., None, None, None] * flow
    close(clean, outputs["x0"])
    scalar = (inputs["probe"] * clean).sum()
    scalar.backward()
    worst = relative(noisy.grad, outputs["grad.noisy"])
    parameters = dict(net.named_parameters())
    for name in config["grad_names"]:
        found = parameters[name.removeprefix("model.")].grad
        worst = max(worst, relative(found, outputs[f"grad.{name}"]))
    print(f"gradients: largest relative error {worst:.1e}")
    assert worst < 1e-4
    with torch.no_grad():
        bare = Latents(chunk.latents_BCKHW, chunk.timesteps_BK, 0)
        close(net(bare, pasts).transpose(1, 2), outputs["flow_without_camera"])
        for row, part in enumerate(net(chunk, pasts, keep=True)):
            for block in (0, config["num_layers"] - 1):
                for name, value in stored_keys(config, part, block, row, grid_of(config)).items():
                    close(value, outputs[f"{name}.{block}"][row])


@torch.no_grad()
def test_a_chunk_after_finished_ones_in_every_window(close):
    config, inputs, outputs = case("m_chunk_cached")
    net, size = network("m_chunk_cached"), config["num_frame_per_block"]
    for run in config["runs"]:
        window = Window(None if run["window"] < 0 else run["window"], run["sink"])
        kept = [()] * config["batch"]

        def pasts(at, kept=kept, window=window):
            return [
                Past(states, window.view(parts, at, size))
                for states, parts in zip(inputs["prompt_embeds"], kept, strict=True)
            ]

        for start in range(0, size * run["past"], size):
            clean = inputs["clean"][:, start : start + size]
            chunk = latents(config, inputs, clean, torch.zeros(config["batch"], size), start)
            own = net(chunk, pasts(start), keep=True)
            kept[:] = [(*parts, part) for parts, part in zip(kept, own, strict=True)]
        at = size * run["past"]
        spans = [*window.spans(at, size), (at, at + size)]
        assert [i for start, stop in spans for i in range(start, stop)] == run["visible_latents"]
        chunk = latents(config, inputs, inputs["noisy"], inputs["timestep"], at)
        flow = net(chunk, pasts(at)).transpose(1, 2)
        close(flow, outputs[f"{run['name']}.flow"])
        sigma = (inputs["timestep"] / 1000)[..., None, None, None]
        close(inputs["noisy"] - sigma * flow, outputs[f"{run['name']}.x0"])
        if run["name"] != "full":
            continue
        for block in (0, config["num_layers"] - 1):
            for row, parts in enumerate(kept):
                found = [stored_keys(config, part, block, row, grid_of(config)) for part in parts]
                for name in found[0]:
                    close(torch.cat([values[name] for values in found]), outputs[f"full.{name}.{block}"][row])


@torch.no_grad()
def test_a_whole_video_in_one_pass_is_its_chunks_one_by_one(close):
    """Official training shows clean and noisy latents at once; here each noisy chunk follows its finished past."""
    config, inputs, outputs = case("m_chunk_cached")
    net, size, window = network("m_chunk_cached"), config["num_frame_per_block"], Window(None, 0)
    kept = [()] * config["batch"]
    for start in range(0, size * (config["one_pass_past"] + 1), size):
        pasts = [
            Past(states, window.view(parts, start, size))
            for states, parts in zip(inputs["prompt_embeds"], kept, strict=True)
        ]
        own = slice(start, start + size)
        timestep = inputs["one_pass.timestep"][:, own]
        chunk = latents(config, inputs, inputs["one_pass.noisy"][:, own], timestep, start)
        close(net(chunk, pasts).transpose(1, 2), outputs["one_pass.flow"][:, own])
        still = torch.zeros(config["batch"], size)
        finished = net(latents(config, inputs, inputs["clean"][:, own], still, start), pasts, keep=True)
        kept = [(*parts, part) for parts, part in zip(kept, finished, strict=True)]


def moves_of(inputs, start, stop):
    """The stored cameras as actions, (P, K)."""
    focal = inputs["Ks"][:, start:stop].diagonal(dim1=-2, dim2=-1)[..., :2]
    poses = rigid_inverse(inputs["viewmats"][:, start:stop])
    return CameraMoves(torch.zeros(poses.shape[:2], dtype=torch.long), poses, torch.cat([focal, focal], -1))


@torch.no_grad()
def test_the_released_sampler_chunk_by_chunk(close):
    config, inputs, outputs = case("m_rollout")
    assert config["warp_denoising_step"] and config["context_noise"] == 0
    net, size, batch = network("m_rollout"), config["num_frame_per_block"], config["batch"]
    levels = warped_levels(config["denoising_step_list"], config["timestep_shift"])
    close(1000 * levels.sigmas()[:-1], outputs["denoising_timesteps"], 1e-3)
    cells = config["latent_height"], config["latent_width"]
    stage = Stage("golden", levels, fresh_noise_step, False)
    world = minwm(net, Blend(), cells, stage, Window(config["window"], config["sink"]))
    poses = moves_of(inputs, 0, size * config["chunks"])
    context = world.begin(
        [
            Scenario(f"row {row}", poses.select(row), conditioning={"text_states": states})
            for row, states in enumerate(inputs["prompt_embeds"])
        ]
    )
    for chunk in range(config["chunks"]):
        start, stop = chunk * size, (chunk + 1) * size
        moves, tolerance = poses.latents(start, stop), ATOL if chunk == 0 else 5e-4
        context = world.attend(context, moves)
        noisy = inputs["noise"][:, start:stop].transpose(1, 2)
        sigmas = levels.sigmas().tolist()
        for step, (sigma, after) in enumerate(pairwise(sigmas)):
            close(noisy.transpose(1, 2), outputs[f"chunk{chunk}.step{step}.input"], tolerance)
            clean = world.predict_clean(noisy, torch.full((batch,), sigma), moves, context)
            close(clean.transpose(1, 2), outputs[f"chunk{chunk}.step{step}.x0"], tolerance)
            flow = (noisy - clean) / sigma
            close(flow.transpose(1, 2), outputs[f"chunk{chunk}.step{step}.flow"], 2 * tolerance)

            def fresh(chunk=chunk, step=step):
                return inputs["renoise"][chunk, step].transpose(1, 2)

            noisy = world.spec.sampler(noisy, clean, sigma, after, fresh)
        close(noisy.transpose(1, 2), outputs["latents"][:, start:stop], tolerance)
        context = world.remember(context, noisy, moves)


def test_levels_and_conversions_are_the_official_ones(close):
    config, inputs, outputs = case("m_rollout")
    shift, index = config["timestep_shift"], inputs["convert.index"]
    for steps in (4, 7, 48):
        close(ShiftedLevels(shift, steps).sigmas()[:-1], outputs[f"euler{steps}.sigmas"], 1e-6)
    close(ShiftedLevels(shift, 1000).sigmas()[:-1], outputs["table.sigmas"], 1e-6)
    sigma = outputs["table.sigmas"][index]
    clean, noise, flow = inputs["convert.x0"], inputs["convert.noise"], outputs["convert.flow"]
    noisy = corrupt(clean[:, :, None], noise[:, :, None], sigma)[:, :, 0]
    close(noisy, outputs["convert.xt"], 1e-5)
    close(noise - clean, flow, 1e-6)
    close(noisy - sigma[:, None, None, None] * flow, outputs["convert.x0_from_flow"], 1e-5)


WORDS = {"w": "w", "s": "s", "a": "a", "d": "d", "j": "left", "l": "right", "i": "up", "k": "down"}
ACTIONS = WorldPlayActions(MOTION, THRESHOLDS)


def test_cameras_of_the_official_trajectories(close):
    """Moves up and down, which the training never had, are no actions of this world."""
    config, inputs, outputs = case("m_camera")
    assert (config["step"], config["rotation_degrees"]) == (MOTION.move, MOTION.yaw_deg)
    compared = 0
    for i, trajectory in enumerate(config["trajectories"]):
        parts = [part.split("*") for part in trajectory.split(",")]
        if all(key in WORDS for key, _ in parts):
            moves = ACTIONS.along(", ".join(f"{WORDS[key]}-{count}" for key, count in parts))
            close(rigid_inverse(moves.world_from_camera_K44), outputs[f"trajectory{i}.viewmats"], 1e-5)
            compared += 1
    assert compared > 0
    for i, path in enumerate(config["pose_strings"]):
        moves = ACTIONS.along(path).latents(0, config["latents_of_pose_strings"])
        close(rigid_inverse(moves.world_from_camera_K44), outputs[f"pose_string{i}.viewmats"], 1e-5)
        focal = outputs[f"pose_string{i}.Ks"].diagonal(dim1=-2, dim2=-1)[:, :2]
        close(moves.intrinsics_K4[:, :2], focal, 1e-6)
    signs = [(right, forward, yaw, pitch) for forward, right, yaw, pitch in inputs["combined.signs"].tolist()]
    labels = torch.tensor([0, *(ACTIONS.composite(s) for s in signs)])
    close(ACTIONS.commanded(labels).world_from_camera_K44, outputs["combined.c2w"], 1e-5)


def test_transforms_by_cameras_ignore_the_principal_point(close):
    _, inputs, outputs = case("m_camera")
    focal = inputs["prope.Ks"].diagonal(dim1=-2, dim2=-1)[..., :2]
    ours = cameras(rigid_inverse(inputs["prope.viewmats"]), torch.cat([focal, focal], -1))
    close(ours.queries(inputs["prope.q"]), outputs["prope.q_t"])
    close(ours.keys(inputs["prope.k"]), outputs["prope.k_t"])
    close(ours.keys(inputs["prope.v"]), outputs["prope.v_t"])
    close(ours.outputs(outputs["prope.attn"]), outputs["prope.out"])
