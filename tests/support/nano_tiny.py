"""Tiny Nano World Models for tests."""

import dataclasses
import json

import torch

from worldcompass.media.video import write_mp4
from worldcompass.types import Scenario
from worldcompass.worlds.nano.actions import Statistics, actions_of
from worldcompass.worlds.nano.autoencoder import PictureAutoencoder
from worldcompass.worlds.nano.config import PictureConfig
from worldcompass.worlds.nano.noising import Noising
from worldcompass.worlds.nano.tiny import TINY, Colours
from worldcompass.worlds.nano.transformer import NanoTransformer
from worldcompass.worlds.nano.world import NanoWorld, Sampling
from worldcompass.worlds.open.tiny import randomise
from worldcompass.worlds.open.weights import FILE_NAME, export_weights

INJECTIONS = ("additive", "adaln", "adaln_fuse", "film", "cross_attention")
STATISTICS = Statistics((0.3, -0.2), (0.5, 0.7), (-3.0, -4.0), (4.0, 3.0))
EPSILON = {"betas": "linear", "zero_terminal_snr": False}


def network(injection="additive", seed=0, **changes):
    net = NanoTransformer(dataclasses.replace(TINY, injection=injection, **changes))
    randomise(net, torch.Generator().manual_seed(seed))
    return net


def noising_of(prediction="v", **changes):
    return Noising(prediction, **{**(EPSILON if prediction == "epsilon" else {}), **changes})


def world_of(injection="additive", prediction="v", given=1, history=None, steps=5, regime="full", **changes):
    return NanoWorld(
        network(injection, **changes),
        Colours(),
        noising_of(prediction),
        actions_of(2, 2, statistics=STATISTICS),
        Sampling(steps, regime, history, given),
        fps=2.0,
    )


def scenario(world, path, seed=0):
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = world.spec.latent_shape
    given = torch.randn(channels, world.sampling.given, height, width, generator=generator)
    return Scenario(f"s{seed}", world.spec.actions.along(path), conditioning={"latent": given})


def scenarios(world):
    paths = ("right+up-3, left-2, down-5", "down-4, none-1, right-5")
    return [scenario(world, path, seed) for seed, path in enumerate(paths)]


SIZE = (2, 16, 2)  # blocks, width and heads of the architecture NanoWM-T


def raw_config(**changes):
    """A tiny checkpoint's config.yaml in its official keys; ``changes`` by dotted keys, with _ for a dot."""
    raw = {
        "model": {
            "arch": "NanoWM-T/2", "num_frames": 4, "n_context_frames": 2, "action_injection": {"type": "film"},
            "causal": True, "use_action": True, "extras": 1, "num_classes": 1000, "image_size": 16,
            "latent_size": 4, "latent_channels": 3, "scheduling_mode": "sequential", "num_sampling_steps": 5,
        },
        "dataset": {
            "frame_interval": 2,
            "spec": {"action_dim": 2},
            "loader": {"normalize_action": True, "action_scale": 100.0},
        },
        "experiment": {
            "diffusion": {
                "pred_name": "v", "noise_schedule": "squaredcos_cap_v2", "zero_terminal_snr": True,
                "diffusion_steps": 1000, "history_stabilization_level": 0.02,
            }
        },
        "latent_codec": {"kind": "sd_vae", "vae_model_path": "stabilityai/sd-vae-ft-mse"},
    }  # fmt: skip
    for key, value in changes.items():
        *outer, last = key.split("__")
        table = raw
        for name in outer:
            table = table[name]
        table[last] = value
    return raw


def raw_statistics():
    scaled = {name: [v / 100 for v in getattr(STATISTICS, name)] for name in ("mean", "std")}
    return {**scaled, "low": list(STATISTICS.low), "high": list(STATISTICS.high)}


PICTURES = PictureConfig(latent_channels=3, widths=(4, 4, 4), num_blocks=1, groups=2)


def raw_pictures(**changes):
    """The tiny autoencoder's config.json in its official form, without the scale, as in the real file."""
    return {
        "_class_name": "AutoencoderKL", "act_fn": "silu", "in_channels": 3, "out_channels": 3, "latent_channels": 3,
        "block_out_channels": [4, 4, 4], "layers_per_block": 1, "norm_num_groups": 2, "sample_size": 16,
        "down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3, **changes,
    }  # fmt: skip


def write_checkpoint(folder):
    """The files of a tiny checkpoint as they are published, with its statistics."""
    import yaml

    export_weights(network("film"), folder / "model.safetensors")
    (folder / "config.yaml").write_text(yaml.safe_dump(raw_config()))
    (folder / "statistics.json").write_text(json.dumps(raw_statistics()))
    pictures = PictureAutoencoder(PICTURES)
    randomise(pictures, torch.Generator().manual_seed(1))
    export_weights(pictures, folder / "vae" / FILE_NAME)
    (folder / "vae" / "config.json").write_text(json.dumps(raw_pictures()))
    return folder


def write_recordings(folder, count=2, latents=8, fps=2):
    """Videos of coloured noise, a frame per latent, with the values of both controls."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(5)
    for number in range(count):
        frames = torch.randint(0, 256, (latents, 3, 48, 64), generator=generator, dtype=torch.uint8)
        write_mp4(folder / f"play{number}.mp4", frames, fps)
        values = 2 * torch.rand(2, 2 * (latents - 1), generator=generator) - 1
        controls = dict(zip(("x", "y"), values.tolist(), strict=True))
        (folder / f"play{number}.json").write_text(json.dumps({"controls": controls}))
    return folder
