"""minWM's network, cameras and sampler against numbers from the official code, on tiny random configurations.

The folder is named by the environment variable WORLDCOMPASS_GOLDEN; sizes and options come from each case's
config.json.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from worldcompass.worlds.causal_wan.config import read_config
from worldcompass.worlds.causal_wan.memory import Past, Window, both_branches
from worldcompass.worlds.causal_wan.network import ROPE_THETA, CausalWan, Latents
from worldcompass.worlds.open.poses import rigid_inverse
from worldcompass.worlds.open.prope import cameras
from worldcompass.worlds.open.rotary import rotary_table

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
