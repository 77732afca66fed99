"""The Waypoint recipes from the shell: stand-ins, and official files of a tiny model with prepared images."""

import json
from dataclasses import replace

import pytest
import torch
from judged import moving_pictures
from safetensors.torch import load_file, save_file
from waypoint_tiny import random_network

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.media.video import save_png, write_mp4
from worldcompass.recipes import waypoint
from worldcompass.recipes._smoke import MovesWhenCommanded
from worldcompass.rewards.bundle import OwnRewards
from worldcompass.rewards.paper import QUALITY
from worldcompass.rewards.played import INVERSE_DYNAMICS, PlayedRewards
from worldcompass.rewards.stability import PictureStability
from worldcompass.runs.folder import RunFolder
from worldcompass.testing import check_critic, noise_group
from worldcompass.training.lora import Lora
from worldcompass.worlds.open.judging import court
from worldcompass.worlds.open.player import prepared_starts, prepared_world
from worldcompass.worlds.open.text import NUM_CAPTION_STATES
from worldcompass.worlds.open.weights import shapes_of
from worldcompass.worlds.waypoint import preparation
from worldcompass.worlds.waypoint.autoencoder import Autoencoder
from worldcompass.worlds.waypoint.config import CoderConfig, WaypointConfig
from worldcompass.worlds.waypoint.controls import waypoint_controls
from worldcompass.worlds.waypoint.recordings import read_play
from worldcompass.worlds.waypoint.sources import OfficialFiles
from worldcompass.worlds.waypoint.tiny import TINY
from worldcompass.worlds.waypoint.transformer import WaypointTransformer
from worldcompass.worlds.waypoint.weights import export_waypoint, load_waypoint, unfused
from worldcompass.worlds.waypoint.world import LORA_TARGETS

# A tiny model in its official form, whose autoencoder makes 4x4 cells of the official 512x512 pixels.
RAW = {
    "d_model": 64, "n_layers": 2, "mlp_ratio": 2, "n_heads": 2, "n_kv_heads": 1, "channels": 2, "height": 2,
    "width": 2, "patch": [2, 2], "local_window": 3, "global_window": 4, "global_attn_period": 2,
    "global_pinned_dilation": 2, "gated_attn": True, "noise_conditioning": "wan", "ctrl_conditioning_period": 2,
    "n_buttons": 20, "prompt_conditioning": "cross_attention", "prompt_conditioning_period": 2,
    "prompt_embedding_dim": 32, "scheduler_sigmas": [1, 0.5, 0.0],
}  # fmt: skip
RAW_CODER = {
    "channels": 3, "latent_channels": 2, "ch_0": 4, "ch_max": 8,
    "encoder_blocks_per_stage": [1] * 7, "decoder_blocks_per_stage": [1] * 7,
}  # fmt: skip


def load(folder, config):
    with torch.device("meta"):
        net = WaypointTransformer(config)
    load_waypoint(net, folder, torch.float32)
    return net


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished smoke run."""
    out = tmp_path_factory.mktemp("smoke") / "run"
    assert cli.main(["train", "waypoint:smoke", "--device", "cpu", "--out", str(out)]) == 0
    return out


def test_the_smoke_run_trains_and_exports_the_official_format(run):
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [step["chunk"] for step in steps] == [1, 2]  # frame 0 is given
    assert all(step["applied"] == 1 for step in steps)
    assert all(step["rewards"][name]["std"] > 0 for step in steps for name in (INVERSE_DYNAMICS, QUALITY))
    tensors = load_file(run / "weights" / "model.safetensors")
    copies = [tensors[f"transformer.blocks.{i}.cond_head.cond_proj.0.weight"] for i in range(TINY.num_layers)]
    assert all(torch.equal(copy, copies[0]) for copy in copies)
    net = load(run / "weights", TINY)
    saved = load_file(run / "checkpoints" / "step_000002" / "tensors.safetensors")
    shipped = {n: p for n, p in net.named_parameters() if f"policy/checkpoint/{n}" in saved}
    assert shipped and all(torch.equal(p, saved[f"policy/checkpoint/{n}"]) for n, p in shipped.items())


def test_adapters_are_handed_back_alone_and_merged(tmp_path, monkeypatch):
    monkeypatch.setattr("worldcompass.training.preflight.computes_bf16", lambda device: True)
    recipe = waypoint.smoke()
    lora = Lora(rank=2, targets=LORA_TARGETS)
    config = recipe.config.changed(steps=1, lora=lora, autocast_bf16=True, probe_every=0)
    replace(recipe, config=config, half_weights=True).run(tmp_path, "cpu", resume=False)
    adapters = load_file(tmp_path / "weights" / "adapter" / "adapter_model.safetensors")
    assert any(bool(t.any()) for n, t in adapters.items() if "lora_B" in n)
    assert {t.dtype for t in load_file(tmp_path / "weights" / "model.safetensors").values()} == {
        torch.bfloat16
    }
    load(tmp_path / "weights", TINY)


def test_weights_are_evaluated_and_played(run, tmp_path, capsys):
    words = ["evaluate", "--recipe", "waypoint:smoke", "--checkpoint", str(run), "--scenarios", "1"]
    assert cli.main([*words, "--latents", "4", "--out", str(tmp_path), "--device", "cpu"]) == 0
    assert "run - base" in capsys.readouterr().out
    assert (tmp_path / "run" / "stand-in-0.mp4").is_file()
    worlds = [prepared_world(waypoint.smoke(), weights, "cpu") for weights in (None, run)]
    start, *_ = prepared_starts(worlds[0])
    assert tuple(start.image_3hw.shape) == (3, *worlds[0].spec.frame_size)
    nets = [world.net.state_dict() for world in worlds]
    assert any(not torch.equal(t, nets[1][name]) for name, t in nets[0].items())


def recorded(folder, frames=12, count=1, fps=60):
    """Videos with recorded input next to them; the first two frames of each are still."""
    folder.mkdir()
    play = {
        "mouse": [[0.1 * (t % 3), -0.1] for t in range(frames)],
        "buttons": [[87] if t % 2 else [87, 32] for t in range(frames)],
        "wheel": [0, 4, *[-1] * (frames - 2)],
    }
    for number, video in enumerate(moving_pictures(count, frames, "play")):
        write_mp4(folder / f"play{number}.mp4", video, fps)
        (folder / f"play{number}.json").write_text(json.dumps(play))
    return folder


def test_recorded_play_is_trained_on_and_judged(tmp_path):
    folder = recorded(tmp_path / "recordings", count=16)
    smoke = waypoint.smoke()
    recipe = replace(smoke, recordings=folder, config=smoke.config.changed(steps=1, probe_every=0))
    scenarios = recipe.scenarios()
    assert len(scenarios) == 16 and scenarios[0].truth is not None
    values = scenarios[0].actions.values_KTA[:, 0]
    assert values[1, [0, 1, 2 + 87, 2 + 32, -1]].tolist() == pytest.approx([0.1, -0.1, 1, 0, 1])
    recipe.run(tmp_path / "run", "cpu", resume=False)
    assert (tmp_path / "run" / "weights" / "model.safetensors").is_file()
    found = court(waypoint.smoke(), folder, 12, None, "cpu")
    assert found.load(tmp_path / "run", "cpu").spec.num_steps == 3
    assert len(found.scenes("judge", 8).scenarios) == 8
    with pytest.raises(UserError, match="made for 3 given noise levels"):
        court(waypoint.smoke(), folder, 12, 5, "cpu")


def test_recordings_of_another_rate_are_refused(tmp_path):
    folder = recorded(tmp_path / "recordings", fps=24)
    with pytest.raises(UserError, match="24 frames per second, waypoint shows 60"):
        replace(waypoint.smoke(), recordings=folder).scenarios()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ([1], "holds no recorded play"),
        ({"keys": [[87]]}, "holds no recorded play"),
        ({"mouse": [[0, 0]], "wheel": [0, 0]}, "as many entries in every list.*mouse 1, wheel 2"),
        ({"buttons": 87}, "buttons no list"),
        ({"buttons": [[87], [300]]}, "the button 300 is none of 0 to 87"),
        ({"buttons": [["w"]]}, "the button w is none"),
        ({"mouse": [[0.1]]}, "two numbers of the mouse per frame"),
        ({"mouse": [[900, 0]]}, "the control mouse_x is 900"),
        ({"mouse": [["left", 0]]}, "input that this world does not take"),
        ({"path": "fly-3"}, "cannot read 'fly-3'"),
    ],
)
def test_unreadable_input_is_refused(raw, words, tmp_path):
    file = tmp_path / "play.json"
    file.write_text(json.dumps(raw))
    with pytest.raises(UserError, match=words):
        read_play(file, waypoint_controls(88))


class Words:
    """A stand-in for UMT5."""

    asked: list = []  # noqa: RUF012

    def __init__(self, checkpoints, device):
        pass

    def encode(self, caption):
        self.asked.append(caption)
        return torch.randn(NUM_CAPTION_STATES, 32, generator=torch.Generator().manual_seed(len(caption)))


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A checkpoint in its official form, and a data set that the command prepared with it."""
    yaml = pytest.importorskip("yaml")
    root = tmp_path_factory.mktemp("official")
    folder = root / "checkpoints" / "waypoint"
    (folder / "autoencoder").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(RAW))
    export_waypoint(random_network(WaypointConfig.from_keys(RAW)), folder / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    net = Autoencoder(CoderConfig.from_keys(RAW_CODER, True), CoderConfig.from_keys(RAW_CODER, False))
    for half, name in ((net.encoder, "encoder"), (net.decoder, "decoder")):
        (folder / "autoencoder" / f"{name}_conf.yml").write_text(yaml.safe_dump({"model": RAW_CODER}))
        shapes = unfused(shapes_of(half))
        tensors = {k: 0.5 * torch.randn(shape, generator=generator) for k, shape in shapes.items()}
        save_file(tensors, folder / "autoencoder" / f"{name}.safetensors")
    for name in ("lake", "wood"):
        (root / "pictures").mkdir(exist_ok=True)
        save_png(
            root / "pictures" / f"{name}.png", torch.full((3, 40, 60), len(name) * 20, dtype=torch.uint8)
        )
        (root / "pictures" / f"{name}.txt").write_text("" if name == "wood" else "A lake.")
    return root


@pytest.fixture
def prepared(official, monkeypatch):
    """The working folder of a user who has prepared two pictures."""
    monkeypatch.chdir(official)
    monkeypatch.setattr(preparation, "need_transformers", lambda: None)
    monkeypatch.setattr(preparation, "need_ftfy", lambda: None)
    monkeypatch.setattr(preparation, "_WORDS", ())
    monkeypatch.setattr(preparation, "Umt5", Words)
    words = ["--images", "pictures", "--checkpoints", "checkpoints/waypoint", "--out", "data/waypoint"]
    assert cli.main(["prepare", "--model", "waypoint", "--device", "cpu", *words]) == 0
    return official


def test_pictures_become_latents_and_padded_states(prepared):
    """An empty caption is the official one; finished files are skipped."""
    found = load_file(prepared / "data" / "waypoint" / "lake.safetensors")
    assert {name: tuple(t.shape) for name, t in found.items()} == {
        "latent": (2, 4, 4), "text_states": (NUM_CAPTION_STATES, 32),
    }  # fmt: skip
    assert Words.asked[:2] == ["A lake.", preparation.NO_CAPTION]
    assert len(Words.asked) == 2


def small(recipe):
    """The recipe with critics that run anywhere, on one prompt."""
    rewards = OwnRewards(lambda: [MovesWhenCommanded(), PictureStability(name=QUALITY)])
    config = recipe.config.changed(
        steps=1, prompts_per_step=1, group_size=2, best=1, worst=1, first_chunk=1, last_chunk=1, noise_levels=1,
        updates_per_rollout=1, autocast_bf16=False, probe_every=0, shard=False,
    )  # fmt: skip
    return replace(recipe, config=config, rewards=rewards, half_weights=False)


def test_official_files_are_trained_exported_and_loaded_again(prepared, tmp_path):
    recipe = small(waypoint.waypoint())
    recipe.run(tmp_path / "run", "cpu", resume=False)
    file = RunFolder(tmp_path / "run").weights / "model.safetensors"
    again = replace(recipe, source=replace(recipe.source, transformer=file))
    again.check()
    before, after = load_file(prepared / "checkpoints" / "waypoint" / "model.safetensors"), load_file(file)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_recipe_takes_sizes_and_levels_from_the_files(prepared):
    recipe = waypoint.lora()
    world = recipe.blank()
    assert world.spec.latent_shape == (2, 4, 4)
    assert world.spec.sigmas().tolist() == [1.0, 0.5, 0.0]
    assert world.spec.frame_size == (360, 640)
    assert len(recipe.scenarios_along(5, 0)) == 2
    assert len(world.spec.actions.axes) == 23


def test_a_checkpoint_of_another_network_is_refused_before_loading(prepared, tmp_path, capsys):
    export_waypoint(random_network(), tmp_path / "other.safetensors")
    words = ["train", "waypoint", "--device", "cpu", "--out", str(tmp_path / "run")]
    words += ["--set", f"source.transformer={tmp_path / 'other.safetensors'}"]
    (tmp_path / "critic").touch()
    words += ["--set", f"rewards.controls={tmp_path / 'critic'}"]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "is not Waypoint's transformer as this recipe needs it: ctrl_emb.mlp.fc1.weight is" in said
    assert said.count("\n") == 1 and not (tmp_path / "run").exists()


def test_exploring_without_guidance_is_refused_before_anything_is_loaded():
    recipe = waypoint.smoke()
    exploring = replace(recipe, config=recipe.config.changed(explore=1.0))
    for asked in (exploring.check, exploring.needs):
        with pytest.raises(UserError, match=r"which waypoint does not have: set config\.explore=0$"):
            asked()


def test_missing_files_are_named_with_their_origin(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "waypoint:lora", "--device", "cpu", "--out", "run"]) == 2
    said = capsys.readouterr().err
    for words in ("config.yaml (the model's configuration, of Overworld/Waypoint-1-Small)", "model.safetensors",
                  "encoder_conf.yml", "decoder.safetensors", "worldcompass critics train"):  # fmt: skip
        assert words in said


def test_the_plan_is_of_the_whole_network():
    """Its stretches of layers add up to exactly the network's, and its pasts are as old as the curriculum's."""
    recipe = replace(waypoint.lora(), source=OfficialFiles(*[waypoint.waypoint().source.checkpoints] * 2))
    assert [recipe.with_depth(n).network.num_layers for n in (2, 3, recipe.num_blocks)] == [4, 7, 22]
    tiny = waypoint.smoke()
    world = tiny.world(lambda net: net.to_empty(device="cpu"), tiny.source.decoder("cpu"))
    context = tiny.begin(world, 2)
    assert (context.num_pasts, context.num_latents) == (2, tiny.config.sampling.last_chunk)
    assert [[one.frame for one in ring] for ring in context.pasts[0].rings] == [[0, 2], [1, 2], [0, 2]]


def test_the_stand_in_critic_keeps_the_contract():
    check_critic(MovesWhenCommanded(), noise_group(spec=waypoint.smoke().spec))


def test_quality_is_chosen_as_for_other_worlds():
    assert [file.path.name for file in PlayedRewards().files()] == ["inverse_dynamics.safetensors"]
    paper = PlayedRewards(quality="hpsv3-drift")
    assert (
        len(paper.files()) == 3 and [m.name for m in paper.modules()] == ["hpsv3"] and paper.gpu_bytes() > 0
    )
