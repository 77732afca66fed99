"""minWM's recipe: settings, smoke run, files, prepared data, evaluation and player, at tiny size."""

from dataclasses import replace

import pytest
import torch
from causal_wan_tiny import random_network
from safetensors.torch import save_file
from wan_vae_tiny import random_decoder

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.media.video import read_video, save_png, write_mp4
from worldcompass.player.panes import WorldPane
from worldcompass.recipes import minwm as recipes
from worldcompass.recipes.overrides import override
from worldcompass.runs.requirements import digest_of
from worldcompass.training.lora import Lora, inject_lora
from worldcompass.worlds.causal_wan import minwm_preparation
from worldcompass.worlds.causal_wan.config import read_config
from worldcompass.worlds.causal_wan.minwm import ACTIONS, LORA_TARGETS, TEXT, VIDEO, minwm
from worldcompass.worlds.causal_wan.minwm_files import OfficialFiles
from worldcompass.worlds.causal_wan.minwm_preparation import GIVEN_FRAMES, MinWMEncoder, first_frames
from worldcompass.worlds.causal_wan.tiny import TINY, conditioning
from worldcompass.worlds.open.evaluation import Request, evaluate
from worldcompass.worlds.open.player import prepared_starts, prepared_world
from worldcompass.worlds.open.prepare import prepare, read_requests
from worldcompass.worlds.open.weights import GENERATOR_FILE

SIZE = (6, 8)


def same(net, other):
    theirs = other.state_dict()
    assert net.state_dict().keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in net.state_dict().items())


def of_files(folder, **changes):
    """The smoke recipe with official files instead of stand-ins."""
    source = OfficialFiles(folder / "checkpoints", folder / "data", **changes)
    return replace(recipes.smoke(), source=source)


def write_data(folder, videos=(False, False), size=SIZE):
    """Prepared files ``s0``, ``s1``, some of which go on from a video."""
    folder.mkdir(parents=True)
    for i, has_video in enumerate(videos):
        generator = torch.Generator().manual_seed(i)
        tensors = conditioning(TINY, generator)
        if has_video:
            tensors[VIDEO] = torch.randn(3, 4, *size, generator=generator)
        save_file(tensors, folder / f"s{i}.safetensors", {"caption": f"number {i}"})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "smoke"
    assert cli.main(["train", "minwm:smoke", "--out", str(out), "--device", "cpu"]) == 0
    return out


def test_the_settings_are_the_papers_on_the_levels_and_the_horizon_of_a_student():
    config, adapters = recipes.minwm().config, recipes.lora().config
    sampling, learning = config.sampling, config.learning
    assert (sampling.denoising_steps, learning.noise_levels, sampling.last_chunk) == (None, 4, 4)
    assert (sampling.group_size, learning.best, learning.worst) == (12, 3, 3)
    assert adapters.sampling.prompts_per_step == 1
    generator, lora = torch.Generator(), replace(adapters.optimiser.lora, rank=2)
    net = random_network()
    inject_lora(net, lora, generator)
    layers = {name.rpartition(".")[0] for name, _ in net.named_parameters() if name.endswith("lora_A")}
    assert len(layers) == 9 * TINY.num_blocks


def test_the_real_world_has_the_released_tensors_and_sizes():
    world = recipes.minwm().blank()
    state = world.net.state_dict()
    sizes = {name: value.numel() for name, value in state.items()}
    assert (len(sizes), sum(sizes.values())) == (885, 1_489_821_760)
    without = {name: size for name, size in sizes.items() if "prope_o" not in name}
    assert (len(without), sum(without.values())) == (825, 1_418_996_800)
    assert read_config({name: tuple(value.shape) for name, value in state.items()}) == recipes.minwm().network
    spec = world.spec
    assert (spec.latent_shape, spec.frame_size, spec.fps) == ((16, 60, 104), (480, 832), 16)


def test_a_smoke_run_exports_the_names_of_the_official_wrapper(run):
    raw = torch.load(run / "weights" / GENERATOR_FILE, weights_only=True)
    assert set(raw) == {"generator"}
    assert all(name.startswith("model.") for name in raw["generator"])
    net, begun = random_network(), random_network()
    recipes.smoke().load(net, run / "weights" / GENERATOR_FILE, torch.float32, "cpu")
    recipes.smoke().source.fill(begun, torch.float32, "cpu")
    trained = net.state_dict()
    assert all(torch.equal(raw["generator"][f"model.{name}"], value) for name, value in trained.items())
    assert all(not torch.equal(value, trained[name]) for name, value in begun.state_dict().items())


def test_a_run_of_adapters_exports_them_merged(tmp_path):
    recipe = recipes.smoke()
    lora = Lora(rank=2, targets=LORA_TARGETS)
    config = recipe.config.changed(
        steps=1, prompts_per_step=1, probe_every=0, lora=lora, first_chunk=0, last_chunk=0, group_size=2
    )
    replace(recipe, config=config).run(tmp_path / "run", "cpu", resume=True)
    weights = tmp_path / "run" / "weights"
    recipe.load(random_network(), weights / GENERATOR_FILE, torch.float32, "cpu")
    assert (weights / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("entries", [("generator",), ("generator", "generator_ema")])
@pytest.mark.parametrize("prefix", ["model.", "model._fsdp_wrapped_module."])
def test_a_checkpoint_is_read_in_all_its_forms_and_its_average_first(entries, prefix, tmp_path):
    nets = {entry: random_network() for entry in entries}
    for number, net in enumerate(nets.values()):
        net.patch_embedding.weight.data += number
    file = tmp_path / "checkpoints" / "Wan21" / "Action2V" / "dmd" / GENERATOR_FILE
    file.parent.mkdir(parents=True)
    torch.save({e: {prefix + k: t for k, t in n.state_dict().items()} for e, n in nets.items()}, file)
    found = random_network()
    of_files(tmp_path).source.fill(found, torch.float32, "cpu")
    same(found, nets[entries[-1]])


def test_a_checkpoint_of_another_network_is_refused_by_its_headers(tmp_path):
    """The official loader takes what it can and says nothing."""
    recipe = of_files(tmp_path)
    file = recipe.source.network_file
    file.parent.mkdir(parents=True)
    torch.save({"generator": random_network(by_camera=False).state_dict()}, file)
    write_data(tmp_path / "data")
    (tmp_path / "checkpoints" / "Wan2.1_VAE.pth").touch()
    with pytest.raises(UserError, match=r"prope_o.bias is missing, expected \(24,\) and 3 more"):
        recipe.check()


def test_missing_files_are_listed_with_their_origin(tmp_path):
    with pytest.raises(UserError, match=r"(?s)dmd/model.pt \(minWM's network, stage dmd\)\n.*Wan2.1_VAE.pth"):
        of_files(tmp_path).check()


def test_a_file_of_another_stage_is_refused(tmp_path):
    given = {"generator": tmp_path / "causal_ode" / GENERATOR_FILE}
    with pytest.raises(UserError, match=r"of the stage causal_ode, and source.stage is dmd"):
        of_files(tmp_path, **given).check()
    assert of_files(tmp_path, stage="causal_ode", **given).spec.num_steps == 4
    assert of_files(tmp_path, stage="ar_diffusion_tf").spec.num_steps == 48
    with pytest.raises(UserError, match="bidirectional is not causal"):
        override(of_files(tmp_path), ["source.stage=bidirectional"]).check()


def test_prompts_become_scenarios_of_single_moves(tmp_path):
    write_data(tmp_path / "data")
    first, second = of_files(tmp_path).scenarios()
    assert (first.id, first.caption, len(first.actions)) == ("s0", "number 0", 8)
    assert set(first.conditioning) == {TEXT}
    labels = torch.cat([first.actions.labels_K, second.actions.labels_K]).tolist()
    assert {ACTIONS.kind(label) for label in labels} == {"none", "basic"}


def test_starts_with_and_without_a_video_are_kept_apart(tmp_path):
    write_data(tmp_path / "data", (True, False))
    with pytest.raises(UserError, match="holds s0, which goes on from a video, and s1, which starts"):
        of_files(tmp_path).scenarios()


def test_a_given_clip_is_not_trained_on(tmp_path):
    write_data(tmp_path / "data", (True, True))
    recipe = of_files(tmp_path)
    with pytest.raises(
        UserError, match=r"clip 0 is given and has no futures to compare: set config\.first_chunk=1"
    ):
        recipe.scenarios()
    later = replace(recipe, config=recipe.config.changed(first_chunk=1))
    assert set(later.scenarios()[0].conditioning) == {TEXT, VIDEO}


def test_latents_of_another_size_are_refused(tmp_path):
    write_data(tmp_path / "data", (True,), size=(4, 4))
    with pytest.raises(UserError, match=r"latents is \(3, 4, 4, 4\), expected \(3, 4, 6, 8\)"):
        of_files(tmp_path).scenarios()


class Text:
    """A stand-in for UMT5."""

    def __init__(self, checkpoints, device, dtype):
        pass

    def encode(self, caption):
        return torch.full((5, 10), float(len(caption)))


def test_captions_and_videos_are_prepared(tmp_path, monkeypatch):
    pictures = tmp_path / "starts"
    pictures.mkdir()
    (pictures / "alone.txt").write_text("A lake.")
    (pictures / "walk.txt").write_text("A road.")
    frames = torch.randint(0, 256, (GIVEN_FRAMES + 4, 3, 16, 32), dtype=torch.uint8)
    write_mp4(pictures / "walk.mp4", frames, 16)
    requests = read_requests(pictures, from_captions=True)
    assert [r.image.name for r in requests] == ["alone.txt", "walk.mp4"]
    how = minwm_preparation.preparation_of(replace(TINY, out_channels=16), (2, 4))
    monkeypatch.setattr("worldcompass.worlds.open.text.Umt5", Text)
    monkeypatch.setattr(minwm_preparation, "load_decoder", lambda file, device: random_decoder())
    data = tmp_path / "data"
    made = prepare(requests, lambda: MinWMEncoder(tmp_path), how.model, how.shapes, data, how.read)
    assert [r.id for r in made] == ["alone", "walk"]
    source = OfficialFiles(tmp_path, data)
    config, size = replace(TINY, out_channels=16), (2, 4)
    given, caption = source.start_of(pictures / "walk.mp4", config, size)
    assert caption == "A road." and set(given) == {TEXT, VIDEO}
    shown = read_video(pictures / "walk.mp4", max_frames=GIVEN_FRAMES)
    expected = random_decoder().encode(shown[None].float() / 255)[0]
    torch.testing.assert_close(given[VIDEO], expected, atol=1e-5, rtol=0)
    assert given.metadata["image_sha256"] == digest_of(pictures / "walk.mp4")


def test_a_picture_or_a_short_video_is_no_start(tmp_path):
    (tmp_path / "lake.txt").write_text("A lake.")
    save_png(tmp_path / "lake.png", torch.zeros(3, 16, 32, dtype=torch.uint8))
    (request,) = read_requests(tmp_path, from_captions=True)
    with pytest.raises(UserError, match="is a picture, but minWM starts from a caption alone or goes on"):
        first_frames(request, (2, 4))
    (tmp_path / "lake.png").unlink()
    write_mp4(tmp_path / "lake.mp4", torch.zeros(5, 3, 16, 32, dtype=torch.uint8), 16)
    (request,) = read_requests(tmp_path, from_captions=True)
    with pytest.raises(UserError, match="has 5 frames: minWM goes on from 13"):
        first_frames(request, (2, 4))


def test_trained_weights_are_compared_with_the_recipes_own(run, tmp_path):
    recipe = recipes.smoke()
    names = list(evaluate(recipe, {"base": None, "run": run}, Request(1, 8, None, 0), tmp_path, "cpu"))
    assert names == ["base/stand-in-0", "run/stand-in-0"]
    assert len(read_video(tmp_path / "run" / "stand-in-0.mp4")) == 29


@pytest.mark.parametrize("goes_on", [False, True])
def test_the_player_walks_from_a_caption_and_from_a_video(goes_on, tmp_path):
    """A caption alone has no picture; of a video the walk goes on after its first chunk."""
    write_data(tmp_path / "data", (goes_on,))
    recipe = recipes.smoke()
    scenarios = of_files(tmp_path).scenarios_along(8, 0)
    world = prepared_world(recipe, None, "cpu")
    world.conditioning = {scenario.id: scenario.conditioning for scenario in scenarios}
    (start,) = prepared_starts(world)
    assert bool((start.image_3hw == start.image_3hw[:, :1, :1]).all()) != goes_on
    place = WorldPane("World", world, None).begin(start, 0)
    assert len(place.composites_M) == (4 if goes_on else 1)
    frames = place.step(ACTIONS.of_words(["w"])).frames_F3hw
    assert len(frames) == (16 if goes_on else 13)


def test_a_plan_knows_what_a_run_needs():
    needs = recipes.smoke().needs()
    assert (needs.num_blocks, needs.num_chunks) == (TINY.num_blocks, 1)
    assert recipes.minwm().remembered_chunks == 4  # of the window of 20 latents, one chunk is the next
    context = recipes.smoke().begin(minwm(random_network(), random_decoder(), SIZE), 2)
    assert context.num_pasts == 2
