"""The encoders on the real classes of ``transformers``, tiny and random; skipped where it isn't installed."""

import shutil

import pytest
import torch
from safetensors.torch import load, save_file
from worldplay_tiny import random_decoder, write_vae

from worldcompass.errors import UserError
from worldcompass.media.video import save_png
from worldcompass.worlds.open.prepare import prepare, read_requests
from worldcompass.worlds.open.prepared import load_prepared
from worldcompass.worlds.worldplay.config import Config5B, Config8B, expected_shapes
from worldcompass.worlds.worldplay.encoders import INSTRUCTION, Encoder5B, Encoder8B, crop

transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
pytest.importorskip("PIL", reason="the extra hf is not installed")
pytest.importorskip("ftfy", reason="the extra hf is not installed")

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZE = (32, 64)


def byte_tokenizer(chat_template=None):
    """A tokenizer of bytes with a chat, saved in the general form."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="Ġ")
    fast.chat_template = chat_template
    return fast


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders like the published ones for both models, with tiny networks."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("checkpoints")
    for kind in ("8b", "5b"):
        write_vae(kind, root / kind / "vae")
    t = transformers
    byte_tokenizer(CHAT).save_pretrained(root / "8b" / "tokenizer")
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    qwen = t.Qwen2_5_VLTextModel(
        t.Qwen2_5_VLTextModel.config_class(
            vocab_size=256, hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=2,
            num_key_value_heads=1, rope_parameters=rope,
        )
    )  # fmt: skip
    qwen.save_pretrained(root / "8b" / "text_encoder")
    t.ByT5Tokenizer().save_pretrained(root / "8b" / "tokenizer_2")
    sizes = {"d_model": 12, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 400}
    t.T5EncoderModel(t.T5Config(**sizes)).save_pretrained(root / "8b" / "text_encoder_2")
    vision = t.SiglipVisionConfig(
        hidden_size=10, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, image_size=28,
        patch_size=14,
    )  # fmt: skip
    t.SiglipVisionModel(vision).save_pretrained(root / "8b" / "image_encoder")
    t.SiglipImageProcessor(size={"height": 28, "width": 28}).save_pretrained(
        root / "8b" / "feature_extractor"
    )
    t.ByT5Tokenizer().save_pretrained(root / "5b" / "tokenizer")
    t.UMT5EncoderModel(t.UMT5Config(**sizes)).save_pretrained(root / "5b" / "text_encoder")
    return root


def encoder(kind, checkpoints):
    make = Encoder8B if kind == "8b" else Encoder5B
    return make(checkpoints / kind, dtype=torch.float32, size=SIZE)


def config(kind):
    if kind == "8b":
        return Config8B(latent_channels=3, text_width=16, vision_width=10, byt5_widths=(12, 9, 9)), (4, 8)
    return Config5B(latent_channels=3, text_width=12), (2, 4)


def picture(height=50, width=70):
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0)).byte()


@pytest.mark.parametrize("kind", ["8b", "5b"])
def test_a_folder_of_pictures_is_prepared(kind, checkpoints, tmp_path):
    save_png(tmp_path / "lake.png", picture())
    (tmp_path / "lake.txt").write_text('A lake with a sign "Closed".')
    shapes = expected_shapes(*config(kind))
    requests = read_requests(tmp_path)
    make = lambda: encoder(kind, checkpoints)  # noqa: E731
    assert len(list(prepare(requests, make, kind, shapes, tmp_path / "out"))) == 1
    prepared = load_prepared(tmp_path / "out" / "lake.safetensors", shapes)
    frame = crop(picture(), SIZE)[None, None].float() / 255
    expected = random_decoder(kind).encode(frame)[0, :, 0]
    torch.testing.assert_close(prepared.conditioning["latent"], expected, atol=1e-5, rtol=0)
    assert prepared.conditioning["latent"].dtype == torch.float32


def test_caption_states_equal_the_padded_form(checkpoints):
    """The official way: the whole chat padded at its end, the third last states, the instruction cut off."""
    ours, caption = encoder("8b", checkpoints), "A lake."
    before = f"<|im_start|>system\n{INSTRUCTION}<|im_end|>\n<|im_start|>user\n"
    whole = f"{before}{caption}<|im_end|>\n<|im_start|>assistant\n"
    ids = list(whole.encode())
    tokens = torch.tensor([ours.tokenizer(whole).input_ids])
    assert tokens.shape == (1, len(ids))
    padded = torch.cat([tokens, torch.zeros(1, 20, dtype=torch.long)], 1)
    mask = (torch.arange(padded.shape[1]) < len(ids)).long()[None]
    with torch.no_grad():
        states = ours.language(input_ids=padded, attention_mask=mask, output_hidden_states=True).hidden_states
    found = ours.encode(picture(), caption)
    torch.testing.assert_close(found["text_states"], states[-3][0, len(before) : len(ids)], atol=1e-5, rtol=0)
    assert found["text_mask"].tolist() == [1] * (len(ids) - len(before))


def test_empty_captions_and_captions_with_chat_markup_are_cut_alike(checkpoints):
    ours, rest = encoder("8b", checkpoints), len("<|im_end|>\n<|im_start|>assistant\n")
    assert len(ours.encode(picture(), "")["text_states"]) == 1 + rest
    assert len(ours.encode(picture(), "assistant\n")["text_states"]) == len("assistant\n") + rest
    assert len(ours.encode(picture(), "x" * 3000)["text_states"]) == 1000


def test_quoted_states_equal_the_padded_form_and_may_be_one_masked_row(checkpoints):
    ours = encoder("8b", checkpoints)
    text = 'Text "Closed". '
    padded = ours.quoted_tokenizer(text, padding="max_length", max_length=256, return_tensors="pt")
    with torch.no_grad():
        states = ours.quoted(**padded).last_hidden_state[0]
    found = ours.encode(picture(), 'A sign "Closed".')
    count = int(padded.attention_mask.sum())
    torch.testing.assert_close(found["byt5_states"], states[:count], atol=1e-5, rtol=0)
    assert found["byt5_mask"].tolist() == [1] * count
    none = ours.encode(picture(), "A sign.")
    assert none["byt5_states"].shape == (1, 12)
    assert none["byt5_mask"].tolist() == [0]


def test_5b_captions_are_followed_by_zeros(checkpoints):
    ours = encoder("5b", checkpoints)
    padded = ours.language.tokenizer(
        "Tom & a lake", padding="max_length", max_length=512, return_tensors="pt"
    )
    count = int(padded.attention_mask.sum())
    with torch.no_grad():
        states = ours.language.network(**padded).last_hidden_state[0]
    found = ours.encode(picture(), " Tom &amp;  a\nlake ")["text_states"]
    torch.testing.assert_close(found[:count], states[:count], atol=1e-5, rtol=0)
    assert found.shape == (512, 12)
    assert not found[count:].any()


@pytest.mark.parametrize(("height", "width"), [(50, 70), (64, 32), (32, 64), (300, 999)])
def test_images_keep_their_proportions(height, width):
    """A ramp along the width stays a ramp around the middle, with the slope of the scale."""
    ramp = torch.linspace(0, 255, width).round().byte().expand(3, height, width).contiguous()
    found = crop(ramp, SIZE).float()
    assert found.shape == (3, *SIZE)
    scale = max(SIZE[0] / height, SIZE[1] / width)
    middle = found[0, 16, 24:40]
    assert float(middle.mean()) == pytest.approx(127.5, abs=255 / width / scale + 1)
    slope = float((middle[-1] - middle[0]) / 15)
    assert slope == pytest.approx(255 / (width - 1) / scale, rel=0.25)


def test_damaged_and_incomplete_weights_are_refused(checkpoints, tmp_path):
    root = tmp_path / "5b"
    shutil.copytree(checkpoints / "5b", root)
    weights = root / "text_encoder" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"text_encoder cannot be read .*: fetch it again"):
        Encoder5B(root)
    tensors = load(whole)
    tensors.pop("encoder.final_layer_norm.weight")
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(UserError, match=r"final_layer_norm\.weight missing"):
        Encoder5B(root)
