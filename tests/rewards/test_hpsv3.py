"""HPSv3's own package, in an environment that has it, with a small random Qwen2-VL in place of its weights."""

import dataclasses
import importlib.resources
import json

import pytest
import torch
from optional import installed
from safetensors.torch import save_file

from worldcompass.errors import UserError
from worldcompass.rewards.frame_score import FrameScore, ScoreDrift
from worldcompass.rewards.hpsv3 import QUALITY_SENTENCE, Hpsv3
from worldcompass.testing import check_critic, noise_group

GROUP = dataclasses.replace(noise_group(2), caption="a cave")
WIDTH = 32  # of the network: two heads
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
SPECIAL = ["im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint and the settings that belong to it, as the package reads them."""
    installed("hpsv3")
    yaml = installed("yaml")
    qwen = installed("transformers")
    letters = installed("transformers.models.gpt2.tokenization_gpt2").bytes_to_unicode().values()
    network = installed("hpsv3.model.qwen2vl_trainer").Qwen2VLRewardModelBT
    folder = tmp_path_factory.mktemp("hpsv3")
    base = folder / "base"
    base.mkdir()
    (base / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
    (base / "merges.txt").write_text("#version: 0.2\n")
    words = [f"<|{name}|>" for name in SPECIAL]
    tokens = qwen.Qwen2TokenizerFast(
        str(base / "vocab.json"), str(base / "merges.txt"), additional_special_tokens=words,
        pad_token="<|endoftext|>",
    )  # fmt: skip
    processor = qwen.Qwen2VLProcessor(qwen.Qwen2VLImageProcessor(), tokens, chat_template=TEMPLATE)
    processor.save_pretrained(base)
    sizes = qwen.Qwen2VLConfig(
        vocab_size=len(tokens) + 1,  # the package adds its own
        hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, rope_scaling={"type": "mrope", "mrope_section": [2, 3, 3]},
        vision_config={"depth": 1, "embed_dim": WIDTH, "num_heads": 2, "mlp_ratio": 1, "hidden_size": WIDTH},
        **{f"{name}_token_id": tokens.convert_tokens_to_ids(f"<|{word}|>")
           for name, word in (("image", "image_pad"), ("video", "video_pad"), ("vision_start", "vision_start"),
                              ("vision_end", "vision_end"))},
    )  # fmt: skip
    torch.manual_seed(0)
    net = network(sizes, output_dim=2, reward_token="special", rm_head_type="ranknet")
    net.save_pretrained(base)
    save_file({n: t.clone().contiguous() for n, t in net.state_dict().items()}, folder / "HPSv3.safetensors")
    own = importlib.resources.files("hpsv3").joinpath("config", "HPSv3_7B.yaml").read_text()
    settings = yaml.safe_load(own) | {
        "model_name_or_path": str(base), "bf16": False, "torch_dtype": "float32", "disable_flash_attn2": True,
        "deepspeed": None, "report_to": "none", "eval_strategy": "no",
    }  # fmt: skip
    (folder / "HPSv3.yaml").write_text(yaml.safe_dump(settings))
    return folder / "HPSv3.safetensors", folder / "HPSv3.yaml"


@pytest.mark.filterwarnings("ignore")  # of the package
def test_the_package_scores_frames_for_a_caption_or_a_sentence(files):
    checkpoint, settings = files
    scorer = Hpsv3(checkpoint, config=settings, device="cpu")
    critic = FrameScore(scorer)
    check_critic(critic, GROUP)
    values = critic(GROUP).values_G
    other = critic(dataclasses.replace(GROUP, caption="a house")).values_G
    assert values[0] != values[1] and not torch.equal(values, other), "pictures and words are read"
    drift = ScoreDrift(Hpsv3(checkpoint, QUALITY_SENTENCE, settings, device="cpu"))
    told = drift(GROUP).values_G
    assert (told < 0).all() and torch.equal(told, drift(dataclasses.replace(GROUP, caption="x")).values_G)


@pytest.mark.filterwarnings("ignore")
def test_weights_of_something_else_are_one_sentence(files, tmp_path):
    save_file({"head.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(files[0].read_bytes()[:100])
    for name in ("other.safetensors", "cut.safetensors"):
        with pytest.raises(UserError, match=rf"HPSv3 cannot use the weights at .*{name} \(") as said:
            Hpsv3(tmp_path / name, config=files[1], device="cpu")
        assert "\n" not in str(said.value)
