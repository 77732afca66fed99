"""WorldPlay's two transformers against numbers from the official code, on tiny random configurations.

The folder is named by the environment variable WORLDCOMPASS_GOLDEN; sizes come from each case's config.json.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from worldcompass.geometry import rigid_inverse
from worldcompass.worlds.open.prope import cameras
from worldcompass.worlds.worldplay.branches import Latents
from worldcompass.worlds.worldplay.config import Config5B, Config8B
from worldcompass.worlds.worldplay.text import TextStates
from worldcompass.worlds.worldplay.transformer_5b import Caption
from worldcompass.worlds.worldplay.weights import load_5b, load_8b

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
    weights, config = folder / "weights.safetensors", folder / "config.json"
    if "num_attention_heads" in json.loads(config.read_text()):
        return load_5b(weights, Config5B.from_json(config), torch.float32)
    return load_8b(weights, Config8B.from_json(config), torch.float32)


def texts(inputs, **changes):
    inputs = {**inputs, **changes}
    return TextStates(
        inputs["text_states"][0],
        inputs["text_mask"][0],
        inputs["byt5_text_states"][0],
        inputs["byt5_text_mask"][0],
        inputs["vision_states"][0],
    )


def latents(inputs, chosen, timesteps, first_position):
    """Some of the stored latents; the stored cameras are the inverses of ours, with 3x3 intrinsics."""
    stored = inputs["latents"]
    if "cond_latents" in inputs:
        stored = torch.cat([stored, inputs["cond_latents"]], 1)
    focal = inputs["Ks"][:, chosen].diagonal(dim1=-2, dim2=-1)[..., :2]
    return Latents(
        stored[:, :, chosen],
        timesteps[None],
        inputs["action"][:, chosen].long(),
        rigid_inverse(inputs["viewmats"][:, chosen]),
        torch.cat([focal, focal], -1),
        first_position,
    )


@pytest.fixture
def close(request):
    """Compares, and prints the largest error of the test (pytest -rP shows it)."""
    errors = [0.0]

    def compare(ours, theirs):
        errors.append(float((ours.detach() - theirs).abs().max()))
        torch.testing.assert_close(ours, theirs, atol=ATOL, rtol=0)

    yield compare
    print(f"{request.node.name}: largest error {max(errors):.1e}")


def watch(net, names):
    """Outputs of some modules, as they are computed."""
    found = {}

    def keep(name):
        def hook(_module, _inputs, output):
            found[name] = output[0] if isinstance(output, tuple) else output

        return hook

    for name in names:
        net.get_submodule(name).register_forward_hook(keep(name))
    return found


def test_8b_text_and_velocity_and_gradients_of_one_chunk(close):
    _, inputs, outputs = case("a_ar_no_vision_cache")
    net = network("a_ar_no_vision_cache")
    with torch.no_grad():
        prefix = net(texts(inputs))
    for i, (k, v) in enumerate(prefix):
        close(k, outputs[f"k_txt.{i}"].expand_as(k))
        close(v, outputs[f"v_txt.{i}"].expand_as(v))
    every = torch.arange(inputs["latents"].shape[2])
    velocity = net(latents(inputs, every, inputs["timestep"], 0), [prefix])
    close(velocity, outputs["velocity"])
    (velocity * inputs["grad_weight"]).mean().backward()
    parameters = dict(net.named_parameters())
    stored = [name.removeprefix("grad.") for name in outputs if name.startswith("grad.")]
    assert stored
    for name in stored:
        close(parameters[name].grad, outputs[f"grad.{name}"])


def test_8b_activations_on_the_way(close):
    _, inputs, outputs = case("a_ar_no_vision_cache")
    net = network("a_ar_no_vision_cache")
    seen = watch(net, ["img_in", "txt_in", "byt5_in", "vision_in", "time_in", "action_in"])
    blocks = watch(net, [f"double_blocks.{i}" for i in range(len(net.double_blocks))])
    every = torch.arange(inputs["latents"].shape[2])
    with torch.no_grad():
        net(latents(inputs, every, inputs["timestep"], 0), [net(texts(inputs))])
    close(seen["img_in"].flatten(1, 2), outputs["mid.img_in"])
    close(seen["vision_in"][None], outputs["mid.vision_in"])
    for name in ("time_in", "action_in"):
        close(seen[name][0], outputs[f"mid.{name}"])
    for name, mask in (("txt_in", "text_mask"), ("byt5_in", "byt5_text_mask")):
        tokens = outputs[f"mid.{name}"][inputs[mask].bool()]  # ours drops the padding first
        close(seen[name].reshape(tokens.shape), tokens)
    for name, x in blocks.items():
        close(x.flatten(1, 2), outputs[f"mid.block{name.split('.')[1]}_img"])


def test_8b_caption_without_quoted_text(close):
    _, inputs, outputs = case("a_ar_no_vision_cache")
    net = network("a_ar_no_vision_cache")
    every = torch.arange(inputs["latents"].shape[2])
    no_byt5 = torch.zeros_like(inputs["byt5_text_mask"])
    with torch.no_grad():
        prefix = net(texts(inputs, byt5_text_mask=no_byt5))
        velocity = net(latents(inputs, every, inputs["timestep"], 0), [prefix])
    close(velocity, outputs["velocity_no_byt5"])


def test_8b_chunk_after_remembered_latents(close):
    config, inputs, outputs = case("b_ar_cached_chunk")
    net = network("b_ar_cached_chunk")
    chosen = inputs["selected_frame_indices"]
    start, count = config["num_context_frames"], config["chunk_frames"]
    with torch.no_grad():
        text = net(texts(inputs))
        (prefix,) = net(latents(inputs, chosen, inputs["timestep_ctx"], 0), [text], keep_keys=True)
        chunk = latents(inputs, torch.arange(start, start + count), inputs["timestep_chunk"], len(chosen))
        velocity = net(chunk, [prefix])
    for i, (k, v) in enumerate(prefix):
        after_text = text[i][0].shape[2]
        close(k[:1, :, :after_text], outputs[f"k_txt.{i}"])
        close(v[:1, :, :after_text], outputs[f"v_txt.{i}"])
        close(k[:, :, after_text:], outputs[f"k_vision.{i}"])
        close(v[:, :, after_text:], outputs[f"v_vision.{i}"])
    close(velocity, outputs["velocity"])


def test_8b_chunks_one_after_the_other_equal_the_joint_pass_of_pretraining(close):
    config, inputs, outputs = case("k_ar_joint_chunk_causal")
    net = network("k_ar_joint_chunk_causal")
    size = config["chunk_latents"]
    parts = []
    with torch.no_grad():
        prefix = net(texts(inputs))
        for start in range(0, inputs["latents"].shape[2], size):
            chosen = torch.arange(start, start + size)
            chunk = latents(inputs, chosen, inputs["timestep"][chosen], start)
            parts.append(net(chunk, [prefix]))
            (prefix,) = net(chunk, [prefix], keep_keys=True)
    close(torch.cat(parts, 2), outputs["velocity"])


def test_camera_transforms(close):
    config, inputs, outputs = case("c_prope")
    for i, part in enumerate(config["cases"]):
        focal = inputs[f"{i}.Ks"].diagonal(dim1=-2, dim2=-1)[..., :2] if part["has_K"] else None
        intrinsics = None if focal is None else torch.cat([focal, focal], -1)
        ours = cameras(rigid_inverse(inputs[f"{i}.viewmats"]), intrinsics)
        close(ours.queries(inputs[f"{i}.q"]), outputs[f"{i}.q_t"])
        close(ours.keys(inputs[f"{i}.k"]), outputs[f"{i}.k_t"])
        close(ours.keys(inputs[f"{i}.v"]), outputs[f"{i}.v_t"])
        close(ours.outputs(outputs[f"{i}.attn"]), outputs[f"{i}.out"])


def test_5b_first_chunk(close):
    config, inputs, outputs = case("i_wan_ar")
    net = network("i_wan_ar")
    blocks = watch(net, [f"blocks.{i}" for i in range(len(net.blocks))])
    with torch.no_grad():
        past = net(Caption(inputs["text"][0]))
        chunk = latents(inputs, torch.arange(config["chunk_frames"]), inputs["timestep_chunk0"], 0)
        velocity = net(chunk, [past])
    for name, x in blocks.items():
        close(x.flatten(1, 2), outputs[f"mid.first_chunk.block{name.split('.')[1]}"])
    close(velocity, outputs["velocity_first_chunk"])


def test_5b_chunk_after_remembered_latents(close):
    """The stored keys carry both branches side by side on the last axis, ours on the first."""
    config, inputs, outputs = case("i_wan_ar")
    net = network("i_wan_ar")
    chosen = inputs["selected_frame_indices"]
    start, count = config["num_context_frames"], config["chunk_frames"]
    with torch.no_grad():
        text = net(Caption(inputs["text"][0]))
        (past,) = net(latents(inputs, chosen, inputs["timestep_ctx"], 0), [text], keep_keys=True)
        chunk = latents(inputs, torch.arange(start, start + count), inputs["timestep_chunk"], len(chosen))
        velocity = net(chunk, [past])
    for i, (k, v) in enumerate(past.memory):
        close(torch.cat([*k], -1)[None], outputs[f"cache_k.{i}"])
        close(torch.cat([*v], -1)[None], outputs[f"cache_v.{i}"])
    close(velocity, outputs["velocity_cached_chunk"])
