"""Official weights: read strictly, written under the same names, refused in one sentence."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from worldplay_tiny import CONFIG_5B, CONFIG_8B, random_latents, random_network, text_states

from worldcompass.errors import UserError
from worldcompass.training.lora import Lora, export_lora, inject_lora, merge_lora
from worldcompass.worlds.open.weights import FILE_NAME, export_weights
from worldcompass.worlds.worldplay.config import Config5B, Config8B
from worldcompass.worlds.worldplay.weights import load_5b, load_8b
from worldcompass.worlds.worldplay.world import LORA_TARGETS_5B, LORA_TARGETS_8B

LOAD = {"8b": lambda path: load_8b(path, CONFIG_8B, torch.float32),
        "5b": lambda path: load_5b(path, CONFIG_5B, torch.float32)}  # fmt: skip
KINDS = list(LOAD)
LORA_TARGETS = {"8b": LORA_TARGETS_8B, "5b": LORA_TARGETS_5B}


def same(net, other):
    theirs = other.state_dict()
    assert net.state_dict().keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_loads_back_from_the_file_and_from_its_folder(kind, tmp_path):
    net = random_network(kind)
    export_weights(net, tmp_path / "transformer" / FILE_NAME)
    same(LOAD[kind](tmp_path / "transformer" / FILE_NAME), net)
    same(LOAD[kind](tmp_path / "transformer"), net)
    assert [p.name for p in (tmp_path / "transformer").iterdir()] == [FILE_NAME]


def write_parts(net, folder):
    """The network in two files with an index, as large checkpoints are published."""
    state = net.state_dict()
    names = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(sorted(state))}
    for part in set(names.values()):
        save_file({name: t for name, t in state.items() if names[name] == part}, folder / part)
    (folder / f"{FILE_NAME}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_in_several_files_are_read_by_their_index(kind, tmp_path):
    net = random_network(kind)
    write_parts(net, tmp_path)
    same(LOAD[kind](tmp_path), net)


def test_damaged_parts_and_indices_are_refused(tmp_path):
    write_parts(random_network("8b"), tmp_path)
    index, part = tmp_path / f"{FILE_NAME}.index.json", tmp_path / "part-1.safetensors"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"part-1.safetensors is damaged"):
        LOAD["8b"](tmp_path)
    part.unlink()
    with pytest.raises(UserError, match=r"no weights at .*part-1.safetensors"):
        LOAD["8b"](tmp_path)
    for text, message in (
        ("{}", "not an index of weights"),
        ('{"weight_map": {}}', "files in its folder"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "files in its folder"),
    ):
        index.write_text(text)
        with pytest.raises(UserError, match=message):
            LOAD["8b"](tmp_path)


def test_an_export_may_be_bfloat16(tmp_path):
    net = random_network("8b")
    export_weights(net, tmp_path / FILE_NAME, torch.bfloat16)
    assert {t.dtype for t in load_file(tmp_path / FILE_NAME).values()} == {torch.bfloat16}
    same(LOAD["8b"](tmp_path / FILE_NAME), net.bfloat16().float())


@pytest.mark.parametrize(
    "prefix", ["", "model.", "model._fsdp_wrapped_module.", "_fsdp_wrapped_module.model."]
)
@pytest.mark.parametrize("entry", ["generator", None])
def test_pickled_weights_are_read_under_generator_and_without_prefixes(prefix, entry, tmp_path):
    net = random_network("8b")
    state = {prefix + name: value for name, value in net.state_dict().items()}
    torch.save({entry: state} if entry else state, tmp_path / "model.pt")
    same(LOAD["8b"](tmp_path / "model.pt"), net)


def test_wrapped_blocks_within_names_are_read_too(tmp_path):
    net = random_network("5b")
    state = {n.replace("blocks.0.", "blocks.0._fsdp_wrapped_module."): v for n, v in net.state_dict().items()}
    torch.save(state, tmp_path / "model.pt")
    same(LOAD["5b"](tmp_path / "model.pt"), net)


class Code:
    """Code that a pickle could run when it is read."""

    ran = False

    def __reduce__(self):
        return (setattr, (Code, "ran", True))


def test_pickled_code_is_never_run(tmp_path):
    torch.save({"generator": random_network("8b").state_dict(), "more": Code()}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="holds more than tensors") as refused:
        LOAD["8b"](tmp_path / "model.pt")
    assert not Code.ran
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", [FILE_NAME, "model.pt"])
def test_a_truncated_file_is_refused(name, tmp_path):
    net, file = random_network("8b"), tmp_path / name
    if name == FILE_NAME:
        export_weights(net, file)
    else:
        torch.save(net.state_dict(), file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match="is damaged"):
        LOAD["8b"](file)


@pytest.mark.parametrize("name", [FILE_NAME, "model.pt"])
def test_an_empty_file_is_refused(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="is damaged"):
        LOAD["8b"](tmp_path / name)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=f"no weights at .*{FILE_NAME}"):
        LOAD["8b"](tmp_path)


def test_a_pickle_of_something_else_is_refused(tmp_path):
    torch.save({"step": 3, "weights": torch.zeros(2)}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="holds no table of tensors"):
        LOAD["8b"](tmp_path / "model.pt")


def test_weights_of_the_other_family_are_refused(tmp_path):
    export_weights(random_network("5b"), tmp_path / FILE_NAME)
    with pytest.raises(UserError, match="belongs to another network"):
        LOAD["8b"](tmp_path / FILE_NAME)


def test_names_and_shapes_that_differ_are_named(tmp_path):
    state = random_network("8b").state_dict()
    state["action_in.mlp.2.bias"] = torch.zeros(5)
    state["time_in.extra"] = state.pop("time_in.mlp.0.bias")
    save_file(state, tmp_path / FILE_NAME)
    with pytest.raises(UserError) as refused:
        LOAD["8b"](tmp_path / FILE_NAME)
    message = str(refused.value)
    assert "3 disagree" in message
    assert "action_in.mlp.2.bias is (5,), expected (24,)" in message
    assert "time_in.extra is (24,), expected no such tensor" in message
    assert "time_in.mlp.0.bias is missing, expected (24,)" in message


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_are_merged_before_an_export(kind, tmp_path):
    net = random_network(kind)
    layers = "double_blocks.*img_attn_q" if kind == "8b" else r"blocks.*attn1\.to_q"
    inject_lora(net, Lora(rank=2, targets=layers), torch.Generator().manual_seed(0))
    for name, parameter in net.named_parameters():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter)
    with pytest.raises(ValueError, match="merge them first"):
        export_weights(net, tmp_path / FILE_NAME)
    with torch.no_grad():
        past, latents = [net(text_states(kind))], random_latents(kind, 1)
        expected = net(latents, past)
        merge_lora(net)
        export_weights(net, tmp_path / FILE_NAME)
        found = LOAD[kind](tmp_path / FILE_NAME)(latents, past)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_adapters_onto_the_network(kind, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    net, lora = random_network(kind), Lora(rank=2, alpha=4.0, targets=LORA_TARGETS[kind])
    inject_lora(net, lora, torch.Generator().manual_seed(0))
    for name, parameter in net.named_parameters():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=0.3)
    export_lora(net, lora, tmp_path)
    theirs = peft.PeftModel.from_pretrained(random_network(kind), str(tmp_path)).merge_and_unload()
    latents = random_latents(kind, 2)
    found, expected = (n(latents, [n(text_states(kind))]) for n in (theirs, net))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


RAW_8B = {
    "in_channels": 3, "out_channels": 3, "hidden_size": 24, "heads_num": 2, "mm_double_blocks_depth": 2,
    "mlp_width_ratio": 2.0, "rope_dim_list": [4, 4, 4], "rope_theta": 256, "text_states_dim": 10,
    "vision_states_dim": 6, "byt5_dims": {"in_dim": 5, "hidden_dim": 7, "out_dim": 9}, "qk_norm": True,
}  # fmt: skip
RAW_5B = {
    "in_channels": 3, "out_channels": 3, "patch_size": [1, 2, 2], "num_attention_heads": 2,
    "attention_head_dim": 12, "num_layers": 2, "ffn_dim": 40, "text_dim": 10, "freq_dim": 16, "eps": 1e-6,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "raw", "expected"), [(Config8B, RAW_8B, CONFIG_8B), (Config5B, RAW_5B, CONFIG_5B)]
)
def test_configurations_are_read(config, raw, expected, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert config.from_json(tmp_path / "config.json") == expected


@pytest.mark.parametrize(
    ("config", "raw", "message"),
    [
        (Config8B, {**RAW_8B, "qk_norm": False}, "qk_norm is False instead of True"),
        (Config8B, {**RAW_8B, "out_channels": 4}, "out_channels differ"),
        (Config8B, {k: v for k, v in RAW_8B.items() if k != "rope_theta"}, "lacks 'rope_theta'"),
        (Config5B, {**RAW_5B, "cross_attn_norm": False}, "cross_attn_norm is False"),
        (Config5B, RAW_8B, "describes another network than WorldPlay 5B .qk_norm"),
        (Config8B, RAW_5B, "describes another network than WorldPlay 8B .patch_size"),
        (Config8B, {**RAW_8B, "hidden_size": 26}, "must make the width 26"),
        (Config5B, {**RAW_5B, "patch_size": [2, 2, 2]}, "one latent in time"),
        (Config5B, [1], "holds no object"),
    ],
)
def test_configurations_of_other_networks_are_refused(config, raw, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(UserError, match=message):
        config.from_json(tmp_path / "config.json")


def test_a_missing_configuration_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a readable config"):
        Config8B.from_json(tmp_path / "config.json")


@pytest.mark.parametrize("file", [FILE_NAME, "model.pt"])
def test_weights_that_are_not_finite_are_refused(file, tmp_path):
    net = random_network("8b")
    name, weight = next(iter(net.named_parameters()))
    with torch.no_grad():
        weight.view(-1)[0] = torch.inf
    export_weights(net, tmp_path / file)
    with pytest.raises(UserError, match="holds weights that are not finite") as refused:
        LOAD["8b"](tmp_path)
    assert f"({name})" in str(refused.value)
