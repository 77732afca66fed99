"""Nano World Model against numbers from the official code, on tiny random configurations.

The folder is named by the environment variable WORLDCOMPASS_GOLDEN; sizes come from each case's config.json.
"""

import json
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from worldcompass.controls import Axis, Controls
from worldcompass.noise import euler_step
from worldcompass.rollout import imagine_chunk
from worldcompass.types import ControlValues, Scenario
from worldcompass.worlds.nano import world as nano_world
from worldcompass.worlds.nano.actions import NanoActions, Statistics
from worldcompass.worlds.nano.autoencoder import PictureAutoencoder, PictureDecoder
from worldcompass.worlds.nano.config import NanoConfig, PictureConfig
from worldcompass.worlds.nano.noising import Noising
from worldcompass.worlds.nano.tiny import Colours
from worldcompass.worlds.nano.transformer import Frames, NanoTransformer
from worldcompass.worlds.nano.world import NanoWorld, Sampling

ROOT = os.environ.get("WORLDCOMPASS_GOLDEN")
pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not ROOT, reason="WORLDCOMPASS_GOLDEN names no folder of official numbers"),
]
INJECTIONS = ["additive", "adaln", "adaln_fuse", "film", "cross_attention"]
ATOL = 1e-5  # of networks and samplers; the stored numbers are float32
TABLES = 1e-12
GRADIENTS = 1e-6
OFFICIAL_EULER = 1e-3  # its first step recovers the noise through 1 / sqrt(1e-8)
LEVELS = 1e-6  # of float32


def case(name):
    folder = Path(ROOT or ".") / name
    files = [folder / "inputs.safetensors", folder / "outputs.safetensors"]
    return json.loads((folder / "config.json").read_text()), *(load_file(f) for f in files)


def weights(name):
    return load_file(Path(ROOT or ".") / name / "weights.safetensors")


def network(name, sizes):
    assert sizes["causal"]
    assert sizes["extras"] == 1
    net = NanoTransformer(
        NanoConfig(
            latent_channels=sizes["in_channels"],
            latent_size=sizes["input_size"],
            patch=sizes["patch_size"],
            width=sizes["hidden_size"],
            num_blocks=sizes["depth"],
            num_heads=sizes["num_heads"],
            num_frames=sizes["num_frames"],
            action_size=sizes["action_dim"],
            injection=sizes["action_injection_type"],
        )
    )
    net.load_state_dict(weights(name))
    return net


def noising_of(config, prediction):
    diffusion = config["diffusion"]
    return Noising(
        prediction,
        diffusion["noise_schedule"],
        diffusion["zero_terminal_snr"],
        diffusion["diffusion_steps"],
        diffusion["history_stabilization_level"],
    )


@pytest.fixture
def close(request):
    """Compares, and prints the largest error of exact comparisons of the test (pytest -rP shows it)."""
    errors = [0.0]

    def compare(ours, theirs, atol=ATOL):
        if atol != OFFICIAL_EULER:
            errors.append(float((ours.detach() - theirs).abs().max()))
        torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)

    yield compare
    print(f"{request.node.name}: largest error {max(errors):.1e}")


class Forward:
    """A stored forward pass: history, noisy latent, and their conditions in the project's form."""

    def __init__(self, injection, prediction):
        self.config, self.inputs, self.outputs = case(f"n_forward_{injection}")
        self.net = network(f"n_forward_{injection}", self.config["model"])
        self.count, self.prediction = self.config["history_length"], prediction
        self.noising = noising_of(self.config, prediction)
        self.sigma = self.of("sigma").float()
        self.noisy = self.of("noisy_contract")[:, :, None]
        theirs = self.inputs["actions"][:, : self.count]  # of the latent before each
        self.actions = torch.cat([torch.zeros_like(theirs[:, :1]), theirs], 1)

    def of(self, name):
        return self.outputs[f"{self.prediction}.{name}"]

    def frames(self, stabilised=False):
        history, told = self.inputs["history"].transpose(1, 2), 0
        if stabilised:
            history, told = self.of("stab.history").transpose(1, 2), int(self.outputs["t_stab"])
        latents = torch.cat([history, self.noising.scaled(self.noisy, self.sigma)], 2)
        timesteps = torch.full((len(latents), self.count + 1), float(told))
        timesteps[:, -1] = self.noising.timesteps(self.sigma)
        return Frames(latents, timesteps, self.actions)

    def run(self, frames):
        """Outputs of the whole window, and of its last latent after a prefix."""
        output = self.net(frames).transpose(1, 2)
        with torch.no_grad():
            prefix = self.net(part(frames, slice(0, self.count)), keep_keys=True)
            after = self.net(part(frames, slice(self.count, None)), prefix)[:, :, 0]
        return output, after

    def clean(self, output):
        return self.noising.clean(output[:, -1:].transpose(1, 2), self.noisy, self.sigma)[:, :, 0]


def part(frames, where):
    return Frames(
        frames.latents_BCKHW[:, :, where], frames.timesteps_BK[:, where], frames.actions_BKA[:, where]
    )


@pytest.mark.parametrize("prediction", ["flow", "v"])
@pytest.mark.parametrize("injection", INJECTIONS)
def test_one_window_with_clean_and_with_noised_history(injection, prediction, close):
    stored = Forward(injection, prediction)
    frames = stored.frames()
    assert torch.equal(frames.timesteps_BK[:, -1].long(), stored.inputs["t"])
    close(frames.latents_BCKHW[:, :, -1], stored.of("noisy"))
    output, after = stored.run(frames)
    close(output, stored.of("prediction_window"))
    close(after, stored.of("prediction"))
    clean = stored.clean(output)
    close(clean, stored.of("x0"))
    (clean * stored.inputs["grad_weight"]).mean().backward()
    parameters = dict(stored.net.named_parameters())
    start = f"grad.{prediction}."
    names = [name for name in stored.outputs if name.startswith(start)]
    assert names
    for name in names:
        close(parameters[name.removeprefix(start)].grad, stored.outputs[name], GRADIENTS)
    output, after = stored.run(stored.frames(stabilised=True))
    close(output, stored.of("stab.prediction_window"))
    close(after, stored.of("stab.prediction"))
    close(stored.clean(output), stored.of("stab.x0"))


@pytest.mark.parametrize("injection", INJECTIONS)
def test_activations_on_the_way(injection, close):
    stored, seen = Forward(injection, "flow"), {}

    def keep(name):
        return lambda _module, _inputs, output: seen.__setitem__(name, output)

    stored.net.t_embedder.register_forward_hook(keep("t_emb"))
    for index, block in enumerate(stored.net.blocks):
        block.register_forward_hook(keep(f"block.{index}"))
    with torch.no_grad():
        prefix = stored.net(stored.frames(), keep_keys=True)
    close(seen["t_emb"], stored.outputs["mid.t_emb"])
    close(prefix.actions_PnD, stored.outputs["mid.action_emb"])
    for index in range(len(stored.net.blocks)):
        close(seen[f"block.{index}"][0], stored.outputs[f"mid.block.{index}"])


def test_tables_of_both_samplers(close):
    config, _, outputs = case("n_schedules")
    for spec in config["specs"]:
        total = spec["diffusion_steps"]
        stored = {name.partition(".")[2]: value for name, value in outputs.items() if f"T{total}." in name}
        noising, flow = Noising(num_timesteps=total), Noising("flow", num_timesteps=total)
        close(noising.alphas_T, stored["alphas_cumprod"], TABLES)
        close(replace(noising, zero_terminal_snr=False).alphas_T, stored["alphas_cumprod_no_ztsnr"], TABLES)
        linear = Noising("epsilon", "linear", zero_terminal_snr=False, num_timesteps=total)
        close(linear.alphas_T, stored["alphas_cumprod_linear"], TABLES)
        close(noising.sigmas_T, stored["sigma"], TABLES)
        close(flow.sigmas_T, stored["flow_sigma"], TABLES)
        scale = noising.scaled(torch.ones(total, 1, 1, 1, 1), noising.sigmas_T.float()).flatten()
        close(scale, stored["scale"].float(), LEVELS)
        for known in (noising, flow, linear):
            back = known.timesteps(known.sigmas_T.float())
            assert torch.equal(back, torch.arange(total).float()), "every level returns its own timestep"
        for steps in spec["steps"]:
            check_steps(noising, flow, steps, stored, close)


def check_steps(noising, flow, steps, stored, close):
    assert noising.told(steps) == stored[f"full{steps}.schedule"][:-1].tolist()
    assert flow.told(steps, "respaced") == noising.told(steps), "flow matching ignores respacing"
    assert noising.told(steps, "respaced")[::-1] == stored[f"respaced{steps}.timestep_map"].tolist()
    for known, regime, name in (
        (noising, "full", f"full{steps}"),
        (noising, "respaced", f"respaced{steps}"),
        (flow, "full", f"flow{steps}"),
    ):
        levels = torch.tensor(known.levels(steps, regime).levels, dtype=torch.float64)
        close(levels, stored[f"{name}.sigmas"], TABLES)
        for key in (key for key in stored if key.startswith(f"{name}.t_stab_")):
            level = float(key.rpartition("_")[2])
            told = replace(known, stabilization=level).stabilization_timestep(steps, regime)
            index = int(stored[key])
            assert told == (int(stored[f"{name}.timestep_map"][index]) if regime == "respaced" else index)


@pytest.mark.parametrize("prediction", ["v", "x", "epsilon", "flow"])
def test_clean_estimates_and_steps_of_every_parameterisation(prediction, close):
    config, inputs, outputs = case("n_schedules")
    for spec in config["specs"]:
        start = f"T{spec['diffusion_steps']}."
        noising = Noising(
            prediction,
            "linear" if prediction == "epsilon" else "squaredcos_cap_v2",
            prediction != "epsilon",
            spec["diffusion_steps"],
        )
        # One latent for each pair of timesteps: (1, N, C, H, W) becomes N rows.
        columns = lambda x: x[0][:, :, None]  # noqa: E731
        sigmas = torch.cat([torch.zeros(1, dtype=torch.float64), noising.sigmas_T]).float()
        sigma, after = (sigmas[inputs[start + name] + 1] for name in ("t", "next_t"))
        scale = noising.scaled(torch.ones(len(sigma), 1, 1, 1, 1), sigma)
        noisy = columns(inputs[start + "x_t"]) / scale
        clean = noising.clean(columns(inputs[start + "model_output"]), noisy, sigma)
        close(
            clean, columns(outputs[f"{start}{prediction}.x0"]), relative(outputs[f"{start}{prediction}.x0"])
        )
        rows = [
            euler_step(x[None], c[None], float(s), float(n))
            for x, c, s, n in zip(noisy, clean, sigma, after, strict=True)
        ]
        moved = noising.scaled(torch.cat(rows), after)
        close(moved, columns(outputs[f"{start}{prediction}.next"]), OFFICIAL_EULER)
        if f"{start}{prediction}.q_sample" in outputs:
            known, noise = (columns(inputs[f"{start}{prediction}.{name}"]) for name in ("clean", "noise"))
            level = sigma.view(-1, 1, 1, 1, 1)
            noised = noising.scaled((1 - level) * known + level * noise, sigma)
            close(noised, columns(outputs[f"{start}{prediction}.q_sample"]))


def relative(values):
    """The tolerance of networks for values far above 1."""
    return ATOL * max(1.0, float(values.abs().max()))


class Rollout:
    """Stored frames of the sequential sampler, and the world that imagines them."""

    def __init__(self, name, group, **changes):
        self.config, self.inputs, outputs = case(name)
        self.group, start = group, f"{group}."
        self.outputs = {k.removeprefix(start): v for k, v in outputs.items() if k.startswith(start)}
        net = network(name, self.config["model"])
        self.noising = replace(noising_of(self.config, self.config["diffusion"]["pred_name"]), **changes)
        self.count, steps = self.config["history_length"], self.config["num_sampling_steps"]
        regime = "full" if group in ("full", "window") else "respaced"
        per_latent, wide = self.config["frame_interval"], self.inputs["contract.actions"].shape[-1]
        axes = (Axis(f"a{i}", -100, 100, words=(f"less{i}", f"more{i}")) for i in range(wide // per_latent))
        actions = NanoActions(Controls(tuple(axes), per_latent))
        sampling = Sampling(steps, regime, history=self.count, given=self.count)
        self.world = NanoWorld(net, Colours(), self.noising, actions, sampling)

    def scenarios(self):
        rows = self.inputs["contract.actions"].unflatten(-1, (self.config["frame_interval"], -1))
        history = self.inputs["history"].transpose(1, 2)
        return [
            Scenario(f"s{row}", ControlValues(values), conditioning={"latent": history[row]})
            for row, values in enumerate(rows)
        ]

    def stored(self, name):
        return self.inputs[f"{self.group}.{name}"]


@torch.no_grad()
def imagined(rollout, monkeypatch):
    """Frames after the given ones, imagined with the stored noise, and the noised histories on the way."""
    world, frames, batch, seen = rollout.world, [], rollout.scenarios(), []
    values = torch.stack([s.actions.values_KTA for s in batch])
    start = rollout.stored("init_noise")
    world.net.register_forward_pre_hook(
        lambda _module, inputs, options: seen.append(inputs[0]) if options.get("keep_keys") else None,
        with_kwargs=True,
    )
    context = world.begin(batch)
    for latent in range(rollout.count + len(start)):
        frame, actions = latent - rollout.count, ControlValues(values[:, latent : latent + 1])
        if frame >= 0 and world.stabilization is not None:
            noise = rollout.stored("history_noise")[frame].transpose(1, 2)
            monkeypatch.setattr(nano_world, "history_noise", lambda *_, noise=noise: noise)
        attended = world.attend(context, actions, [])
        draw = lambda _step, frame=frame: start[max(0, frame)][:, rollout.count, :, None]  # noqa: E731
        clean = imagine_chunk(world, attended, actions, draw, world.spec.sigmas())
        frames.append(clean[:, :, 0])
        context = world.remember(attended, clean, actions)
    return torch.stack(frames[rollout.count :], 1), seen


@pytest.mark.parametrize("group", ["slide", "full", "nostab"])
def test_frames_of_the_sequential_ddim_sampler(group, monkeypatch, close):
    changes = {"stabilization": 0.0} if group == "nostab" else {}
    rollout = Rollout("n_sampler_ddim", group, **changes)
    close(rollout.world.spec.sigmas(), rollout.outputs["sigmas"].float(), LEVELS)
    frames, seen = imagined(rollout, monkeypatch)
    close(frames, rollout.outputs["generated"], OFFICIAL_EULER)
    if group != "nostab":
        close(frames, rollout.outputs["contract_generated"])
        close(seen[0].latents_BCKHW.transpose(1, 2), rollout.outputs["noised_history"][0])


@pytest.mark.parametrize("group", ["slide", "nostab"])
def test_frames_of_the_sequential_flow_sampler(group, monkeypatch, close):
    changes = {"stabilization": 0.0} if group == "nostab" else {}
    rollout = Rollout("n_sampler_flow", group, **changes)
    close(rollout.world.spec.sigmas(), rollout.outputs["sigmas"].float(), LEVELS)
    frames, seen = imagined(rollout, monkeypatch)
    close(frames, rollout.outputs["generated"])
    for index, frames in enumerate(seen):
        if group != "nostab":
            close(frames.latents_BCKHW.transpose(1, 2), rollout.outputs["noised_history"][index], 1e-4)


@pytest.mark.parametrize("kind", ["ddim", "flow"])
@torch.no_grad()
def test_all_frames_of_one_window(kind, close):
    """The form of the official evaluation, which no rollout of the project has: frames of the window stay clean."""
    rollout = Rollout(f"n_sampler_{kind}", "window")
    noising, net, count = rollout.noising, rollout.world.net, rollout.count
    told = noising.stabilization_timestep(rollout.config["num_sampling_steps"])
    sigma = noising.sigmas_T[told].float().expand(len(rollout.inputs["history"]))
    level = sigma.view(-1, 1, 1, 1, 1)
    history, noise = (x.transpose(1, 2) for x in (rollout.inputs["history"], rollout.stored("history_noise")))
    window = noising.scaled((1 - level) * history + level * noise, sigma)
    theirs = rollout.outputs["actions"]  # of the latent before each
    actions = torch.cat([torch.zeros_like(theirs[:, :1]), theirs[:, :-1]], 1)
    levels = noising.levels(rollout.config["num_sampling_steps"]).sigmas().tolist()
    for place in range(count, rollout.outputs["window"].shape[1]):
        noisy = rollout.stored("init_noise")[:, place, :, None]
        for now, after in pairwise(levels):
            sigma = torch.full((len(noisy),), now)
            timesteps = torch.zeros(len(noisy), place + 1)
            timesteps[:, :count], timesteps[:, place] = told, noising.timesteps(sigma)
            latents = torch.cat([window, noising.scaled(noisy, sigma)], 2)
            output = net(Frames(latents, timesteps, actions[:, : place + 1]))[:, :, -1:]
            noisy = euler_step(noisy, noising.clean(output, noisy, sigma), now, after)
        window = torch.cat([window, noisy], 2)
    close(window.transpose(1, 2), rollout.outputs["window"], ATOL if kind == "flow" else OFFICIAL_EULER)


def test_actions_are_normalised_packed_and_shifted(close):
    config, inputs, outputs = case("n_actions")
    count, size = config["frame_interval"], config["action_dim_raw"]
    raw, lengths = inputs["raw_actions"], inputs["seq_lengths"]
    steps = torch.cat([raw[int(i), : int(lengths[int(i)])] for i in outputs["train_trajectories"]])
    known = Statistics.of(steps, config["action_scale"])
    close(torch.tensor(known.mean), outputs["stats.mean"])
    close(torch.tensor(known.std) + 1e-6, outputs["stats.std"])
    axes = tuple(Axis(f"a{i}", -1e4, 1e4, words=(f"less{i}", f"more{i}")) for i in range(size))
    actions = NanoActions(Controls(axes, count), config["action_scale"], known.mean, known.std)
    net = NanoTransformer(
        NanoConfig(width=config["hidden_size"], num_heads=1, num_blocks=1, action_size=count * size)
    )
    net.action_embedder.load_state_dict(
        {k.removeprefix("action_embedder."): v for k, v in weights("n_actions").items()}
    )
    for window, (trajectory, start) in enumerate(outputs["window.traj_start"].tolist()):
        values = raw[trajectory, start : start + count * config["num_frames"]].unflatten(0, (-1, count))
        theirs = actions.packed(ControlValues(values))
        close(theirs, outputs["window.actions"][window])
        ours = torch.cat([torch.zeros_like(theirs[:1]), theirs[:-1]])
        close(ours, outputs["contract.actions"][window])
        embedded = net.action_embedder(ours)
        embedded = torch.cat([torch.zeros_like(embedded[:1]), embedded[1:]])
        close(embedded, outputs["shifted_embedding"][window])


def test_pictures_are_encoded_and_decoded(close):
    config, inputs, outputs = case("n_vae")
    sizes = config["vae"]
    net = PictureAutoencoder(
        PictureConfig(
            sizes["latent_channels"],
            tuple(sizes["block_out_channels"]),
            sizes["layers_per_block"],
            sizes["norm_num_groups"],
            sizes["scaling_factor"],
        )
    )
    net.load_state_dict(weights("n_vae"))
    with torch.no_grad():
        parts = net.posterior(inputs["frames"])
        close(parts, outputs["posterior_parameters"])
        mean, log_variance = parts.chunk(2, 1)
        close(mean * net.config.scale, outputs["latent_mode"])
        drawn = mean + (0.5 * log_variance).exp() * inputs["posterior_noise"]
        close(drawn * net.config.scale, outputs["latent_sample"])
        close(net.decode(outputs["latent_mode"]), outputs["decoded"])
        assert torch.equal(PictureDecoder(net).decode(outputs["latent_mode"]), outputs["frames_uint8"])
