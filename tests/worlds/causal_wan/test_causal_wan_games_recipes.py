"""The recipes of Matrix-Game 2 and ForgeWM: published files, settings, the smoke run, play, preparation."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matrix_game_tiny import random_network
from recorded import record
from safetensors.torch import load_file, save_file
from wan_vae_tiny import TINY_VAE, random_vae

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.media.video import save_png
from worldcompass.recipes import forgewm, matrix_game_2
from worldcompass.worlds.causal_wan.autoencoder_files import VAE_FILE, load_decoder
from worldcompass.worlds.causal_wan.game_files import (
    IMAGE_FILE,
    PARTS,
    check_variant,
    export_game,
    load_game,
    load_image_encoder,
)
from worldcompass.worlds.causal_wan.game_preparation import StartEncoder, expected_shapes
from worldcompass.worlds.causal_wan.game_sources import GameFiles
from worldcompass.worlds.causal_wan.image_encoder import ImageEncoder, ImageEncoderConfig
from worldcompass.worlds.causal_wan.matrix_game import (
    FORGEWM_1,
    FORGEWM_3,
    GTA,
    LATENTS,
    TEMPLE_RUN,
    TOKENS,
    UNIVERSAL,
    build,
    sizes_of,
)
from worldcompass.worlds.causal_wan.recorded_play import read_play
from worldcompass.worlds.causal_wan.tiny_game import tiny_variant
from worldcompass.worlds.open.layouts import check_parts
from worldcompass.worlds.open.player import prepared_starts, prepared_world
from worldcompass.worlds.open.prepare import prepare, read_requests
from worldcompass.worlds.open.tiny import randomise
from worldcompass.worlds.open.weights import FILE_NAME, GENERATOR_FILE


def same(net, other):
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("name", [FILE_NAME, GENERATOR_FILE])
def test_exports_have_the_names_that_the_official_code_loads(name, tmp_path):
    net = random_network(GTA)
    export_game(net, tmp_path / name)
    if name == FILE_NAME:
        found = load_file(tmp_path / name)
    else:
        found = torch.load(tmp_path / name, weights_only=True)["generator"]
    assert found.keys() == {f"model.{own}" for own in net.state_dict()}
    assert "model.blocks.0.action_model.img_attn_q_norm.weight" in found
    other = random_network(GTA, seed=1)
    assert not same(net, other)
    load_game(other, tmp_path / name, torch.float32)
    assert same(net, other)


@pytest.mark.parametrize("wrap", ["model.{}", "model._fsdp_wrapped_module.{}", "{}"])
def test_forgewms_files_are_read_from_the_entry_that_its_own_code_takes(wrap, tmp_path):
    net, average, found = (random_network(FORGEWM_1, seed) for seed in range(3))

    def table(of):
        names = {
            n.replace("blocks.0.", "blocks.0._checkpoint_wrapped_module."): t
            for n, t in of.state_dict().items()
        }
        return {wrap.format(n): t for n, t in names.items()}

    torch.save({"generator_ema": table(average), "generator": table(net)}, tmp_path / "both.pt")
    torch.save({"generator_ema": table(average)}, tmp_path / "average.pt")
    torch.save(table(net), tmp_path / "bare.pt")
    for file, expected in (("both", net), ("average", average), ("bare", net)):
        load_game(found, tmp_path / f"{file}.pt", torch.float32)
        assert same(found, expected), file


def test_a_file_of_another_checkpoint_is_named_in_one_sentence(tmp_path):
    export_game(random_network(GTA), tmp_path / "gta.safetensors")
    check_variant(tmp_path / "gta.safetensors", tiny_variant(GTA))
    with pytest.raises(
        UserError, match=r"gta\.safetensors: the checkpoint has 2 keys.*temple-run has 7 keys, no mou"
    ):
        check_variant(tmp_path / "gta.safetensors", tiny_variant(TEMPLE_RUN))
    save_file({"encoder.conv1.weight": torch.zeros(1)}, tmp_path / "vae.safetensors")
    with pytest.raises(UserError, match=r"these weights are of no causal Wan2\.1 network"):
        check_variant(tmp_path / "vae.safetensors", UNIVERSAL)
    (tmp_path / "cut.safetensors").write_bytes(b"0123")
    with pytest.raises(UserError, match=r"cut\.safetensors is damaged"):
        check_variant(tmp_path / "cut.safetensors", UNIVERSAL)


@pytest.mark.parametrize(
    ("recipe", "variant", "levels"),
    [
        (matrix_game_2.matrix_game_2, UNIVERSAL, 3),
        (matrix_game_2.gta, GTA, 3),
        (matrix_game_2.temple_run, TEMPLE_RUN, 4),
        (forgewm.students, FORGEWM_3, 4),
        (forgewm.forgewm, FORGEWM_1, 20),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_every_checkpoint_has_its_sizes_steps_and_noise_levels(recipe, variant, levels):
    found = recipe()
    assert found.variant is variant and (found.network, found.actions) == sizes_of(variant)
    assert found.config.sampling.denoising_steps == variant.schedule.num_steps
    assert found.config.learning.noise_levels == levels
    assert found.config.optimiser.max_grad_norm * levels == pytest.approx(2.0)
    assert found.sight == variant.sight and found.exported.endswith("pt") == (
        recipe.__module__.endswith("forgewm")
    )
    assert (found.config.sampling.last_chunk + 1) * 3 == 21  # latents, the length of the training videos


def test_plans_count_the_blocks_with_and_without_modules():
    half, whole = matrix_game_2.matrix_game_2(), forgewm.forgewm()
    assert (half.num_blocks, whole.num_blocks) == (15, 30)
    shallow = half.with_depth(2)
    assert (shallow.network.num_blocks, shallow.network.action_blocks) == (4, (0, 1))
    for recipe in (half, whole):
        assert recipe.with_depth(recipe.num_blocks).network == recipe.network


def test_guidance_is_refused_where_it_was_distilled_into_the_weights_and_elsewhere():
    for recipe, why in (
        (forgewm.students(), "forgewm-stage-3 was distilled from a teacher that was guided by the commands"),
        (forgewm.forgewm(), "forgewm-stage-1 was never trained without commands"),
    ):
        guided = replace(recipe, config=recipe.config.changed(explore=1.0))
        with pytest.raises(UserError, match=f"{why}.*set config.explore=0"):
            guided.check_settings()


@pytest.mark.parametrize(("name", "module"), [("matrix_game_2", matrix_game_2), ("forgewm", forgewm)])
def test_the_smoke_run_trains_and_its_weights_are_played(name, module, tmp_path):
    out, recipe = tmp_path / "run", module.smoke()
    assert cli.main(["train", f"{name}:smoke", "--device", "cpu", "--out", str(out)]) == 0
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [step["chunk"] for step in steps] == [0, 1] and all(step["applied"] == 1 for step in steps)
    assert all(step["rewards"][r]["std"] > 0 for step in steps for r in ("inverse_dynamics", "quality"))
    net = build(recipe.network, recipe.actions)
    load_game(net, out / "weights" / recipe.exported, torch.float32)
    saved = load_file(out / "checkpoints" / "step_000002" / "tensors.safetensors")
    shipped = {n: p for n, p in net.named_parameters() if f"policy/checkpoint/{n}" in saved}
    assert len(shipped) > 50 and all(
        torch.equal(p, saved[f"policy/checkpoint/{n}"]) for n, p in shipped.items()
    )
    scales = [n for n in net.state_dict() if n.endswith("attn_q_norm.weight")]
    assert not any(
        f"policy/checkpoint/{n}" in saved for n in scales
    )  # nothing reads them, so nothing trains them
    world = prepared_world(recipe, out, "cpu")
    assert same(world.net, net)
    starts = prepared_starts(world, most=2)
    assert [start.image_3hw.shape for start in starts] == [(3, 48, 64)] * 2


def tiny_images():
    net = ImageEncoder(ImageEncoderConfig(80, 1, 2, 16, 4, 8))
    randomise(net, torch.Generator().manual_seed(0))
    return net


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Tiny files of both encoders in their published form."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.save(random_vae().state_dict(), folder / VAE_FILE)
    net = tiny_images()
    last = {
        n.replace("transformer.0", "transformer.1"): t
        for n, t in net.state_dict().items()
        if "transformer.0" in n
    }
    tensors = {f"visual.{n}": t for n, t in {**net.state_dict(), **last}.items()}
    torch.save({**tensors, "log_scale": torch.zeros(())}, folder / IMAGE_FILE)
    return folder


@pytest.fixture(scope="module")
def data(checkpoints, tmp_path_factory):
    """A picture and the first frame of a video, prepared for latents of 2 x 4 cells."""
    pictures, out = tmp_path_factory.mktemp("pictures"), tmp_path_factory.mktemp("data")
    generator = torch.Generator().manual_seed(0)
    save_png(
        pictures / "lake.png", torch.randint(0, 256, (3, 20, 50), generator=generator, dtype=torch.uint8)
    )
    (pictures / "lake.txt").write_text("")
    record(pictures, count=1, frames=9, fps=12, path="w-2")
    (pictures / "walk00.txt").write_text("")
    shapes = {LATENTS: (16, TINY_VAE.settled, 2, 4), TOKENS: (5, 80)}
    list(prepare(read_requests(pictures), lambda: StartEncoder(checkpoints, "cpu", (2, 4)), "m", shapes, out))
    return out


@torch.no_grad()
def test_start_images_are_prepared_from_the_published_files(checkpoints, data):
    encoder, image = StartEncoder(checkpoints, "cpu", (2, 4)), torch.zeros(3, 16, 32, dtype=torch.uint8)
    found = load_file(data / "lake.safetensors")
    assert found[LATENTS].shape == (16, 22, 2, 4) and found[TOKENS].shape == (5, 80)
    black = encoder.encode(image, "no effect")
    picture = -torch.ones(1, 3, 16, 32)
    torch.testing.assert_close(black[LATENTS], random_vae().encode_still(picture)[0])
    torch.testing.assert_close(black[TOKENS], tiny_images()(picture)[0])
    image[:, :, 16:] = 255  # wide, with an edge in the middle: cropped it fills as much as stretched
    wide = torch.cat([image[:, :, :1].expand(-1, -1, 16), image, image[:, :, -1:].expand(-1, -1, 16)], 2)
    cropped, stretched = (StartEncoder(checkpoints, "cpu", (2, 4), s).encode(wide, "") for s in (False, True))
    torch.testing.assert_close(cropped[LATENTS], encoder.encode(image, "")[LATENTS])
    assert float((cropped[LATENTS] - stretched[LATENTS]).abs().max()) > 1e-3


def test_published_files_begin_a_run(checkpoints, data, tmp_path):
    """Real shapes of latents with tiny networks: everything from the files, refused where one does not fit."""
    variant = tiny_variant(GTA)
    smoke = matrix_game_2.smoke()
    network = replace(smoke.network, in_channels=36, out_channels=16, states_width=80)
    actions = replace(smoke.actions, num_keys=2)
    file = tmp_path / "gta.safetensors"
    net = build(network, actions)
    randomise(net, torch.Generator().manual_seed(0))
    export_game(net, file)
    files = GameFiles(checkpoints, data, "none", transformer=file)
    recipe = replace(
        smoke, variant=variant, network=network, actions=actions, latent_size=(2, 4), source=files,
        config=smoke.config.changed(steps=1, last_chunk=0, denoising_steps=3, probe_every=0),
    )  # fmt: skip
    recipe.check_world()
    assert {f.path.name for f in files.files({}, {})} == {file.name, VAE_FILE, data.name}
    assert recipe.blank().decoder.net.config == TINY_VAE
    world = recipe.world(lambda net: files.fill(net, torch.float32, "cpu"), files.decoder("cpu"))
    assert same(world.net, net) and world.spec.frame_size == (16, 32)
    wrong = replace(recipe, variant=tiny_variant(TEMPLE_RUN))
    with pytest.raises(UserError, match="the checkpoint has 2 keys"):
        wrong.check_world()


def test_real_data_sets_hold_30_latents_and_257_tokens():
    shapes = matrix_game_2.matrix_game_2().preparation().shapes
    assert shapes == {LATENTS: (16, 30, 44, 80), TOKENS: (257, 1280)}
    assert shapes == expected_shapes(forgewm.forgewm().network, (44, 80))


def test_missing_and_damaged_encoders_are_refused(checkpoints, tmp_path):
    with pytest.raises(
        UserError, match=r"lacks 2 inputs.*\n  \./Wan2\.1_VAE\.pth .*from Skywork/Matrix-Game-2\.0"
    ):
        check_parts(tmp_path, PARTS)
    (tmp_path / VAE_FILE).symlink_to(checkpoints / IMAGE_FILE)
    with pytest.raises(UserError, match=r"not those of Wan2\.1's video autoencoder"):
        load_decoder(tmp_path / VAE_FILE)
    (tmp_path / IMAGE_FILE).write_bytes(b"no weights")
    with pytest.raises(UserError, match="is damaged or holds more than tensors") as refused:
        load_image_encoder(tmp_path / IMAGE_FILE)
    assert "weights_only" not in str(refused.value), "no advice to run the code of a file"


def write(folder, **content):
    file = folder / "play.json"
    file.write_text(json.dumps(content))
    return file


def test_recorded_play_is_read_frame_by_frame(tmp_path):
    keyboard, mouse = [[1, 0, 0, 0]] * 6, [[0.0, 0.1]] * 6
    space = UNIVERSAL.devices.space
    actions = read_play(UNIVERSAL.devices, write(tmp_path, keyboard=keyboard, mouse=mouse, fps=12), space)
    assert len(actions) == 2  # 5 frames; the sixth begins a latent that does not end
    assert [space.name(int(c)) for c in space.composites(actions)] == ["none", "w + right"]
    path = read_play(UNIVERSAL.devices, write(tmp_path, path="w-2, d+up-1"), space)
    assert len(path) == 4
    values = {axis: [0] * 3 + [x] for axis, x in zip(space.axes, (1, -1, 0.5, 0), strict=True)}
    controls = read_play(UNIVERSAL.devices, write(tmp_path, controls=values), space)
    assert controls.values_KTA[1, 3].tolist() == [1, -1, 0.5, 0]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"keyboard": [[0] * 4] * 5, "fps": 25}, "has 25 commands per second, this world has 12: resample"),
        ({"keyboard": [[0] * 4] * 5, "mouse": [[0, 0]] * 4}, "5 entries of the keyboard and 4 of the mouse"),
        ({"keyboard": [[0] * 4] * 5, "mouse": [[3, 0]] * 5}, "the control pitch is 3: expected -1 to 1"),
        ({"keyboard": [[0.5, 0, 0, 0]] * 5}, "the control forward is 0.5: expected -1 to 1 in 3 even levels"),
        ({"keyboard": [[0, 0]] * 5}, "the keyboard has 2 keys"),
        ({"keyboard": [0] * 5}, r"keyboard has shape \(5,\): expected a row of numbers for each frame"),
        ({"keyboard": [[0], [0, 0]]}, "keyboard is no list of equally long lists of numbers"),
        (
            {"mouse": [[0, 0]] * 5},
            "holds no recorded play: expected keyboard and mouse of every frame, controls, or a path",
        ),
        ({"keys": []}, "holds no recorded play"),
    ],
)
def test_recorded_play_of_another_form_is_refused(content, sentence, tmp_path):
    file = write(tmp_path, **content)
    with pytest.raises(UserError, match=sentence):
        read_play(UNIVERSAL.devices, file, UNIVERSAL.devices.space)


def test_recordings_start_from_their_own_first_frame(data, checkpoints, tmp_path):
    video = Path(record(tmp_path / "r", count=1, frames=9, fps=12, path="w-2")) / "walk00.mp4"
    files = GameFiles(checkpoints, data, "none")
    network = replace(matrix_game_2.smoke().network, out_channels=16, states_width=80)
    with pytest.raises(UserError, match="expected \\(16, 30, 2, 4\\)"):
        files.start_of(video, network, (2, 4))  # tiny encoders: fewer latents and tokens than the real ones
