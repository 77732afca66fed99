"""Waypoint's files: official names and sizes, tied matrices, configurations, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from waypoint_tiny import CONFIG, random_network

from worldcompass.errors import UserError
from worldcompass.worlds.open.weights import shapes_of
from worldcompass.worlds.waypoint.autoencoder import Autoencoder
from worldcompass.worlds.waypoint.config import CoderConfig, WaypointConfig
from worldcompass.worlds.waypoint.transformer import WaypointTransformer
from worldcompass.worlds.waypoint.weights import (
    export_waypoint,
    load_coder,
    load_waypoint,
    official_shapes,
    read_shapes,
    unfused,
)

# Waypoint-1-Small's config.yaml, as far as it is known.
RELEASED = {
    "d_model": 2560, "n_layers": 22, "mlp_ratio": 5, "n_heads": 40, "n_kv_heads": 20, "channels": 16,
    "height": 16, "width": 16, "patch": [2, 2], "tokens_per_frame": 256, "n_frames": 4096, "local_window": 16,
    "global_window": 128, "global_attn_period": 4, "global_attn_offset": 0, "global_pinned_dilation": 8,
    "gated_attn": True, "value_residual": False, "noise_conditioning": "wan", "ctrl_conditioning": "mlp_fusion",
    "ctrl_conditioning_period": 3, "n_buttons": 256, "prompt_conditioning": "cross_attention",
    "prompt_conditioning_period": 3, "prompt_embedding_dim": 2048, "causal": True, "rope_impl": "ortho",
    "base_fps": 60, "scheduler_sigmas": [1, 0.8609585762, 0.7293324471, 0.3205108941, 0],
}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The tiny network's file in the official form."""
    path = tmp_path_factory.mktemp("waypoint") / "model.safetensors"
    export_waypoint(random_network(), path)
    return path


def blank(config=CONFIG):
    with torch.device("meta"):
        return WaypointTransformer(config)


def test_the_real_network_has_its_official_size():
    net = blank(WaypointConfig.from_keys(RELEASED))
    assert net.config == WaypointConfig()
    assert sum(p.numel() for p in net.parameters()) == 2_303_004_096
    shapes = official_shapes(net)
    assert len(shapes) == 366
    assert round(sum(math.prod(shape) for shape in shapes.values()) / 1e9, 2) == 3.13


def test_the_real_autoencoder_has_its_official_size():
    with torch.device("meta"):
        net = Autoencoder()
    sizes = [sum(p.numel() for p in half.parameters()) for half in (net.encoder, net.decoder)]
    assert [round(size / 1e6, 1) for size in sizes] == [1.4, 69.5]
    variance = 3  # tensors of a head that nothing reads
    assert len(unfused(shapes_of(net.encoder))) + len(unfused(shapes_of(net.decoder))) + variance == 117


def test_an_exported_file_holds_every_copy_and_loads_back(file):
    tensors = load_file(file)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == official_shapes(blank())
    copies = [tensors[f"transformer.blocks.{i}.cond_head.cond_proj.2.weight"] for i in range(3)]
    assert all(torch.equal(copy, copies[0]) for copy in copies)
    assert tensors["transformer.blocks.1.attn.v_lamb"].shape == ()
    net = blank()
    load_waypoint(net, file, torch.float32)
    own = random_network().state_dict()
    assert all(torch.equal(t, own[name]) for name, t in net.state_dict().items())
    tied = {name for name, p in net.named_parameters(remove_duplicate=False) if "cond_proj" in name}
    assert len(tied) == 6


def test_a_folder_is_read_by_its_file(file):
    load_waypoint(blank(), file.parent, torch.bfloat16)


@pytest.mark.parametrize("kind", ["dit_air", "plain"])
def test_other_kinds_of_noise_conditioning_have_their_own_tensors(kind):
    shapes = official_shapes(blank(replace(CONFIG, noise_conditioning=kind)))
    assert not [name for name in shapes if name.endswith("bias_in")]
    assert len([name for name in shapes if "cond_proj" in name]) == 18


def test_copies_of_a_tied_matrix_that_differ_are_refused(file, tmp_path):
    """As of a training that did not tie them: any choice would be another network."""
    tensors = load_file(file)
    tensors["transformer.blocks.2.cond_head.cond_proj.5.weight"] += 1e-3
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(
        UserError, match=r"no checkpoint with tied matrices: transformer.blocks.2.*cond_proj.5"
    ):
        load_waypoint(blank(), tmp_path, torch.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gated": False}, "gate_proj.weight is .2, 2., expected no such tensor"),
        ({"value_residual": False}, r"v_lamb is \(\), expected no such tensor"),
        ({"prompt_width": None}, "prompt_cfg.null_emb"),
        ({"control_period": 1}, "blocks.1.ctrl_mlpfusion.mlp.fc1.weight is missing"),
        ({"num_layers": 4}, "transformer.blocks.3"),
        ({"noise_conditioning": "dit_air"}, "bias_in is .64,., expected no such tensor"),
    ],
)
def test_a_checkpoint_with_other_blocks_or_options_is_refused(file, change, words):
    with pytest.raises(UserError, match=words):
        load_waypoint(blank(replace(CONFIG, **change)), file, torch.float32)


def test_missing_and_damaged_files_are_refused(file, tmp_path):
    with pytest.raises(UserError, match="no weights at"):
        load_waypoint(blank(), tmp_path, torch.float32)
    (tmp_path / "model.safetensors").write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UserError, match="damaged"):
        load_waypoint(blank(), tmp_path, torch.float32)


class TestConfiguration:
    @pytest.fixture(autouse=True)
    def yaml(self):
        self.yaml = pytest.importorskip("yaml")

    def written(self, folder, raw, name="config.yaml"):
        path = folder / name
        path.write_text(self.yaml.safe_dump(raw))
        return path

    def test_options_that_are_missing_are_off(self, tmp_path):
        short = {k: v for k, v in RELEASED.items() if k not in ("n_kv_heads", "gated_attn", "value_residual")}
        short["prompt_conditioning"] = None
        found = WaypointConfig.from_yaml(self.written(tmp_path, short))
        assert (found.num_kv_heads, found.gated, found.value_residual, found.prompt_width) == (
            40,
            False,
            False,
            None,
        )
        assert not [
            name
            for name in official_shapes(blank(replace(found, width=1280, num_layers=1)))
            if "prompt" in name
        ]

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"d_model": None}, "describes another network"),
            ({"rope_impl": "other"}, "rope_impl is 'other' instead of 'ortho'"),
            ({"causal": False}, "causal is False instead of True"),
            ({"prompt_conditioning": "prefix"}, "prompt_conditioning is 'prefix'"),
            ({"tokens_per_frame": 128}, "tokens_per_frame is 128"),
            ({"global_window": 100}, "global_window 100 is no multiple of its dilation 8"),
            ({"n_heads": 160}, "a head has 16 dimensions"),
        ],
    )  # fmt: skip
    def test_another_architecture_is_refused(self, change, words, tmp_path):
        with pytest.raises(UserError, match=words):
            WaypointConfig.from_yaml(self.written(tmp_path, {**RELEASED, **change}))

    def test_a_configuration_of_another_model_is_refused(self, tmp_path):
        with pytest.raises(UserError, match="lacks 'height'"):
            WaypointConfig.from_yaml(self.written(tmp_path, {"hidden_size": 2048}))
        with pytest.raises(UserError, match="holds no table"):
            WaypointConfig.from_yaml(self.written(tmp_path, [1, 2]))
        with pytest.raises(UserError, match="no readable configuration"):
            WaypointConfig.from_yaml(tmp_path / "nothing.yaml")
        (tmp_path / "run.yaml").write_text("a: !!python/object/apply:os.getcwd []")
        with pytest.raises(UserError, match="no readable configuration"):
            WaypointConfig.from_yaml(tmp_path / "run.yaml")

    def test_the_autoencoder_reads_both_halves_and_ignores_its_head_of_variance(self, tmp_path):
        raw = {"channels": 4, "latent_channels": 2, "ch_0": 8, "ch_max": 16, "skip_logvar": False}
        raw |= {"encoder_blocks_per_stage": [1], "decoder_blocks_per_stage": [2]}
        self.written(tmp_path, {"model": raw}, "encoder_conf.yml")
        self.written(tmp_path, {"model": {**raw, "ch_0": 16, "channels": 3}}, "decoder_conf.yml")
        configs = CoderConfig(4, 2, 8, 16, (1,)), CoderConfig(3, 2, 16, 16, (2,))
        net = Autoencoder(*configs)
        for half, name in ((net.encoder, "encoder"), (net.decoder, "decoder")):
            tensors = {k: torch.randn(shape) for k, shape in unfused(shapes_of(half)).items()}
            save_file({**tensors, "conv_out_logvar.bias": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
            assert read_shapes(tmp_path / f"{name}.safetensors") == unfused(shapes_of(half))
        found = load_coder(tmp_path)
        assert (found.net.encoder.config, found.net.decoder.config) == configs
        save_file({"conv_in.proj.bias": torch.zeros(3)}, tmp_path / "decoder.safetensors")
        with pytest.raises(UserError, match="belongs to another network"):
            load_coder(tmp_path)
