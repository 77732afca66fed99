"""``worldcompass prepare`` makes one checked file per image, once; the encoders are stand-ins."""

import json
import sys
import types
from unittest.mock import MagicMock

import pytest
import torch
from camera_paths import parse_path
from safetensors.torch import load_file, save_file
from worldplay_tiny import (
    CONFIG_5B,
    CONFIG_8B,
    HEIGHT,
    WIDTH,
    conditioning_8b,
    random_decoder,
    random_network,
)

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.media.video import save_png
from worldcompass.types import Scenario
from worldcompass.worlds.open import text
from worldcompass.worlds.open.layouts import check_parts
from worldcompass.worlds.open.poses import commanded
from worldcompass.worlds.open.prepare import prepare, read_requests
from worldcompass.worlds.open.prepared import load_prepared, save_prepared
from worldcompass.worlds.open.text import cleaned
from worldcompass.worlds.worldplay import encoders, preparation
from worldcompass.worlds.worldplay.config import Config5B, Config8B, expected_shapes
from worldcompass.worlds.worldplay.encoders import crop, quotes_for_byt5, stretch
from worldcompass.worlds.worldplay.layouts import OFFICIAL_8B, PARTS_5B, PARTS_8B, parts_8b
from worldcompass.worlds.worldplay.official_data import conditioning
from worldcompass.worlds.worldplay.world import FAMILY_5B, FAMILY_8B, WorldPlay

SHAPES = expected_shapes(CONFIG_8B, (HEIGHT, WIDTH))


class Encoder:
    """Conditioning that depends on picture and caption, with a list of the requests."""

    def __init__(self, stop_after=None, **changes):
        self.asked, self.stop_after, self.changes = [], stop_after, changes

    def encode(self, image_3hw, caption):
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(caption)
        generator = torch.Generator().manual_seed(int(image_3hw.sum()) + len(caption))
        latent = torch.randn(3, HEIGHT, WIDTH, generator=generator)
        return {"latent": latent, **conditioning_8b(CONFIG_8B, generator), **self.changes}


def run(images, out, encoder):
    return list(prepare(read_requests(images), lambda: encoder, "worldplay-8b", SHAPES, out))


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    for i, name in enumerate(["lake", "street", "wood"]):
        save_png(folder / f"{name}.png", torch.full((3, 8, 12), 20 * i, dtype=torch.uint8))
        (folder / f"{name}.txt").write_text(f"A {name}.\n")
    return folder


def test_every_image_becomes_one_file_with_its_caption(pictures, tmp_path):
    encoder = Encoder()
    done = run(pictures, tmp_path / "out", encoder)
    assert [r.id for r in done] == ["lake", "street", "wood"]
    assert encoder.asked == ["A lake.", "A street.", "A wood."]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"{r.id}.safetensors" for r in done]
    prepared = load_prepared(tmp_path / "out" / "street.safetensors", SHAPES)
    assert (prepared.id, prepared.caption) == ("street", "A street.")
    assert prepared.conditioning.keys() == set(FAMILY_8B.keys)


def test_hidden_files_are_no_images(pictures):
    """Such as ``._lake.png``, which some systems write next to ``lake.png``."""
    (pictures / "._lake.png").write_bytes(b"attributes")
    assert [r.id for r in read_requests(pictures)] == ["lake", "street", "wood"]


def test_what_is_prepared_begins_a_scenario(pictures, tmp_path):
    run(pictures, tmp_path / "out", Encoder())
    prepared = load_prepared(tmp_path / "out" / "lake.safetensors", SHAPES)
    world = WorldPlay(FAMILY_8B, random_network("8b"), random_decoder("8b"), (HEIGHT, WIDTH))
    actions = commanded(parse_path("w-3"))
    scenario = Scenario(prepared.id, actions, conditioning=prepared.conditioning, caption=prepared.caption)
    (past,) = world.begin([scenario]).pasts
    assert torch.equal(past.start_CHW, prepared.conditioning["latent"])


def test_a_mark_of_the_byte_order_is_no_part_of_a_caption(pictures):
    (pictures / "lake.txt").write_text("A lake.\n", encoding="utf-8-sig")
    assert {request.id: request.caption for request in read_requests(pictures)}["lake"] == "A lake."


def test_a_list_names_images_captions_and_files(pictures, tmp_path):
    entries = [
        {"image": "lake.png", "caption": "Calm.", "id": "calm"},
        {"image": "lake.png", "caption": "", "id": "silent"},
    ]
    (pictures / "list.json").write_text(json.dumps(entries))
    assert [(r.id, r.caption, r.image.name) for r in read_requests(pictures / "list.json")] == [
        ("calm", "Calm.", "lake.png"), ("silent", "", "lake.png"),
    ]  # fmt: skip


def test_what_is_done_is_not_done_again(pictures, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(pictures, out, Encoder(stop_after=2))
    assert sorted(p.stem for p in out.iterdir()) == ["lake", "street"]
    again = Encoder()
    run(pictures, out, again)
    assert again.asked == ["A wood."]

    def never():
        raise AssertionError("encoders are loaded though nothing is left to do")

    assert len(list(prepare(read_requests(pictures), never, "worldplay-8b", SHAPES, out))) == 3


def test_changed_captions_images_and_damaged_files_are_prepared_again(pictures, tmp_path):
    out = tmp_path / "out"
    run(pictures, out, Encoder())
    (pictures / "lake.txt").write_text("A frozen lake.")
    save_png(pictures / "street.png", torch.full((3, 8, 12), 99, dtype=torch.uint8))
    damaged = out / "wood.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:200])
    again = Encoder()
    run(pictures, out, again)
    assert again.asked == ["A frozen lake.", "A street.", "A wood."]
    assert load_prepared(out / "lake.safetensors", SHAPES).caption == "A frozen lake."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent": torch.zeros(3, 9, 9)}, r"latent is \(3, 9, 9\), expected \(3, 2, 4\)"),
        ({"text_states": torch.zeros(8, 11)}, r"text_states is \(8, 11\), expected \(any, 10\)"),
        ({"text_states": torch.full((8, 10), float("nan"))}, "text_states is not finite"),
        ({"text_mask": torch.ones(7)}, "8 text_states but a mask of 7"),
        ({"more": torch.zeros(1)}, r"more is \(1,\), expected no such tensor"),
    ],
)
def test_nothing_wrong_is_written(changes, message, pictures, tmp_path):
    with pytest.raises(UserError, match=message):
        run(pictures, tmp_path / "out", Encoder(**changes))
    assert not list((tmp_path / "out").iterdir())


def test_files_are_checked_when_they_are_read(pictures, tmp_path):
    run(pictures, tmp_path, Encoder())
    file = tmp_path / "lake.safetensors"
    with pytest.raises(UserError, match=r"there is no file .*none\.safetensors"):
        load_prepared(tmp_path / "none.safetensors", SHAPES)
    with pytest.raises(UserError, match=r"vision_states is \(3, 6\), expected no such tensor"):
        load_prepared(file, expected_shapes(CONFIG_5B, (HEIGHT, WIDTH)))
    tensors = load_file(file)
    save_file({name: t for name, t in tensors.items() if name != "byt5_mask"}, file)
    with pytest.raises(UserError, match=r"byt5_mask is missing, expected \(any\)"):
        load_prepared(file, SHAPES)
    file.write_bytes(b"no tensors")
    with pytest.raises(UserError, match="is damaged or no safetensors file"):
        load_prepared(file, SHAPES)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(_tensors, path, _metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("worldcompass.runs.atomic.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_prepared(tmp_path / "a.safetensors", Encoder().encode(torch.zeros(3, 1, 1), ""), SHAPES, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "wood.txt").unlink(), r"wood\.png has no caption: expected one in .*wood\.txt"),
        (lambda f: (f / "wood.png").write_bytes(b"no picture"), r"wood\.png is .*not an image"),
        (lambda f: [p.unlink() for p in f.iterdir()], "holds no images"),
        (lambda f: (f / "wood.txt").write_bytes(b"\xe4"), r"wood\.txt is not UTF-8 text"),
        (lambda f: save_png(f / "wood.png", torch.zeros(3, 2, 21).byte()), r"wood\.png: the picture is .* crop it"),
    ],
)  # fmt: skip
def test_folders_that_cannot_be_prepared_are_refused_before_loading(spoil, message, pictures):
    spoil(pictures)
    with pytest.raises(UserError, match=message):
        read_requests(pictures)


ENTRY = {"image": "lake.png", "caption": "A lake."}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("{", "neither a folder of images nor a readable JSON list"),
        ("{}", "holds no list"),
        ("[]", "holds no images"),
        ('["lake.png"]', "entry 0 needs an image and a caption"),
        (json.dumps([{**ENTRY, "prompt": "x"}]), "entry 0 has unknown keys prompt"),
        (json.dumps([{**ENTRY, "id": "../up"}]), "has the id '../up': expected a plain file name"),
        (json.dumps([ENTRY, ENTRY]), r"would both become lake\.safetensors"),
        (json.dumps([{**ENTRY, "image": "sea.png"}]), r"there is no file .*sea\.png"),
    ],
)
def test_lists_that_cannot_be_prepared_are_refused(raw, message, pictures):
    (pictures / "list.json").write_text(raw)
    with pytest.raises(UserError, match=message):
        read_requests(pictures / "list.json")


@pytest.mark.parametrize("parts", [PARTS_8B, PARTS_5B])
def test_missing_checkpoints_are_named_with_where_they_go_and_come_from(parts, tmp_path):
    for part in parts[1:]:
        (tmp_path / part.folder).mkdir()
        for file in part.files:
            (tmp_path / part.folder / file.replace("*", "model")).touch()
    with pytest.raises(
        UserError, match=r"lacks 2 inputs.*\n  vae/config\.json \(the video autoencoder, .*\n  vae/diffusion_"
    ) as no:
        check_parts(tmp_path, parts)
    assert "text_encoder" not in str(no.value)
    (tmp_path / "vae").mkdir()
    for file in parts[0].files:
        (tmp_path / "vae" / file).touch()
    check_parts(tmp_path, parts)


@pytest.mark.parametrize("model", ["worldplay-8b", "worldplay-5b"])
def test_the_command_names_the_missing_extra_first(model, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    words = ["--images", str(pictures), "--checkpoints", str(tmp_path), "--out", str(tmp_path / "out")]
    assert cli.main(["prepare", "--model", model, "--device", "cpu", *words]) == 2
    assert "pip install 'worldcompass[hf]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_captions_of_the_5b_need_ftfy_and_say_so_before_anything_is_loaded(
    pictures, tmp_path, monkeypatch, capsys
):
    for name in ("transformers", "PIL"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "ftfy", None)
    words = ["--images", str(pictures), "--checkpoints", str(tmp_path), "--out", str(tmp_path / "out")]
    assert cli.main(["prepare", "--model", "worldplay-5b", "--device", "cpu", *words]) == 2
    assert "cleaned by the package ftfy: pip install 'worldcompass[hf]'" in capsys.readouterr().err
    assert cli.main(["prepare", "--model", "worldplay-8b", "--device", "cpu", *words]) == 2
    assert "ftfy" not in capsys.readouterr().err


def test_captions_are_mended_before_entities_and_spaces(monkeypatch):
    """In the official order: a text that is mended may hold entities, and those may be escaped twice."""
    mender = types.ModuleType("ftfy")
    mender.fix_text = lambda text: text.replace("BROKEN", " &amp;lt;3\u3000 ")
    monkeypatch.setitem(sys.modules, "ftfy", mender)
    assert cleaned(" A \n lake BROKEN here") == "A lake <3 here"


def test_broken_text_is_mended_by_the_package_itself():
    pytest.importorskip("ftfy", reason="the extra hf is not installed")
    assert cleaned("I donâ€™t  know\u00a0 &amp;quot;why&amp;quot;") == 'I don\'t know "why"'


def test_shapes_of_the_published_models():
    eight, five = expected_shapes(Config8B(), (30, 52)), expected_shapes(Config5B(), (44, 80))
    assert (eight["latent"], five["latent"]) == ((32, 30, 52), (48, 44, 80))
    assert eight["text_states"] == (None, 3584)
    assert eight["vision_states"] == (None, 1152)
    assert eight["byt5_states"] == (None, 1472)
    assert eight.keys() == set(FAMILY_8B.keys)
    assert five.keys() == set(FAMILY_5B.keys)


@pytest.mark.parametrize(
    ("caption", "spoken"),
    [
        ("A lake.", ""),
        ('A sign says "Open".', 'Text "Open". '),
        ('Signs say “Open”, "Bar" and “Open”.', 'Text "Open". Text "Bar". '),
    ],
)
def test_quoted_text_is_read_out(caption, spoken):
    assert quotes_for_byt5(caption) == spoken


def official_image(config, size):
    """One image as the released trainer's preparation stores it: padded text, no quotation."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(1, *shape, generator=generator)

    start = random(config.latent_channels, 1, *size).bfloat16()
    return {
        "latent": start, "image_cond": start, "prompt_embeds": random(9, config.text_width).half(),
        "prompt_mask": (torch.arange(9) < 4).long()[None],
        "vision_states": random(5, config.vision_width).bfloat16(),
        "byt5_text_states": torch.zeros(1, 7, config.byt5_widths[0]), "byt5_text_mask": torch.zeros(1, 7).long(),
    }  # fmt: skip


def test_the_released_trainers_latents_become_a_dataset_without_encoders(tmp_path, capsys):
    """The index may come from another machine: files are looked for next to it, too."""
    image = official_image(Config8B(), (30, 52))
    folder = tmp_path / "train_latents"
    (folder / "latents").mkdir(parents=True)
    torch.save(image, folder / "latents" / "0_000000.pt")
    entry = {"latent_path": "/gone/latents/0_000000.pt", "image_path": "/gone/a.jpg", "caption": "A lake."}
    (folder / "latents.json").write_text(json.dumps([entry]))
    words = [
        "prepare",
        "--model",
        "worldplay-8b",
        "--images",
        str(folder / "latents.json"),
        "--device",
        "cpu",
    ]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    found = load_prepared(tmp_path / "out" / "0_000000.safetensors", expected_shapes(Config8B(), (30, 52)))
    assert found.caption == "A lake."
    assert torch.equal(found.conditioning["latent"], image["image_cond"][0, :, 0].float())
    assert torch.equal(found.conditioning["text_states"], image["prompt_embeds"][0, :4])
    assert found.conditioning["byt5_mask"].tolist() == [0]  # without a quotation all of it is masked
    (folder / "latents.json").write_text(json.dumps([entry, {**entry, "latent_path": "/gone/b.pt"}]))
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "entry 1 names /gone/b.pt, which is neither there nor in latents/" in capsys.readouterr().err


def test_quoted_text_of_the_released_data_is_kept(tmp_path):
    image = official_image(CONFIG_8B, (HEIGHT, WIDTH))
    image["byt5_text_states"] = torch.randn(1, 7, CONFIG_8B.byt5_widths[0])
    image["byt5_text_mask"] = (torch.arange(7) < 3).long()[None]
    torch.save(image, tmp_path / "a.pt")
    found = conditioning(tmp_path / "a.pt")
    assert torch.equal(found["byt5_states"], image["byt5_text_states"][0, :3])
    assert found["byt5_mask"].tolist() == [1, 1, 1]
    torch.save({"latent": image["latent"]}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"has no image_cond, prompt_embeds, .* of one image"):
        conditioning(tmp_path / "a.pt")


def test_lists_of_the_released_trainer_name_images_by_path(pictures):
    (pictures / "list.json").write_text(json.dumps([{"image_path": "lake.png", "caption": "A lake."}]))
    (request,) = read_requests(pictures / "list.json")
    assert (request.image.name, request.caption) == ("lake.png", "A lake.")


def test_encoders_are_found_as_the_official_scripts_download_them(tmp_path):
    assert parts_8b(tmp_path) == PARTS_8B
    for folder in ("text_encoder/llm", "text_encoder/byt5-small", "vision_encoder/siglip/image_encoder"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").touch()
    assert parts_8b(tmp_path) == OFFICIAL_8B
    with pytest.raises(
        UserError, match=r"Glyph-SDXL-v2/checkpoints/byt5_model.pt .*AI-ModelScope/Glyph-SDXL-v2"
    ):
        check_parts(tmp_path, parts_8b(tmp_path))


def test_a_stretched_image_is_seen_whole_as_in_the_released_data():
    ramp = torch.arange(0, 200, 10).byte().expand(3, 10, 20)
    found = stretch(ramp, (40, 40))
    assert found.shape == (3, 40, 40)
    assert int(found[0, 0, 0]) == 0 and int(found[0, 0, -1]) == 190  # a crop would lose both ends


@pytest.mark.parametrize(("words", "fit"), [([], crop), (["--fit", "stretch"], stretch)])
def test_the_command_fits_images_as_it_was_asked(words, fit, pictures, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(text, "need_transformers", lambda: None)
    monkeypatch.setattr(preparation, "check_parts", lambda folder, parts: None)
    monkeypatch.setattr(encoders, "Encoder8B", lambda folder, device, fit: kept.append(fit) or Encoder())
    place = ["--images", str(pictures), "--checkpoints", str(pictures), "--out", str(tmp_path / "out")]
    cli.main(["prepare", "--model", "worldplay-8b", "--device", "cpu", *place, *words])
    assert kept == [fit]


@pytest.mark.parametrize(
    ("device", "half"), [("cuda:0", torch.float16), ("cpu", torch.float32)], ids=["cuda", "cpu"]
)
def test_the_8b_encoders_run_in_the_types_of_the_released_data(device, half, tmp_path, monkeypatch):
    """Qwen2.5-VL and SigLIP in float16 on a GPU, byT5 in float32 everywhere."""
    package, kinds = MagicMock(), {}
    for name in ("Qwen2_5_VLTextModel", "SiglipVisionModel", "T5EncoderModel"):

        def load(path, name=name, **options):
            kinds[name] = options["dtype"]
            return MagicMock(), {"missing_keys": []}

        getattr(package, name).from_pretrained = load
    monkeypatch.setattr(encoders, "need_transformers", lambda: package)
    monkeypatch.setattr(encoders, "check_parts", lambda folder, parts: None)
    monkeypatch.setattr(encoders, "load_decoder_8b", lambda folder, device: None)
    encoders.Encoder8B(tmp_path, device)
    assert kinds == {"Qwen2_5_VLTextModel": half, "SiglipVisionModel": half, "T5EncoderModel": torch.float32}
