"""The WorldPlay recipes: the paper's settings, the smoke run, resuming, exports, and the prepared dataset."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recorded import record
from safetensors.torch import load_file
from worldplay_tiny import prepare, random_network, write_vae

from worldcompass import cli
from worldcompass.doctor import read_record
from worldcompass.doctor.looks_checks import looks_spoil
from worldcompass.errors import UserError
from worldcompass.recipes import worldplay_5b, worldplay_8b
from worldcompass.recipes.load import load_recipe
from worldcompass.recipes.overrides import override
from worldcompass.runs.folder import RunFolder
from worldcompass.training.advantages import all_groups
from worldcompass.training.lora import Lora
from worldcompass.training.objective import nft_loss
from worldcompass.training.optim import adamw, muon
from worldcompass.worlds.open.weights import FILE_NAME, GENERATOR_FILE, export_weights, file_in
from worldcompass.worlds.worldplay.config import Config5B, Config8B
from worldcompass.worlds.worldplay.pose_files import write_poses
from worldcompass.worlds.worldplay.sources import OfficialFiles, StandIns
from worldcompass.worlds.worldplay.tiny import TINY_5B, TINY_8B
from worldcompass.worlds.worldplay.trajectories import along_path, random_trajectory
from worldcompass.worlds.worldplay.weights import load_5b, load_8b
from worldcompass.worlds.worldplay.world import LORA_TARGETS_5B, LORA_TARGETS_8B

SMOKE = {"8b": worldplay_8b.smoke, "5b": worldplay_5b.smoke}
LORA_TARGETS = {"8b": LORA_TARGETS_8B, "5b": LORA_TARGETS_5B}


def unfilmed(kind):
    """The smoke recipe without the films that take most of its time."""
    recipe = SMOKE[kind]()
    return replace(recipe, config=recipe.config.changed(probe_every=0))


@pytest.mark.parametrize("module", [worldplay_8b, worldplay_5b])
def test_the_settings_are_the_papers(module):
    recipe, adapters = getattr(module, module.__name__.rpartition(".")[2])(), module.lora()
    config = recipe.config
    assert (config.sampling.group_size, config.learning.best, config.learning.worst) == (12, 3, 3)
    # The released 5B is distilled to four steps, on which it alone may be asked.
    steps = {"worldplay_8b": (40, 20), "worldplay_5b": (4, 4)}[module.__name__.rpartition(".")[2]]
    assert (config.sampling.denoising_steps, config.learning.noise_levels) == steps
    assert (config.sampling.first_chunk, config.sampling.last_chunk) == (0, 15)
    # The released threshold is of a sum over levels, divided by 2 candidates; ours is of the mean over all rows.
    rows = 6 * config.learning.noise_levels / config.learning.updates_per_rollout
    assert config.optimiser.max_grad_norm * rows / 2 == pytest.approx(2.0)
    assert config.rewards.weights == {"interaction": 2.0, "quality": 1.0}
    assert [config.optimiser.behaviour_decay.at(k) for k in (0, 70, 100)] == [0.2, 0.9, 0.9]
    assert (
        config.optimiser.checkpoint_decay,
        config.optimiser.lr,
        config.rewards.advantage_clip,
        config.learning.beta,
    ) == (0.9, 1e-5, 2.0, 1.0)
    assert (config.learning.objective, config.optimiser.make_optimizer, config.learning.kl_weight) == (
        nft_loss,
        muon,
        0.0,
    )
    assert (
        config.rewards.scale,
        config.sampling.explore,
        config.learning.mean_weight,
        config.rewards.reward_clip,
    ) == (
        all_groups,
        0.0,
        0.0,
        None,
    )
    assert (config.optimiser.lora, recipe.network) == (
        None,
        Config8B() if module is worldplay_8b else Config5B(),
    )
    assert adapters.config.optimiser.lora is not None and adapters.config.optimiser.make_optimizer is adamw
    assert adapters.config.sampling.prompts_per_step == 1


def test_whole_timesteps_are_a_setting():
    recipe, sigma = SMOKE["8b"](), torch.tensor([0.7777])
    for change, told in (("whole_timesteps=false", 777.7), ("whole_timesteps=true", 777.0)):
        world = override(recipe, [change]).world(lambda net: None, recipe.source.decoder("cpu"))
        assert world.timestep_of(sigma).item() == pytest.approx(told)


@pytest.mark.parametrize("kind", SMOKE)
def test_the_smoke_run_trains_and_exports_the_official_format(kind, tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(["train", f"worldplay_{kind}:smoke", "--device", "cpu", "--out", str(out)]) == 0
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [step["chunk"] for step in steps] == [0, 1]
    assert all(step["applied"] == 1 for step in steps)
    assert all(step["rewards"][name]["std"] > 0 for step in steps for name in ("interaction", "quality"))
    load = load_8b if kind == "8b" else load_5b
    net = load(out / "weights", TINY_8B if kind == "8b" else TINY_5B, torch.float32)
    saved = load_file(out / "checkpoints" / "step_000002" / "tensors.safetensors")
    shipped = {n: p for n, p in net.named_parameters() if f"policy/checkpoint/{n}" in saved}
    assert shipped and all(torch.equal(p, saved[f"policy/checkpoint/{n}"]) for n, p in shipped.items())
    file = file_in(out / "weights")
    assert file.name == (FILE_NAME if kind == "8b" else GENERATOR_FILE)  # as the official inference wants it
    file.unlink()
    words = [
        "--set",
        "config.steps=1",
        "--out",
        str(out),
    ]  # no step more: only the files, as of a run that was stopped
    assert cli.main(["train", f"worldplay_{kind}:smoke", "--device", "cpu", *words]) == 0
    again = load(out / "weights", TINY_8B if kind == "8b" else TINY_5B, torch.float32)
    assert all(torch.equal(p, net.get_parameter(n)) for n, p in again.named_parameters())
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    assert list(RunFolder(out).clips()) == [1, 2], "filmed during training, as in the released trainer"
    assert [row.judge for row in read_record(out).rows] == [None, None]


def test_the_benchmark_of_what_it_saves_runs(monkeypatch, capsys):
    """The benchmark of the real size on CUDA, here at the smoke size; each row first compares both ways."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    benchmark = importlib.import_module("worldplay")
    benchmark.run(benchmark.NETWORKS["cpu"][0], 2, 1, "cpu")
    told = capsys.readouterr().out
    for row in ("one batch", "past attended", "text read once", "text frozen", "prefix of 20", "with LoRA"):
        assert row in told


def test_a_resumed_run_has_lost_neither_blocks_nor_momentum(tmp_path):
    """The released checkpoints lack every block with recomputed activations, and always lack Muon's momentum."""
    recipe = unfilmed("8b")
    assert recipe.recompute
    recipe.run(tmp_path / "whole", "cpu", resume=False)
    first = replace(recipe, config=recipe.config.changed(steps=1))
    first.run(tmp_path / "halves", "cpu", resume=False)
    recipe.run(tmp_path / "halves", "cpu", resume=True)
    whole, halves = (
        load_file(tmp_path / name / "checkpoints" / "step_000002" / "tensors.safetensors")
        for name in ("whole", "halves")
    )
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    for part in ("live", "behaviour", "checkpoint", "reference"):
        assert f"policy/{part}/double_blocks.1.img_attn_q.weight" in whole
    momentum = [name for name in whole if name.startswith("optimizer/") and name.endswith("momentum")]
    matrices = [n for n, t in whole.items() if n.startswith("policy/live/") and t.ndim >= 2]
    assert len(momentum) == len(matrices)


@pytest.mark.parametrize("kind", SMOKE)
def test_adapters_are_handed_back_alone_and_merged(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "worldcompass.training.preflight.computes_bf16", lambda device: True
    )  # slow elsewhere, not wrong
    recipe = unfilmed(kind)
    lora = Lora(rank=2, targets=LORA_TARGETS[kind])
    config = recipe.config.changed(steps=1, lora=lora, autocast_bf16=True)
    replace(recipe, config=config, half_weights=True).run(tmp_path, "cpu", resume=False)
    adapters = load_file(tmp_path / "weights" / "adapter" / "adapter_model.safetensors")
    assert {t.dtype for t in adapters.values()} == {torch.float32}
    assert any(bool(t.any()) for n, t in adapters.items() if "lora_B" in n)
    file = file_in(tmp_path / "weights")
    merged = load_file(file) if kind == "8b" else torch.load(file, weights_only=True)["generator"]
    assert {t.dtype for t in merged.values()} == {torch.bfloat16}
    load, tiny = (load_8b, TINY_8B) if kind == "8b" else (load_5b, TINY_5B)
    assert load(tmp_path / "weights", tiny).state_dict().keys() == merged.keys()


def test_only_what_is_trained_is_kept_in_float32():
    recipe = replace(SMOKE["8b"](), half_weights=True)
    world = recipe.world(lambda net: net.to_empty(device="cpu"), recipe.source.decoder("cpu"))
    assert {(p.requires_grad, p.dtype) for p in world.net.parameters()} == {
        (True, torch.float32),
        (False, torch.bfloat16),
    }


def load_scenarios(files, num_latents=8):
    return files.scenarios(TINY_8B, (6, 8), num_latents, seed=0)


def test_prepared_images_become_scenarios_that_train(tmp_path):
    files = OfficialFiles(tmp_path, prepare(tmp_path / "data"), trajectories_per_image=2)
    (tmp_path / "data" / ".unfinished_c.safetensors").write_bytes(b"half")  # what a killed process leaves
    found = load_scenarios(files, 32)
    assert [s.id for s in found] == ["a", "a/1", "b", "b/1"]
    assert [s.caption for s in found] == ["a", "a", "b", "b"]
    assert len({tuple(s.actions.labels_K.tolist()) for s in found}) == 4
    expected = load_file(tmp_path / "data" / "a.safetensors")
    assert found[0].conditioning.keys() == expected.keys()
    assert all(torch.equal(found[0].conditioning[key], value) for key, value in expected.items())
    world = SMOKE["8b"]().world(lambda net: net.to_empty(device="cpu"), SMOKE["8b"]().source.decoder("cpu"))
    assert world.begin(found).num_pasts == 4


def test_the_decoder_may_be_bfloat16(tmp_path):
    write_vae("8b", tmp_path / "vae")
    for half, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        files = OfficialFiles(tmp_path, tmp_path, half_decoder=half)
        for decoder in (files.decoder("cpu"), files.blank_decoder(Config8B())):
            assert {p.dtype for p in decoder.net.parameters()} == {dtype}


def test_another_autoencoders_configuration_is_refused_before_loading(tmp_path):
    write_vae("5b", tmp_path / "vae")
    recipe = replace(worldplay_8b.lora(), source=OfficialFiles(tmp_path, tmp_path))
    with pytest.raises(UserError, match=r"config\.json describes another network than HunyuanVideo-1\.5's"):
        recipe.needs()
    write_vae("8b", tmp_path / "vae")
    found = recipe.source.blank_decoder(recipe.network).net.state_dict()
    assert {n: t.shape for n, t in found.items()} == {
        n: t.shape for n, t in load_file(tmp_path / "vae" / FILE_NAME).items()
    }


def test_a_checkpoint_of_the_other_model_is_refused_before_loading(tmp_path, capsys):
    """From the shell: one sentence with the expected value, the given one and a remedy, and no run."""
    export_weights(random_network("5b"), tmp_path / "transformer" / FILE_NAME)
    write_vae("8b", tmp_path / "vae")
    prepare(tmp_path / "data")
    words = [
        "train", "worldplay_8b:lora", "--device", "cpu", "--out", str(tmp_path / "run"),
        "--set", f"source.checkpoints={tmp_path}", "--set", f"source.data={tmp_path / 'data'}",
        "--set", "rewards.cameras=odometry", "--set", "rewards.quality=formulas",
    ]  # fmt: skip
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "is not WorldPlay's transformer as this recipe needs it: action_in.mlp.0.bias is missing" in said
    assert "more: give the file of this model" in said and said.count("\n") == 1
    file = tmp_path / "transformer" / FILE_NAME
    file.write_bytes(file.read_bytes()[:-1])
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "is damaged or no safetensors file" in said and "fetch it again" in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_pose_files_are_dealt_out_in_order(tmp_path):
    data, poses = prepare(tmp_path / "data"), tmp_path / "poses"
    for i in range(2):
        write_poses(random_trajectory(12, (9, i)), poses / f"{i}.json")
    found = load_scenarios(OfficialFiles(tmp_path, data, poses))
    for i, scenario in enumerate(found):
        assert torch.equal(scenario.actions.labels_K, random_trajectory(12, (9, i)).labels_K[:8])
    (poses / ".unfinished_9.json").write_text("{")  # what a killed process leaves
    with pytest.raises(UserError, match="holds 2 trajectories, 4 scenarios need one each: make more"):
        load_scenarios(OfficialFiles(tmp_path, data, poses, trajectories_per_image=2))
    listed = tmp_path / "listed.json"
    listed.write_text(json.dumps([json.loads((poses / f"{i}.json").read_text()) for i in (0, 1, 0)]))
    again = load_scenarios(OfficialFiles(tmp_path, data, listed))
    assert all(torch.equal(a.actions.labels_K, b.actions.labels_K) for a, b in zip(found, again, strict=True))
    with pytest.raises(
        UserError, match="holds 12 poses, the last clip of the curriculum needs 16: make longer"
    ):
        load_scenarios(OfficialFiles(tmp_path, data, poses), 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_mask": None}, "text_mask is missing, expected .*: make it with 'worldcompass prepare'"),
        ({"size": (4, 4)}, r"latent is \(3, 4, 4\), expected \(3, 6, 8\)"),
        ({"vision_states": torch.zeros(3, 7)}, r"vision_states is \(3, 7\), expected \(any, 6\)"),
        ({"byt5_mask": torch.ones(3)}, "4 byt5_states but a mask of 3"),
    ],
)
def test_datasets_of_another_form_are_refused(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load_scenarios(OfficialFiles(tmp_path, prepare(tmp_path / "data", **changes)))


def test_numbers_of_a_dataset_are_checked_when_they_are_read(tmp_path):
    latent = torch.full((3, 6, 8), torch.nan)
    (first, _) = load_scenarios(OfficialFiles(tmp_path, prepare(tmp_path / "data", latent=latent)))
    assert first.conditioning["text_states"].shape == (8, TINY_8B.text_width)
    with pytest.raises(UserError, match=r"a.safetensors: latent is not finite: prepare this image again"):
        first.conditioning["latent"]


def test_missing_and_damaged_datasets_are_refused(tmp_path):
    with pytest.raises(UserError, match="no prepared images in"):
        load_scenarios(OfficialFiles(tmp_path, tmp_path))
    (prepare(tmp_path / "data") / "a.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="is damaged"):
        load_scenarios(OfficialFiles(tmp_path, tmp_path / "data"))
    with pytest.raises(UserError, match="there is no motion 'fly'"):
        load_scenarios(OfficialFiles(tmp_path, prepare(tmp_path / "other"), mix="fly=1"))


def test_images_prepared_for_another_size_are_refused_by_the_real_recipe(tmp_path):
    recipe = load_recipe("worldplay_8b:lora")()
    files = replace(recipe.source, data=prepare(tmp_path / "data"))
    with pytest.raises(UserError, match=r"latent is \(3, 6, 8\), expected \(32, 30, 52\)"):
        replace(recipe, source=files).scenarios()


def test_the_5b_is_called_on_the_four_steps_that_it_was_distilled_to():
    world = worldplay_5b.worldplay_5b().blank()
    assert (world.spec.fps, len(world.spec.sigmas()) - 1) == (16.0, 4)
    timesteps = 1000 * world.spec.sigmas()[:-1]
    assert timesteps.tolist() == pytest.approx([1000, 960, 888.8889, 727.2728], abs=1e-3)


@pytest.mark.parametrize("kind", ["8b", "5b"])
def test_files_are_found_where_the_official_download_puts_them(kind, tmp_path):
    """``ar_model`` of the 8B; of the 5B the only file with actions, a ``.pt`` with its weights under a key."""
    recipe = worldplay_8b.worldplay_8b() if kind == "8b" else worldplay_5b.worldplay_5b()
    source = replace(recipe.source, checkpoints=tmp_path)
    place = tmp_path / {"8b": f"ar_model/{FILE_NAME}", "5b": f"wan_distilled_model/{GENERATOR_FILE}"}[kind]
    assert source.files({}, {})[0].path == place
    net = random_network(kind)
    export_weights(net, place)
    if kind == "5b":
        assert torch.load(place, weights_only=True)["generator"].keys() == net.state_dict().keys()
    other = random_network(kind)
    torch.nn.init.zeros_(next(other.parameters()))
    source.fill(other, torch.float32, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), net.parameters(), strict=True))
    rival = replace(source, transformer=tmp_path / "ar_rl_model")
    assert rival.files({}, {})[0].path == tmp_path / "ar_rl_model" / FILE_NAME
    export_weights(net, tmp_path / "transformer" / FILE_NAME)
    assert source.files({}, {})[0].path == tmp_path / "transformer" / FILE_NAME


def test_a_run_on_recordings_logs_its_looks_against_them_on_both_sides(tmp_path):
    """The doctor's disease of looks is measured, and what asks for the truth takes no part in the training."""
    folder = record(tmp_path / "recordings", count=4, frames=29, path="w-7")
    recipe = replace(unfilmed("8b"), recordings=folder)
    recipe.run(tmp_path / "run", "cpu", resume=False)
    record_of_run = read_record(tmp_path / "run")
    for row in record_of_run.rows:
        assert row.rewards["steadiness"].weight == 0 and row.rewards["steadiness"].valid == 1
        two_sided = (row.pictures.true_detail, row.pictures.true_contrast, row.pictures.true_saturation)
        assert None not in two_sided and max(map(abs, two_sided)) > 0.1  # random weights show no textures
    assert looks_spoil(record_of_run) == []
    far = [
        replace(row, step=i, pictures=replace(row.pictures, true_detail=0.05 * i))
        for i, row in enumerate(record_of_run.rows * 20)
    ]
    (found,) = looks_spoil(replace(record_of_run, rows=far))
    assert found.name == "looks spoil" and "detail" in found.evidence
    with pytest.raises(UserError, match="holds 8 latents, 12 are needed"):
        replace(recipe, config=recipe.config.changed(last_chunk=2)).scenarios()


@pytest.mark.parametrize("kind", ["8b", "5b"])
def test_films_during_training_show_other_paths_and_all_of_the_curriculum(kind):
    recipe = SMOKE[kind]()
    looks = replace(recipe, config=recipe.config.changed(last_chunk=15, denoising_steps=40)).looks(())
    assert {len(s.actions) for s in looks.scenarios} == {32} and looks.num_steps == 20
    training = {s.id: s.actions.cameras.labels_K for s in recipe.scenarios()}
    assert not any(torch.equal(training[s.id], s.actions.cameras.labels_K[:8]) for s in looks.scenarios)
    assert worldplay_8b.worldplay_8b().config.keeping.probe_every == 6


def test_bfloat16_weights_need_autocast():
    """Else the first product ends in a traceback about types."""
    recipe = replace(SMOKE["8b"](), half_weights=True)
    for check in (recipe.check, recipe.check_world, recipe.needs):
        with pytest.raises(
            UserError, match=r"needs config.autocast_bf16=true: set that, or half_weights=false"
        ):
            check()
    replace(recipe, config=recipe.config.changed(autocast_bf16=True)).check_world()


def test_a_run_prints_how_its_poses_are_read(tmp_path):
    for i, path in enumerate(("w-3, right-4", "s-7", "a-7", "d-7")):
        write_poses(along_path(path), tmp_path / "poses" / f"{i}.json")
    notes = OfficialFiles(tmp_path, tmp_path, poses=tmp_path / "poses").notes()
    assert notes[0] == "trajectories as they are read:" and "camera-to-world poses" in notes[-1]
    assert [line.rpartition(": ")[2] for line in notes[1:-1]] == ["w-3, right-4", "s-7", "a-7"]
    assert OfficialFiles(tmp_path, tmp_path).notes() == StandIns().notes() == ()
    recipe = replace(SMOKE["8b"](), source=NotedStandIns())
    assert recipe.needs().notes == NotedStandIns().notes()


class NotedStandIns(StandIns):
    def notes(self):
        return ("as they are read",)


def test_training_prints_the_notes_of_its_source(tmp_path, capsys):
    recipe = replace(SMOKE["8b"](), source=NotedStandIns())
    config = recipe.config.changed(steps=1, probe_every=0)
    replace(recipe, config=config).run(tmp_path / "run", "cpu", resume=False)
    assert "as they are read\n" in capsys.readouterr().out
