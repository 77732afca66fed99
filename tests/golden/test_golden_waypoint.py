"""Waypoint's network, rings, sampler and autoencoder against numbers from the official code.

The folder is named by the environment variable WORLDCOMPASS_GOLDEN; sizes and options come from each case's
config.json.
"""

import json
import os
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from worldcompass.rollout import imagine_chunk
from worldcompass.types import Actions, Scenario
from worldcompass.worlds.waypoint.autoencoder import FRAME_SIZE
from worldcompass.worlds.waypoint.config import WaypointConfig
from worldcompass.worlds.waypoint.controls import PlayKey, control_values
from worldcompass.worlds.waypoint.rings import kept, seen, sights, visible
from worldcompass.worlds.waypoint.rotary import rotary_table
from worldcompass.worlds.waypoint.tiny import Colours
from worldcompass.worlds.waypoint.transformer import Frame, Past, Prompt, WaypointTransformer, attend_frames
from worldcompass.worlds.waypoint.weights import (
    DECODER_FILES,
    ENCODER_FILES,
    load_coder,
    load_waypoint,
    official_names,
)
from worldcompass.worlds.waypoint.world import Waypoint

ROOT = os.environ.get("WORLDCOMPASS_GOLDEN")
pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not ROOT, reason="WORLDCOMPASS_GOLDEN names no folder of official numbers"),
]
ATOL = 1e-5  # the stored numbers are float32
FORWARD = ["w_forward", "w_forward_plain", "w_forward_value_residual"]


def case(name):
    folder = Path(ROOT or ".") / name
    files = [folder / f"{kind}.safetensors" for kind in ("inputs", "outputs")]
    return json.loads((folder / "config.json").read_text()), *(
        load_file(f) if f.exists() else {} for f in files
    )


def network(name, inputs):
    folder = Path(ROOT or ".") / name
    config = WaypointConfig.from_keys(json.loads((folder / "config.json").read_text())["model"])
    if "prompt_emb" in inputs:
        config = replace(config, prompt_length=len(inputs["prompt_emb"]))
    with torch.device("meta"):
        net = WaypointTransformer(config)
    load_waypoint(net, folder / "weights.safetensors", torch.float32)
    return net


def controls(inputs, prefix):
    """Stored controls as a recording would give them."""
    pressed = [set(row.nonzero()[:, 0].tolist()) for row in inputs[f"{prefix}button"]]
    wheel = inputs[f"{prefix}scroll"][:, 0]
    return control_values(inputs[f"{prefix}mouse"], pressed, wheel, inputs[f"{prefix}button"].shape[1])


@pytest.fixture
def close(request):
    """Compares, and prints the largest error of the test (pytest -rP shows it)."""
    errors = [0.0]

    def compare(ours, theirs):
        errors.append(float((ours.detach() - theirs).abs().max()))
        torch.testing.assert_close(ours, theirs, atol=ATOL, rtol=0)

    yield compare
    print(f"{request.node.name}: largest error {max(errors):.1e}")


class Walk:
    """The stored past of a case, one frame after another."""

    def __init__(self, name):
        self.config, self.inputs, self.outputs = case(name)
        self.net = network(name, self.inputs)
        self.sights = sights(self.net.config)
        self.rings, self.frame = [()] * self.net.config.num_layers, 0
        states = self.inputs.get("prompt_emb")
        self.prompt = () if states is None else self.net(Prompt(states))

    @property
    def past(self):
        ways = zip(self.rings, self.sights, strict=True)
        return Past(self.prompt, tuple(seen(ring, self.frame, sight) for ring, sight in ways))

    def noisy(self, rows):
        chosen, i = slice(*rows), self.inputs
        return Frame(i["noisy"][chosen], i["sigma"][chosen], controls(i, "next.")[chosen], self.frame)

    @torch.no_grad()
    def go_to(self, frame):
        while self.frame < frame:
            now = slice(self.frame, self.frame + 1)
            given = Frame(
                self.inputs["past"][now], torch.zeros(1), controls(self.inputs, "past.")[now], self.frame
            )
            stored = self.net(given, [self.past], keep_keys=True)
            self.rings = [
                kept(ring, self.frame, k[0], v[0], sight)
                for ring, (k, v), sight in zip(self.rings, stored, self.sights, strict=True)
            ]
            self.frame += 1


@pytest.mark.parametrize("name", FORWARD)
def test_velocity_and_keys_after_pasts_of_every_stored_length(name, close):
    walk = Walk(name)
    o, rows = walk.outputs, walk.config["rows"]
    assert [walk.net.config.is_global(i) for i in range(len(walk.rings))] == o["is_global"].tolist()
    for at in sorted(walk.config["at"]):
        walk.go_to(at)
        for layer, (ring, sight) in enumerate(zip(walk.rings, walk.sights, strict=True)):
            frames = [k.frame for k in visible(ring, at, sight)]
            assert [*frames, at] == o[f"at{at}.attended.{layer}"].tolist()
        with torch.no_grad():
            velocity = walk.net(walk.noisy((0, rows)), [walk.past])
        close(velocity, o[f"at{at}.velocity"])
        sigma = walk.inputs["sigma"].view(-1, 1, 1, 1)
        close(walk.inputs["noisy"] - sigma * velocity, o[f"at{at}.x0"])
    for layer, ring in enumerate(walk.rings):
        theirs = o[f"cache.frames.{layer}"].tolist()
        assert ring
        for own in ring:
            close(own.keys_hNd, o[f"cache.kv.{layer}"][0, theirs.index(own.frame)])
            close(own.values_hNd, o[f"cache.kv.{layer}"][1, theirs.index(own.frame)])


@pytest.mark.parametrize("name", FORWARD)
def test_activations_on_the_way(name, close):
    walk = Walk(name)
    walk.go_to(max(walk.config["at"]))
    found, net = {}, walk.net
    for mine, theirs in (("denoise_step_emb", "cond"), ("ctrl_emb", "ctrl_emb"), ("out_norm", "out_norm")):
        net.get_submodule(mine).register_forward_hook(lambda _m, _i, y, key=theirs: found.update({key: y}))
    for i, block in enumerate(net.transformer.blocks):
        block.register_forward_hook(lambda _m, _i, y, key=f"block.{i}": found.update({key: y[0]}))
    net.transformer.blocks[0].attn.register_forward_hook(lambda _m, _i, y: found.update({"attn.0": y[0]}))
    with torch.no_grad():
        net(walk.noisy((0, 1)), [walk.past])
    stored = {k.removeprefix("mid."): v for k, v in walk.outputs.items() if k.startswith("mid.")}
    assert found.keys() == stored.keys()
    for key, x in found.items():
        close(x.view_as(stored[key]), stored[key])


@pytest.mark.parametrize("name", FORWARD)
def test_gradients_with_the_past_held_constant(name, close):
    """A tied matrix has one gradient, which the fixtures hold under block 0."""
    walk = Walk(name)
    walk.go_to(max(walk.config["at"]))
    text = (Path(ROOT or ".") / name / "README.md").read_text()
    row = int(re.search(r"for row (\d+)", text)[1])
    noisy = walk.noisy((row, row + 1))
    clean = noisy.latents_BCHW - noisy.sigma_B.view(-1, 1, 1, 1) * walk.net(noisy, [walk.past])
    (clean[0] * walk.inputs["grad_weight"]).mean().backward()
    own = {name: k for k, names in official_names(walk.net).items() for name in names}
    parameters = dict(walk.net.named_parameters())
    stored = [k.removeprefix("grad.") for k in walk.outputs if k.startswith("grad.")]
    assert stored
    for k in stored:
        theirs = walk.outputs[f"grad.{k}"]
        scale = theirs.abs().max()
        close(parameters[own[k]].grad.view_as(theirs) / scale, theirs / scale)


def test_attention_by_itself(close):
    config, inputs, outputs = case("w_attention")
    settings = WaypointConfig.from_keys(config["model"])
    weights = load_file(Path(ROOT or ".") / "w_attention" / "weights.safetensors")
    net = WaypointTransformer(settings)
    for layer, (block, sight) in enumerate(zip(net.transformer.blocks, sights(settings), strict=True)):
        prefix = f"transformer.blocks.{layer}.attn."
        own = {k.removeprefix(prefix): v.float() for k, v in weights.items() if k.startswith(prefix)}
        shapes = block.attn.state_dict()
        block.attn.load_state_dict({k: v.view_as(shapes[k]) for k, v in own.items()})
        ring, outs = (), []
        for t in range(config["frames"]):
            past = seen(ring, t, sight)
            rotary = rotary_table(t, settings.grid, settings.head, torch.device("cpu"))
            attend = partial(attend_frames, rotary=rotary, pasts=[] if past is None else [past])
            first = inputs["v_first"][t][None] if layer else None
            with torch.no_grad():
                y, _, (k, v) = block.attn(inputs["x"][layer, t][None], first, attend)
            ring = kept(ring, t, k[0], v[0], sight)
            outs.append(y[0])
        close(torch.stack(outs), outputs[f"y.{layer}"])


def test_which_frames_each_kind_of_layer_sees():
    config, _, outputs = case("w_cache")
    empty = torch.zeros(1, 1, 1)
    for spec in config["specs"]:
        name, d = spec["name"], spec["global_pinned_dilation"]
        period, offset = spec["global_attn_period"], spec["global_attn_offset"]
        settings = WaypointConfig(
            num_layers=spec["n_layers"], global_period=period, global_offset=offset, dilation=d,
            local_window=spec["local_window"], global_window=spec["global_window"],
        )  # fmt: skip
        found = [settings.is_global(i) for i in range(spec["n_layers"])]
        assert found == outputs[f"{name}.is_global"].tolist()
        kinds = {settings.is_global(i): sight for i, sight in enumerate(sights(settings))}
        for kind, is_global in (("local", False), ("global", True)):
            ring = ()
            for t, row in enumerate(outputs[f"{name}.{kind}"].tolist()):
                frames = [k.frame for k in visible(ring, t, kinds[is_global])]
                assert [*frames, t] == [f for f in row if f >= 0], (name, kind, t)
                ring = kept(ring, t, empty, empty, kinds[is_global])


def test_a_rollout_by_the_contract(close):
    """Given latents, then the contract's sampler over the levels of the file; a control is that of its frame."""
    config, inputs, outputs = case("w_rollout")
    net = network("w_rollout", inputs)
    values = controls(inputs, "")
    assert torch.equal(values, outputs["contract.controls"])
    world = Waypoint(net, Colours(net.config.latent_shape[1:]), {"key": PlayKey(0, "KeyW")})
    sigmas = world.spec.sigmas()
    torch.testing.assert_close(sigmas, outputs["sigmas"], atol=1e-7, rtol=0)
    start = {"latents": inputs["given"], "text_states": inputs["prompt_emb"]}
    scenario = Scenario("s", world.spec.actions.hold(values), conditioning=start)
    context = world.begin([scenario])
    for t in range(config["given"] + config["generated"]):
        actions = Actions.stack([scenario.actions.latents(t, t + 1)])
        attended = world.attend(context, actions)
        assert attended.given_K.tolist() == [t < config["given"]]
        index = t - config["given"]
        noise = inputs["noise"][max(0, index), :, None][None]
        seen_velocity = []
        net.register_forward_hook(lambda _m, _i, y, into=seen_velocity: into.append(y))
        clean = imagine_chunk(world, attended, actions, lambda step, own=noise: own, sigmas)
        close(clean[0, :, 0], outputs["latents"][t])
        assert len(seen_velocity) == (0 if index < 0 else len(sigmas) - 1)
        for step, velocity in enumerate(seen_velocity):
            close(velocity[0], outputs["velocity"][index, step])
        net._forward_hooks.clear()
        with torch.no_grad():
            passed = net(Frame(clean[:, :, 0], torch.zeros(1), values[t : t + 1], t), attended.attended.pasts)
        close(passed[0], outputs["cache_pass_velocity"][t])
        context = world.remember(attended, clean, actions)


@pytest.fixture
def coder(tmp_path):
    """The autoencoder, loaded from files as they are published."""
    yaml = pytest.importorskip("yaml")
    config, inputs, outputs = case("w_ae")
    weights = load_file(Path(ROOT or ".") / "w_ae" / "weights.safetensors")
    for half, (settings, file) in (("encoder", ENCODER_FILES), ("decoder", DECODER_FILES)):
        own = {k.removeprefix(f"{half}."): v for k, v in weights.items() if k.startswith(f"{half}.")}
        save_file(own, tmp_path / file)
        (tmp_path / settings).write_text(yaml.safe_dump({"model": config[half]}))
    return load_coder(tmp_path), inputs, outputs


@torch.no_grad()
def test_pictures_are_encoded(coder, close):
    coder, inputs, outputs = coder
    close(coder.encode(inputs["image"].movedim(-1, 0)[None]), outputs["latent"])


@torch.no_grad()
def test_latents_are_decoded(coder, close):
    coder, inputs, outputs = coder
    close(coder.net.decoder.before_resize(inputs["latent"]), outputs["decoder_before_resize"])
    whole = coder.net.decoder(inputs["latent"])[:, :3]
    frame = coder.decode(inputs["latent"])[0].movedim(0, -1)
    assert tuple(frame.shape[:2]) == FRAME_SIZE
    sample, crop = (slice(None, None, 5), slice(None, None, 5)), (slice(100, 148), slice(200, 264))
    for cut, name in ((sample, "sample"), (crop, "crop")):
        close(whole[:, :, *cut], outputs[f"decoded_{name}"])
        assert int((frame[cut].int() - outputs[f"frame_{name}"].int()).abs().max()) <= 1
