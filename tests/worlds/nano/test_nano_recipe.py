"""A user's path with a Nano World Model: files, prepared data, training, evaluation, play and export."""

import json
import pickle
import re
from dataclasses import replace

import pytest
import torch
import yaml
from nano_tiny import (
    SIZE,
    STATISTICS,
    network,
    raw_config,
    raw_pictures,
    write_checkpoint,
    write_recordings,
)
from safetensors.torch import load_file, save_file

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.media.video import read_video, save_png
from worldcompass.recipes import nano
from worldcompass.recipes._smoke import critics_of_controls
from worldcompass.recipes.overrides import override
from worldcompass.rewards.bundle import OwnRewards
from worldcompass.seeding import generator_for
from worldcompass.training.lora import inject_lora
from worldcompass.worlds.nano.checkpoint import Checkpoint
from worldcompass.worlds.nano.config import SIZES
from worldcompass.worlds.nano.recipe import NanoRecipe
from worldcompass.worlds.nano.sources import OfficialFiles
from worldcompass.worlds.nano.weights import load_nano, load_pictures, picture_config
from worldcompass.worlds.open.player import prepared_starts, prepared_world
from worldcompass.worlds.open.recipe import tiny
from worldcompass.worlds.open.weights import FILE_NAME, export_weights


@pytest.fixture(scope="module", autouse=True)
def architecture():
    SIZES["T"] = SIZE
    yield
    del SIZES["T"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module")
def data(files, recordings, tmp_path_factory):
    """The recordings, prepared from the shell."""
    out = tmp_path_factory.mktemp("data") / "prepared"
    words = ["prepare", "--model", "nano", "--images", str(recordings), "--out", str(out), "--device", "cpu"]
    assert cli.main([*words, "--set", f"source.checkpoints={files}"]) == 0
    return out


def recipe_of(files, data, **changes):
    own = NanoRecipe(config=nano.SETTINGS, source=OfficialFiles(files, data))
    return changed(
        tiny(own, critics_of_controls, steps=3, **changes), "config.first_chunk=2", "config.last_chunk=2"
    )


def changed(recipe, *assignments):
    return override(recipe, list(assignments))


def test_the_configuration_is_read_from_its_official_keys():
    found = Checkpoint.from_keys(raw_config(dataset__spec__action_dim="${dataset.frame_interval}"))
    assert (found.network.num_blocks, found.network.width, found.network.num_heads) == SIZE
    assert (found.network.injection, found.network.num_frames, found.network.action_size) == ("film", 4, 4)
    assert (found.given, found.num_steps, found.per_latent, found.setting_size) == (2, 5, 2, 2)
    assert (found.scale, found.normalised, found.noising.prediction) == (100.0, True, "v")
    old = raw_config()
    del old["latent_codec"], old["model"]["causal"], old["model"]["latent_channels"]
    assert Checkpoint.from_keys(old).network.latent_channels == 4


def test_the_published_checkpoint_of_pusht_is_the_default():
    keys = raw_config(
        model__arch="NanoWM-B/2", model__num_frames=4, model__n_context_frames=1, model__latent_size=32,
        model__latent_channels=4, model__image_size=256, model__num_sampling_steps=250, dataset__frame_interval=5,
        model__action_injection={"type": "additive"},
    )  # fmt: skip
    assert Checkpoint.from_keys(keys) == Checkpoint()
    spec = nano.nano().spec
    assert (spec.latent_shape, spec.chunk_lengths, spec.fps) == ((4, 32, 32), (1,), 2.0)
    assert (spec.frame_size, spec.num_steps, spec.actions.per_latent) == ((256, 256), 50, 5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__causal": False}, "model.causal is False instead of True"),
        ({"model__use_action": False}, "it cannot be steered"),
        ({"model__extras": 78}, "it reads classes or text"),
        ({"latent_codec__kind": "webdino"}, "its latents have no decoder"),
        ({"model__arch": "NanoWM-H/2"}, "expected one such as NanoWM-S/2"),
        ({"model__latent_size": None}, "is of no Nano World Model"),
        ({"model__action_injection": {"type": "concat"}}, "expected one of additive"),
        ({"experiment__diffusion__pred_name": "epsilon"}, "diverges"),
        ({"dataset__spec": {}}, r"lacks 'dataset.spec.action_dim'"),
        ({"dataset__frame_interval": "${dataset.frame_interval}"}, "refers to itself"),
    ],
)
def test_configurations_of_other_models_are_refused_in_one_sentence(changes, words, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(raw_config(**changes)))
    with pytest.raises(UserError, match=words) as raised:
        Checkpoint.from_yaml(file)
    assert str(raised.value).startswith(str(file))


@pytest.mark.parametrize("text", ["!!python/object/apply:os.getcwd []", "- a list", "a: [", ""])
def test_a_configuration_runs_no_code_and_is_a_table(text, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match="configuration of a Nano World Model"):
        Checkpoint.from_yaml(file)


def test_recordings_become_given_latents_and_controls(files, recordings, data):
    stored = load_file(data / "play0.safetensors")
    assert stored["latent"].shape == (3, 2, 4, 4)
    assert stored["controls"].shape == (8, 2, 2)
    raw = json.loads((recordings / "play0.json").read_text())["controls"]
    torch.testing.assert_close(stored["controls"][1:].flatten(0, 1).T, torch.tensor([raw["x"], raw["y"]]))
    world = recipe_of(files, data).blank()
    assert world.sampling.given == 2
    words = ["prepare", "--model", "nano", "--images", str(recordings), "--out", str(data), "--device", "cpu"]
    before = (data / "play0.safetensors").stat().st_mtime_ns
    assert cli.main([*words, "--set", f"source.checkpoints={files}"]) == 0
    assert (data / "play0.safetensors").stat().st_mtime_ns == before, "finished files are skipped"


def test_a_picture_is_too_little_where_two_frames_are_given(files, recordings, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    save_png(tmp_path / "pictures" / "one.png", read_video(recordings / "play0.mp4", max_frames=1)[0])
    words = ["prepare", "--model", "nano", "--images", str(tmp_path / "pictures"), "--device", "cpu"]
    words += ["--out", str(tmp_path / "out"), "--set", f"source.checkpoints={files}"]
    assert cli.main(words) == 2
    assert "has 1 of the 2 frames from which this model starts" in capsys.readouterr().err
    assert cli.main([*words, "--set", "given=1"]) == 0
    stored = load_file(tmp_path / "out" / "one.safetensors")
    assert stored["latent"].shape == (3, 1, 4, 4)
    assert stored["controls"].abs().sum() == 0 and len(stored["controls"]) == 1


def test_a_video_of_another_rate_is_refused_where_several_frames_are_given(files, tmp_path, capsys):
    folder = write_recordings(tmp_path / "fast", count=1, fps=10)
    words = ["prepare", "--model", "nano", "--images", str(folder), "--out", str(tmp_path / "out")]
    words += ["--device", "cpu", "--set", f"source.checkpoints={files}"]
    assert cli.main(words) == 2
    assert "play0.mp4 has 10 frames per second, this model shows 2" in capsys.readouterr().err
    assert cli.main([*words, "--set", "fps=10"]) == 0


def test_controls_out_of_bounds_are_refused(files, tmp_path, capsys):
    folder = write_recordings(tmp_path / "wild", count=1)
    raw = json.loads((folder / "play0.json").read_text())
    raw["controls"]["x"][0] = 99.0
    (folder / "play0.json").write_text(json.dumps(raw))
    words = ["prepare", "--model", "nano", "--images", str(folder), "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--device", "cpu", "--set", f"source.checkpoints={files}"]) == 2
    assert "play0.json: the control x is 99: expected -3 to 4" in capsys.readouterr().err


def test_scenarios_keep_their_own_controls_while_frames_are_given_and_then_draw_recorded_ones(files, data):
    recipe = recipe_of(files, data)
    found, other = recipe.scenarios_along(12, 1), recipe.scenarios_along(12, 2)
    pool = {tuple(row.flatten().tolist()) for f in data.iterdir() for row in load_file(f)["controls"]}
    for scenario, again in zip(found, other, strict=True):
        own = load_file(data / f"{scenario.id}.safetensors")["controls"]
        values = scenario.actions.controls.values_KTA
        assert values.shape == (12, 2, 2)
        assert torch.equal(values[:2], own[:2]) and torch.equal(
            again.actions.controls.values_KTA[:2], own[:2]
        )
        assert {tuple(row.flatten().tolist()) for row in values} <= pool
        assert not torch.equal(values, again.actions.controls.values_KTA)
    drawn = changed(recipe, "source.mix=left=1").scenarios_along(6, 1)[0].actions
    space = recipe.source.actions.space
    assert space.composites(drawn)[2:].tolist() == [space.of_words(["left"])] * 4


def test_a_run_trains_exports_and_starts_from_its_result(files, data, tmp_path):
    recipe = changed(recipe_of(files, data), "config.steps=1", "config.probe_every=0")
    recipe.run(tmp_path / "run", "cpu", resume=False)
    exported = tmp_path / "run" / "weights" / "model.safetensors"
    before, after = load_file(files / "model.safetensors"), load_file(exported)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert (exported.with_name("config.yaml")).read_bytes() == (files / "config.yaml").read_bytes()
    again = network("film", seed=3)
    load_nano(again, exported.parent, torch.float32)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in after.items())


def test_play_starts_from_the_last_given_frame(files, data):
    world = prepared_world(recipe_of(files, data), None, "cpu")
    start = prepared_starts(world)[0]
    given = load_file(data / f"{start.id}.safetensors")["latent"]
    assert torch.equal(start.image_3hw, world.world.decoder.decode(given[:, -1][None])[0])


def test_files_of_the_official_training_are_read_as_plain_data(tmp_path):
    net, other = network("adaln"), network("adaln", seed=1)
    state = {f"model._orig_mod.{name}": value for name, value in net.state_dict().items()}
    file = tmp_path / "last.ckpt"
    torch.save({"epoch": 3, "state_dict": {**state, "vae.conv_in.weight": torch.zeros(1)}}, file)
    load_nano(other, file, torch.float32)
    assert all(torch.equal(other.state_dict()[name], value) for name, value in net.state_dict().items())
    save_file(
        {name.replace("model.", "", 1): value for name, value in state.items()}, tmp_path / "bare.safetensors"
    )
    load_nano(network("adaln", seed=2), tmp_path / "bare.safetensors", torch.float32)
    file.write_bytes(pickle.dumps({"state_dict": {}, "hyper_parameters": Checkpoint}, protocol=2))
    with pytest.raises(UserError, match="code in files is never run"):
        load_nano(other, file, torch.float32)


def test_older_names_of_attention_in_the_autoencoder_are_read(files, tmp_path):
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    stored = load_file(files / "vae" / FILE_NAME)
    renamed = {
        re.sub(r"\.to_(q|k|v|out\.0)\.", lambda m: old[m[0]], name): value for name, value in stored.items()
    }
    assert renamed.keys() != stored.keys()
    save_file(renamed, tmp_path / FILE_NAME)
    (tmp_path / "config.json").write_text(json.dumps(raw_pictures()))
    frame = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(load_pictures(tmp_path).encode(frame), load_pictures(files / "vae").encode(frame))
    assert picture_config(tmp_path / "config.json").scale == 0.18215, "the class's default"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shift_factor": 0.1}, "shift_factor is 0.1 instead of None"),
        ({"use_quant_conv": False}, "use_quant_conv is False"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 3}, "down_block_types are"),
        ({"block_out_channels": 4}, "give that of stabilityai/sd-vae-ft-mse"),
    ],
)
def test_another_autoencoder_is_refused(changes, words, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(raw_pictures(**changes)))
    with pytest.raises(UserError, match=words):
        picture_config(tmp_path / "config.json")


def test_weights_of_another_injection_and_missing_files_are_one_sentence(files, data, tmp_path):
    recipe = recipe_of(files, data)
    recipe.check()
    export_weights(network("adaln"), tmp_path / "other.safetensors")
    with pytest.raises(
        UserError, match=r"is not the Nano World Model as this recipe needs it: blocks.0.action_adaLN"
    ):
        changed(recipe, f"source.transformer={tmp_path / 'other.safetensors'}").check()
    with pytest.raises(UserError, match="mean and deviation of the training actions"):
        changed(recipe, f"source.statistics={tmp_path / 'none.json'}").check()
    with pytest.raises(UserError, match="the checkpoint's configuration"):
        changed(recipe, f"source.checkpoints={tmp_path}").check()


def test_settings_that_do_not_fit_are_refused(files, data):
    recipe = recipe_of(files, data)
    with pytest.raises(
        UserError, match=r"config\.first_chunk is 0, but the first 2 frames are given: set it to 2"
    ):
        changed(recipe, "config.first_chunk=0").check()
    with pytest.raises(UserError, match="fewer remembered ones than the window of 4"):
        _ = changed(recipe, "history=4").spec
    for steps in (0, 2000):
        with pytest.raises(UserError, match=f"num_steps is {steps}: expected 1 to 1000"):
            _ = changed(recipe, f"steps={steps}").spec
    wide = replace(recipe.source.checkpoint, side=24)
    with pytest.raises(UserError, match="turns into 6 cells instead of 4"):
        _ = (
            nano.smoke()
            .__class__(
                config=recipe.config,
                source=_With(recipe.source, wide),
                rewards=OwnRewards(critics_of_controls),
            )
            .spec
        )


class _With:
    """A source with another configuration."""

    def __init__(self, source, checkpoint):
        self.source, self.checkpoint = source, checkpoint

    def __getattr__(self, name):
        return getattr(self.source, name)


def test_statistics_are_raw_bounds_and_scaled_means(files, data):
    actions = recipe_of(files, data).source.actions
    assert actions.mean == pytest.approx([v / 100 for v in STATISTICS.mean])
    assert [axis.high for axis in actions.space.controls] == list(STATISTICS.high)


def test_the_smoke_recipe_runs_from_the_shell(tmp_path, capsys):
    out = tmp_path / "smoke"
    assert cli.main(["train", "nano:smoke", "--out", str(out), "--device", "cpu"]) == 0
    assert "wrote" in capsys.readouterr().out
    words = ["evaluate", "--recipe", "nano:smoke", "--latents", "6", "--device", "cpu"]
    assert cli.main([*words, "--out", str(tmp_path / "scores"), "--checkpoint", str(out)]) == 0
    found = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert set(found) == {"inverse_dynamics", "quality"}
    assert {"base", "smoke", "smoke - base"} == set(found["quality"])
    other = tmp_path / "other.safetensors"
    save_file({"wrong": torch.zeros(1)}, other)
    assert cli.main([*words, "--out", str(tmp_path / "late"), "--checkpoint", str(other)]) == 2
    assert "belongs to another network" in capsys.readouterr().err
    assert not [*(tmp_path / "late").rglob("*.mp4")], "the base was imagined first"


def test_settings_without_scenarios_are_refused(tmp_path, capsys):
    words = ["--device", "cpu", "--out", str(tmp_path / "none")]
    assert cli.main(["train", "nano:smoke", "--set", "source.num_scenarios=0", *words]) == 2
    assert "these settings leave no scenarios" in capsys.readouterr().err


def test_adapters_cover_attention_and_mlp_of_every_block():
    names = inject_lora(
        network("cross_attention"), nano.lora().config.optimiser.lora, generator_for("adapters")
    )
    assert len(names) == 2 * (2 + 3 + 3)
