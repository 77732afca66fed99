"""Matrix-Game 2 and ForgeWM against numbers from the official code, on tiny random configurations.

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

from worldcompass.noise import ShiftedLevels, fresh_noise_step
from worldcompass.worlds.causal_wan.action_module import ActionConfig, ActionModule, Windows
from worldcompass.worlds.causal_wan.config import Config, read_config
from worldcompass.worlds.causal_wan.controls import WALKER, seen_frames
from worldcompass.worlds.causal_wan.image_encoder import ImageEncoder, ImageEncoderConfig
from worldcompass.worlds.causal_wan.levels import SHIFT, TABLE, warped_levels
from worldcompass.worlds.causal_wan.matrix_game import (
    FORGEWM_1,
    FORGEWM_3,
    TEMPLE_RUN,
    UNIVERSAL,
    build,
    condition_of,
)
from worldcompass.worlds.causal_wan.memory import Past, Window
from worldcompass.worlds.causal_wan.network import Block, CausalWan, Latents
from worldcompass.worlds.causal_wan.vae import WanAutoencoder, WanVaeConfig

ROOT = os.environ.get("WORLDCOMPASS_GOLDEN")
pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not ROOT, reason="WORLDCOMPASS_GOLDEN names no folder of official numbers"),
]
ATOL = 1e-4  # of networks; the stored numbers are float32
LATER_ATOL = 5e-4  # of a rollout's later blocks
OPEN_ACTION_WINDOW = 15  # of the official modules for actions when self-attention sees everything


def case(name):
    folder = Path(ROOT or ".") / name
    files = [folder / f"{kind}.safetensors" for kind in ("inputs", "outputs")]
    return json.loads((folder / "config.json").read_text()), *(load_file(file) for file in files)


def weights(name, prefix="model."):
    found = load_file(Path(ROOT or ".") / name / "weights.safetensors")
    return {k.removeprefix(prefix): t for k, t in found.items() if k.startswith(prefix)}


def shapes_of(tensors):
    return {name: tuple(t.shape) for name, t in tensors.items()}


def network(name):
    config, tensors = case(name)[0], weights(name)
    sizes = read_config(shapes_of(tensors), config)
    net = build(sizes, ActionConfig.of_shapes(shapes_of(tensors), sizes.action_blocks[0]))
    net.load_state_dict(tensors)
    return net


@pytest.fixture
def close(request):
    """Compares, and prints the largest error of the test (pytest -rP shows it)."""
    errors = [0.0]

    def compare(ours, theirs, atol=ATOL):
        errors.append(float((ours.detach() - theirs).abs().max()))
        torch.testing.assert_close(ours.detach(), theirs, atol=atol, rtol=0)

    yield compare
    print(f"{request.node.name}: largest error {max(errors):.1e}")


def settings_of(frames):
    """Settings of latents (B, M, 4, A), as recorded play has them, from one entry per video frame."""
    own = frames[:, :-1].unflatten(1, (-1, 4))
    return torch.cat(
        [torch.full_like(own[:, :1], torch.nan), own], 1
    )  # latent 0 has none, and nobody reads them


def windows(inputs, first, count, rows=slice(None)):
    def seen(name):
        own = settings_of(inputs[name][rows])
        before = own[:, max(0, first - 2) : first] if first else None
        # A block of latent 0 alone is given frame 0, which is latent 1's first.
        return seen_frames(own[:, first : max(2, first + count)], before, first)[:, :count].flatten(2)

    return Windows(seen("keyboard_condition"), seen("mouse_condition"))


def latents(inputs, stored, timestep, first, rows=slice(None)):
    """Rows of stored latents (B, K, C, H, W) with their image condition and commands."""
    own = slice(first, first + stored.shape[1])
    whole = torch.cat([stored, inputs["cond_concat"][rows, own]], 2).transpose(1, 2)
    return Latents(whole, timestep, first, actions=windows(inputs, first, stored.shape[1], rows))


class Run:
    """Pasts that grow block by block under one window."""

    def __init__(self, net, inputs, window, rows=slice(None)):
        self.net, self.inputs, self.rows = net, inputs, rows
        self.window = Window(None if window < 0 else window)
        self.of_actions = Window(OPEN_ACTION_WINDOW if window < 0 else window)
        self.states, self.first = inputs["visual_context"][rows], 0
        self.kept = [()] * len(self.states)

    def pasts(self, count):
        return [
            Past(
                states,
                self.window.view(kept, self.first, count),
                self.of_actions.view(kept, self.first, count),
            )
            for states, kept in zip(self.states, self.kept, strict=True)
        ]

    @torch.no_grad()
    def remember(self, clean):
        count = clean.shape[1]
        chunk = latents(self.inputs, clean, torch.zeros(clean.shape[:2]), self.first, self.rows)
        own = self.net(chunk, self.pasts(count), keep=True)
        self.kept = [(*kept, part) for kept, part in zip(self.kept, own, strict=True)]
        self.first += count

    def flow(self, noisy, timestep):
        chunk = latents(self.inputs, noisy, timestep, self.first, self.rows)
        return self.net(chunk, self.pasts(noisy.shape[1])).transpose(1, 2)

    def seen(self, count, window):
        spans = [*window.spans(self.first, count), (self.first, self.first + count)]
        return [i for start, stop in spans for i in range(start, stop)]


def after(run, net, inputs, rows=slice(None)):
    """A ``Run`` that has remembered the past of a stored one."""
    found = Run(net, inputs, run["window"], rows)
    for count in run["past_lengths"]:
        found.remember(inputs["clean"][rows, found.first : found.first + count])
    return found


def named_run(config, name):
    return next(run for run in config["runs"] if run["name"] == name)


def test_a_chunk_after_finished_ones_in_every_window(close):
    config, inputs, outputs = case("f_chunk_cached")
    net, count = network("f_chunk_cached"), config["num_frame_per_block"]
    for run in config["runs"]:
        own = after(run, net, inputs)
        assert own.seen(count, own.window) == run["visible_latents"]
        assert own.seen(count, own.of_actions) == run["visible_latents_of_actions"]
        with torch.no_grad():
            flow = own.flow(inputs["noisy"], inputs["timestep"])
        close(flow, outputs[f"{run['name']}.flow"])
        sigma = (inputs["timestep"] / TABLE)[..., None, None, None]
        close(inputs["noisy"] - sigma * flow, outputs[f"{run['name']}.x0"])


def test_what_the_mouse_and_the_keyboard_keep(close):
    config, inputs, outputs = case("f_chunk_cached")
    net, run = network("f_chunk_cached"), named_run(config, "window6")
    own = after(run, net, inputs, slice(1))
    parts = own.of_actions.view(own.kept[0], own.first, 0)
    for block in net.config.action_blocks:
        names = ("keyboard_k", "keyboard_v", "mouse_k", "mouse_v")
        for name, values in zip(
            names, zip(*(part.blocks[block].action for part in parts), strict=True), strict=True
        ):
            stored = outputs[f"window6.row0.{name}.{block}"]
            found = torch.cat(values)[-stored.shape[1] :]
            close(found[None] if found.ndim == 3 else found.transpose(0, 1), stored)


def test_gradients_of_a_chunk():
    config, inputs, outputs = case("f_chunk_cached")
    net, run, row = network("f_chunk_cached"), named_run(config, "window6"), slice(1)
    own = after(run, net, inputs, row)
    noisy = inputs["noisy"][row].clone().requires_grad_()
    timestep = inputs["timestep"][row]
    clean = noisy - (timestep / TABLE)[..., None, None, None] * own.flow(noisy, timestep)
    scalar = (inputs["probe"] * clean[0]).sum()
    scalar.backward()
    assert relative(scalar.detach()[None], outputs["window6.row0.scalar"]) < 1e-5
    worst = relative(noisy.grad, outputs["window6.row0.grad.noisy"])
    parameters = dict(net.named_parameters())
    for name in config["grad_names"]:
        found = parameters[name.removeprefix("model.")].grad
        worst = max(worst, relative(found, outputs[f"window6.row0.grad.{name}"]))
    print(f"gradients: largest relative error {worst:.1e}")
    assert worst < 1e-4


def relative(found, stored):
    return float((found - stored).abs().max() / stored.abs().max())


@torch.no_grad()
def test_a_rollout_with_fresh_noise(close):
    config, inputs, outputs = case("f_rollout")
    net, count = network("f_rollout"), config["num_frame_per_block"]
    sigmas = warped_levels(config["denoising_step_list"], config["timestep_shift"]).sigmas().tolist()
    torch.testing.assert_close(
        TABLE * torch.tensor(sigmas[:-1]), outputs["denoising_timesteps"].float(), atol=1e-3, rtol=0
    )
    own = Run(net, inputs, config["window"])
    for block in range(config["blocks"]):
        atol = LATER_ATOL if block else ATOL
        noisy = inputs["noise"][:, own.first : own.first + count]
        for step, (sigma, following) in enumerate(pairwise(sigmas)):
            name = f"block{block}.step{step}"
            close(noisy, outputs[f"{name}.input"], atol)
            flow = own.flow(noisy, torch.full(noisy.shape[:2], TABLE * sigma))
            close(flow, outputs[f"{name}.flow"], atol)
            clean = noisy - sigma * flow
            close(clean, outputs[f"{name}.x0"], atol)
            if following:
                fresh = inputs["renoise"][block, step]
                noisy = fresh_noise_step(noisy, clean, sigma, following, lambda fresh=fresh: fresh)
        if block == config["blocks"] - 1:
            assert own.seen(count, own.window) == config["visible_latents_of_last_block"]
        close(clean, outputs["latents"][:, own.first : own.first + count], atol)
        own.remember(clean)


def test_noise_levels_of_the_checkpoints():
    _, _, outputs = case("f_rollout")
    checkpoints = {
        "forgewm": FORGEWM_3, "mg2_templerun": TEMPLE_RUN, "mg2_universal_and_gta": UNIVERSAL
    }  # fmt: skip
    for name, variant in checkpoints.items():
        stored = outputs[f"table.{name}.sigmas"].float()
        torch.testing.assert_close(variant.schedule.sigmas()[:-1], stored, atol=1e-6, rtol=0)
        torch.testing.assert_close(
            TABLE * stored, outputs[f"table.{name}.timesteps"].float(), atol=1e-3, rtol=0
        )
    many = ShiftedLevels(SHIFT, TABLE).sigmas()[:-1]
    torch.testing.assert_close(many, outputs["table.sigmas"].float(), atol=1e-6, rtol=0)
    assert isinstance(FORGEWM_1.schedule, ShiftedLevels) and FORGEWM_1.schedule.shift == SHIFT


@pytest.mark.parametrize("name", ["both", "keyboard_only"])
def test_what_each_latent_sees_of_the_commands(name, close):
    config, inputs, outputs = case("f_actions")
    tensors = weights("f_actions", f"{name}.")
    sizes = ActionConfig.of_shapes(
        {f"blocks.0.action_model.{k}": v for k, v in shapes_of(tensors).items()}, 0
    )
    module = ActionModule(config["dim"], sizes)
    module.load_state_dict(tensors)
    count, window = config["num_frame_per_block"], Window(config["window"])
    x_BKTD = inputs["x"].unflatten(1, (config["latents"], -1))
    kept = []
    for block in range(config["blocks"]):
        first = block * count

        def seen(settings, first=first):
            before = settings[:, max(0, first - 2) : first] if first else None
            return seen_frames(settings[:, first : first + count], before, first)

        read = {}
        for device in ("keyboard", "mouse"):
            if f"{name}.{device}" in inputs:
                own = settings_of(inputs[f"{name}.{device}"])
                frames = seen(own)
                assert torch.equal(frames[0], outputs[f"{name}.{device}_window.{block}"])
                read[device] = frames.flatten(2)
        numbers = settings_of(torch.arange(config["frames"]).double()[None, :, None])
        places = seen(numbers)
        assert torch.equal(places[0, ..., 0].long(), outputs[f"{name}.frame_index.{block}"])
        start = min((start for start, _ in window.spans(first, count)), default=0)
        past = [tuple(torch.cat(parts)[start:] for parts in zip(*kept, strict=True))] if kept else []
        mouse = read.get("mouse", torch.zeros(1, count, 1))
        with torch.no_grad():
            out, own = module(x_BKTD[:, first : first + count], Windows(read["keyboard"], mouse), past, first)
        tokens = x_BKTD.shape[2]
        close(out.flatten(1, 2), outputs[f"{name}.out"][:, first * tokens : (first + count) * tokens])
        kept.append([part[0] for part in own])


def test_the_official_live_mode_commands_one_frame_later():
    """A command given for a block fills its own frames there; here it leads to them."""
    config, _, outputs = case("f_actions")
    count = config["num_frame_per_block"]
    for block, (start, stop) in enumerate(outputs["mg2_live.frames"].tolist()):
        first, last = block * count, (block + 1) * count - 1
        assert (start, stop) == (max(0, 4 * first - 3), 4 * last + 1)
        numbers = settings_of(torch.arange(config["frames"]).double()[None, :, None])
        own = numbers[0, first : last + 1].flatten()
        assert own[~own.isnan()].tolist() == list(range(max(0, start - 1), stop - 1))


@torch.no_grad()
def test_the_start_image_as_a_condition(close):
    config, inputs, outputs = case("f_i2v_condition")
    tensors = weights("f_i2v_condition", "")
    encoder = {k: t for k, t in tensors.items() if not k.startswith("model.")}
    vae = WanAutoencoder(WanVaeConfig.of_shapes(shapes_of(encoder)))
    missing, unexpected = vae.load_state_dict(encoder, strict=False)
    assert not unexpected and all(name.startswith(("decoder.", "conv2.")) for name in missing)
    image = vae.encode_still(inputs["pixel"][:, 0])[0]
    assert image.shape[1] > config["image_condition_repeats_from_latent"]
    stored = outputs["cond_concat"][0].transpose(0, 1)
    close(condition_of(image, 0, config["latents"]), stored)
    count = config["num_frame_per_block"]
    for name in (name for name in outputs if name.startswith("block") and name.endswith(".cond_concat")):
        block = int(name.partition(".")[0].removeprefix("block"))
        close(condition_of(image, block * count, count), outputs[name][0].transpose(0, 1))
    again = condition_of(image, config["image_condition_repeats_from_latent"], 40)[4:]
    close(again, again[:, -1:].expand_as(again), 1e-5)
    longer = inputs["pixel"].new_zeros(1, 3, 4 * image.shape[1] + 9, *inputs["pixel"].shape[-2:])
    longer[:, :, 0] = inputs["pixel"][:, 0]
    close(condition_of(image, 0, image.shape[1] + 3)[4:], vae.encode(longer)[0], 1e-5)


@torch.no_grad()
def test_image_tokens_and_patches_enter_the_network(close):
    config, inputs, outputs = case("f_i2v_condition")
    tensors = weights("f_i2v_condition")
    sizes = Config(
        in_channels=tensors["patch_embedding.weight"].shape[1], width=config["dim"],
        num_heads=config["num_heads"], num_blocks=1, mlp_width=8, sinusoid=8, reads="image",
        states_width=config["clip_dim"], by_camera=False,
    )  # fmt: skip
    net = CausalWan(sizes)
    _, unexpected = net.load_state_dict(tensors, strict=False)
    assert not unexpected
    states = net.img_emb(inputs["image_tokens"])
    close(states, outputs["context"])
    block = net.blocks[0]
    assert isinstance(block, Block)
    attention = block.cross_attn
    k, v = attention.keys(states)
    close(k.transpose(1, 2), outputs["cross_attn.k"])
    close(v.transpose(1, 2), outputs["cross_attn.v"])
    close(block._read(inputs["cross_attn.x"], states), outputs["cross_attn.out"])
    condition = outputs["block0.cond_concat"].transpose(1, 2)
    noisy = inputs["patch_embedding.noisy"]
    close(net.patch_embedding(torch.cat([noisy, condition], 1)), outputs["patch_embedding.out"])


def test_the_palette_of_commands():
    _, _, outputs = case("f_i2v_condition")
    names = {name.split(".")[1] for name in outputs if name.startswith("action.")}
    for name in names:
        keys = keys_of(name)
        values = WALKER.space.commanded(torch.tensor([WALKER.space.of_words(keys)])).values_KTA[0, 0]
        stored = outputs[f"action.{name}.keyboard"]
        assert torch.equal(WALKER.pressed(values, len(stored)), stored), name
        torch.testing.assert_close(WALKER.moved(values), outputs[f"action.{name}.mouse"], atol=1e-7, rtol=0)


def keys_of(name):
    """The keys of an entry of the official palette, such as ``forward_turn_right``."""
    moves = {"forward": "w", "back": "s", "left": "a", "right": "d"}
    turns = {f"{verb}_{way}" for verb in ("turn", "look") for way in ("left", "right", "up", "down")}
    found = [turn for turn in turns if turn in name]
    rest = [part for part in name.replace("no_action", "").split("_") if part]
    for turn in found:
        rest = [part for part in rest if part not in turn.split("_")]
    return [turn.split("_")[1] for turn in found] + [moves[part] for part in rest]


@torch.no_grad()
def test_image_tokens(close):
    config, inputs, outputs = case("f_clip_tokens")
    tensors = weights("f_clip_tokens", "")
    encoder = ImageEncoder(ImageEncoderConfig.of_shapes(shapes_of(tensors), config["num_heads"]))
    encoder.load_state_dict(encoder.own(tensors))
    assert config["skipped_layers"] == 1
    close(encoder.pixels(inputs["image"]), outputs["pixels_in"])
    close(encoder(inputs["image"]), outputs["tokens"])
