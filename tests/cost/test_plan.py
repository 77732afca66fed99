"""The plan of a run: the estimate against the measured peak, its sums, and the check of files."""

import dataclasses
import gc
import json
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import is_fake

from worldcompass import cli
from worldcompass.commands import plan as command
from worldcompass.cost import plan
from worldcompass.cost.plan import Plan, States, largest_micro_batch, make_plan, measure_states
from worldcompass.cost.trace import Job, LiveBytes, Traced, trace, trace_without_data
from worldcompass.cost.work import Work, count, step_work
from worldcompass.recipes import waypoint, worldplay_5b, worldplay_8b
from worldcompass.rollout import RolloutRequest, imagine_groups
from worldcompass.runs.requirements import NeededFile, NeededModule, differences, header, missing
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.loop import train
from worldcompass.training.selection import Learning, choose, share_out
from worldcompass.types import Scores
from worldcompass.worlds.open.tiny import Blend
from worldcompass.worlds.open.weights import FILE_NAME
from worldcompass.worlds.worldplay.sources import OfficialFiles, StandIns

TOLERANCE = 0.03  # of the measured peak of live tensors; found: 0.5%


def heavy_update(recipe):
    """The update takes most: big micro-batches, tiny frames."""
    config = recipe.config.changed(steps=2, micro_rows=24, noise_levels=3, updates_per_rollout=1)
    source = dataclasses.replace(recipe.source, pixels_per_cell=1)
    return dataclasses.replace(recipe, config=config, source=source)


class Corner:
    """A critic with negligible memory, as a plan does not measure critics."""

    def __init__(self, name):
        self.name = name

    def __call__(self, group):
        values = group.frames_GF3hw[:, -1, :, 0, 0].float().mean(1)
        return Scores(values, torch.ones_like(values, dtype=torch.bool))


def measured_peak(recipe, folder):
    """Peak of live tensors over world, averages, optimiser and two training steps."""
    scenarios, critics = recipe.scenarios(), [Corner(name) for name in recipe.config.rewards.weights]
    gc.collect()
    with LiveBytes() as live:
        fill = partial(recipe.source.fill, dtype=torch.float32, device="cpu")
        train(
            recipe.world(fill, recipe.source.decoder("cpu")),
            critics,
            scenarios,
            recipe.config.changed(probe_every=0),  # probes draw pictures on the CPU
            folder,
            live=False,
        )
    return live.peak


def trace_with_data(world, modules, job):
    """As ``trace_without_data``, several times faster at this size."""
    for module in modules:
        module.to_empty(device="cpu")
    return trace(world, job)


def test_the_estimate_is_near_the_measured_peak_of_an_update(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "trace_without_data", trace_with_data)
    recipe = heavy_update(worldplay_8b.smoke())
    estimate = make_plan(recipe.needs(), on_cuda=False)
    assert max(estimate.phases, key=estimate.phases.__getitem__) == "update"
    assert estimate.peak == pytest.approx(measured_peak(recipe, tmp_path), rel=TOLERANCE)


class Roomy(Blend):
    """A decoder that needs much memory while it runs, like the real ones."""

    def decode(self, latents_BCKHW, memory):
        torch.zeros(1 << 21)
        return super().decode(latents_BCKHW, memory)


class RoomyStandIns(StandIns):
    def decoder(self, device):
        return Roomy(self.pixels_per_cell)

    def blank_decoder(self, network):
        return Roomy(self.pixels_per_cell)


def test_the_estimate_is_near_the_measured_peak_of_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "trace_without_data", trace_with_data)
    recipe = dataclasses.replace(worldplay_5b.smoke(), source=RoomyStandIns())
    estimate = make_plan(recipe.needs(), on_cuda=False)
    assert max(estimate.phases, key=estimate.phases.__getitem__) == "decode"
    assert estimate.peak == pytest.approx(measured_peak(recipe, tmp_path), rel=TOLERANCE)


@pytest.mark.parametrize("on_cuda", [False, True])
def test_traces_with_and_without_data_agree_and_every_block_adds_the_same(on_cuda):
    needs = worldplay_8b.smoke().needs()
    job = Job(needs.begin, num_chunks=1, pasts=1, candidates=2, micro_rows=2, on_cuda=on_cuda)
    two, three, five = (trace_with_data(*needs.world_of_depth(depth), job) for depth in (2, 3, 5))
    assert two.extended(three, 3) == five
    assert trace_without_data(*needs.world_of_depth(2), job) == two


def test_an_update_is_traced_as_one_that_adds_to_gradients():
    """As most micro-batches do; when a first one makes them, fewer bytes are alive at its peak."""
    needs = worldplay_8b.smoke().needs()
    world, modules = needs.world_of_depth(2)
    job = Job(needs.begin, 0, 1, 1, 1, on_cuda=False, decodes=False)
    first = trace_with_data(world, modules, job)
    assert all(p.grad is not None for p in world.net.parameters() if p.requires_grad)
    assert trace(world, job) == first


def test_live_bytes_counts_storages_once_and_while_they_live():
    before = torch.zeros(1000)
    with LiveBytes() as live:
        a = torch.zeros(100)
        b = a.view(10, 10).mT
        before.view(10, 100).mul_(2)
        assert (live.now, live.peak) == (400, 400)
        c = a + 1
        assert live.now == 800
        del a, c
        assert (live.now, live.peak) == (400, 800)
        assert live.above() == 400 and live.above() == 0
        del b
        assert live.now == 0
        made = torch._foreach_add([before, before], 1)  # which returns a list
        assert live.now == 8000 and len(made) == 2


def test_states_are_those_of_policy_and_optimiser():
    recipe = worldplay_8b.smoke()
    needs = recipe.needs()
    states = measure_states(needs)
    trained = [p for p in needs.net.parameters() if p.requires_grad]
    matrices = sum(p.nbytes for p in trained if p.ndim >= 2)
    vectors = [p for p in trained if p.ndim < 2]
    assert states.gradients == states.swap == sum(p.nbytes for p in trained)
    assert states.averages == 3 * states.gradients
    assert states.optimizer == matrices + sum(2 * p.nbytes + 4 for p in vectors)
    assert states.trainable < states.parameters == sum(p.numel() for p in needs.net.parameters())
    assert all(p.device.type == "meta" for p in needs.net.parameters())


STATES = States(
    8,
    4,
    weights=800,
    other=50,
    averages=600,
    swap=200,
    gradients=200,
    optimizer=400,
    optimizer_step=40,
    unit=10,
    unit_gradients=3,
    outside=2,
)
TRACED = Traced(prefix=1000, attend=100, imagine=300, decode=200, update=500)


def test_sharding_divides_states_and_not_activations():
    one, four = (Plan(gpus, 1, STATES, TRACED, past_frames=7, futures=9) for gpus in (1, 4))
    held = 800 + 600 + 400 + 50 + 1000 + 7
    assert one.phases == {
        "attend": held + 200 + 100,
        "imagine": held + 200 + 300,
        "decode": held + 200 + 200,
        "update": held + 9 + 200 + 500,
        "optimiser step": held + 9 + 200 + 40,
    }
    whole_at_once = plan.GATHERED * 10 + 2
    assert four.phases["imagine"] == 450 + 50 + 1000 + 7 + whole_at_once + 50 + 300
    assert four.phases["update"] == 450 + 50 + 1000 + 7 + whole_at_once + plan.REDUCED * 3 + 9 + 50 + 500
    assert four.phases["optimiser step"] == 450 + 50 + 1000 + 7 + 9 + 50 + 40  # matrices are whole on each
    whole = dataclasses.replace(four, sharded=False)
    assert whole.phases == one.phases
    assert one.peak == one.phases["update"]
    assert not one.fits(one.peak) and one.fits(one.peak * 1.1 + plan.CONTEXT_BYTES + 1)
    assert not four.fits(four.peak * 1.1 + plan.CONTEXT_BYTES + 1)  # several GPUs have NCCL's buffers, too
    assert four.fits(four.peak * 1.1 + plan.CONTEXT_BYTES + plan.NCCL_BYTES + 1)


def test_a_plan_has_the_types_of_cuda_and_weights_as_they_are_gathered(monkeypatch):
    """Float32 unless the recipe gathers bfloat16: else autocast's casts of the weights would be missing."""
    seen = []

    def look(world, modules, job):
        seen.append((job.on_cuda, next(p for p in world.net.parameters() if p.requires_grad).dtype))
        return TRACED

    monkeypatch.setattr(plan, "trace_without_data", look)
    recipe = worldplay_8b.smoke()
    for narrow in (False, True):
        config = recipe.config.changed(shard=True, gather_bf16=narrow, autocast_bf16=True)
        make_plan(dataclasses.replace(recipe, config=config).needs(), 8)
    assert seen == [(True, torch.float32)] * 2 + [(True, torch.bfloat16)] * 2


@pytest.mark.parametrize(("prompts", "micro", "updates"), [(2, 4, 1), (2, 100, 1), (2, 1, 2), (1, 3, 3)])
def test_the_largest_micro_batch_is_the_one_that_is_dealt_out(prompts, micro, updates):
    recipe = worldplay_5b.smoke()
    config = recipe.config.changed(
        prompts_per_step=prompts, micro_rows=micro, updates_per_rollout=updates, noise_levels=3
    )
    world = recipe.world(
        partial(recipe.source.fill, dtype=torch.float32, device="cpu"), recipe.source.decoder("cpu")
    )
    scenarios, sigmas = recipe.scenarios()[:prompts], world.spec.sigmas(3)
    futures = imagine_groups(world, RolloutRequest(scenarios, 0, 4, 2, (0,), sigmas))
    advantages = plan_advantages(prompts)
    chosen = choose(futures, scenarios, advantages, 1, 1, (0,))
    dealt = share_out(
        chosen,
        sigmas,
        config.learning.noise_levels,
        config.learning.updates_per_rollout,
        config.learning.micro_rows,
    )
    assert largest_micro_batch(config, prompts) == max(
        len(rows.sigma_B) for update in dealt for rows in update
    )


def plan_advantages(prompts):
    from worldcompass.training.advantages import group_advantages

    scores = torch.arange(prompts * 2).view(prompts, 2, 1).float()
    return group_advantages(scores, torch.ones_like(scores, dtype=torch.bool), torch.ones(1))


def test_names_and_shapes_that_differ_are_found_in_the_header_alone(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"same": torch.zeros(2, 3), "other": torch.zeros(4), "more": torch.zeros(1)}, path, {"k": "v"})
    assert header(path) == {"same": (2, 3), "other": (4,), "more": (1,)}
    file = NeededFile(path, "weights", {"same": (2, 3), "other": (5,), "absent": (6, 7)})
    assert differences(file) == [
        "absent is missing, expected (6, 7)",
        "more is (1,), expected no such tensor",
        "other is (4,), expected (5,)",
    ]
    assert differences(dataclasses.replace(file, shapes=header(path))) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-1],
        lambda b: b[:20],
        lambda b: b"",
        lambda b: b"\xff" * 16,
        lambda b: (2).to_bytes(8, "little") + b"[]",
        lambda b: (8).to_bytes(8, "little") + b'{"a": 1}',
    ],
)
def test_damaged_files_are_said_to_be(damage, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    path.write_bytes(damage(path.read_bytes()))
    (sentence,) = differences(NeededFile(path, "weights", {"a": (2,)}))
    assert sentence.startswith("a.safetensors is damaged or no safetensors file")
    assert sentence.endswith(": fetch it again")


def test_weights_in_several_files_are_checked_as_one(tmp_path):
    first, second = tmp_path / "w-1.safetensors", tmp_path / "w-2.safetensors"
    save_file({"a": torch.zeros(2)}, first)
    index = {"weight_map": {"a": first.name, "b": second.name}}
    (tmp_path / "w.safetensors.index.json").write_text(json.dumps(index))
    file = NeededFile(tmp_path / "w.safetensors", "weights", {"a": (2,), "b": (3,)})
    assert [f.path for f in missing([file])] == [second]
    save_file({"b": torch.zeros(4)}, second)
    assert missing([file]) == [] and differences(file) == ["b is (4,), expected (3,)"]


def test_files_of_a_recipe_are_missing_until_they_are_there(tmp_path):
    files = OfficialFiles(tmp_path / "checkpoints", tmp_path / "data", tmp_path / "poses").files(
        {"a": (2,)}, {"b": (4,)}
    )
    assert missing(files) == list(files)
    transformer = files[0].path
    transformer.parent.mkdir(parents=True)
    save_file({"a": torch.zeros(3)}, transformer)
    assert missing(files) == list(files[1:])
    assert differences(files[0]) == ["a is (3,), expected (2,)"]
    files[1].path.parent.mkdir()
    save_file({"a": torch.zeros(3)}, files[1].path)
    assert differences(files[1]) == ["a is (3,), expected no such tensor", "b is missing, expected (4,)"]


def test_a_pt_file_is_compared_too_and_a_folder_means_the_file_in_it(tmp_path):
    """As ``source.transformer`` may name them."""
    for chosen in (tmp_path / "model.pt", tmp_path):
        files = OfficialFiles(tmp_path, tmp_path, transformer=chosen).files({"a": (2,)}, {})
        assert missing(files[:1]) == list(files[:1])
        if chosen.suffix:
            torch.save({"generator": {"model.a": torch.zeros(3), "b": torch.zeros(1)}}, chosen)
        else:
            save_file({"a": torch.zeros(3), "b": torch.zeros(1)}, chosen / FILE_NAME)
        assert differences(files[0]) == ["a is (3,), expected (2,)", "b is (1,), expected no such tensor"]
        (tmp_path / "model.pt").unlink(missing_ok=True)  # alone in its folder, it would be the folder's file


def test_the_command_prints_sizes_and_what_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(plan, "make_plan", lambda needs, gpus: Plan(gpus, 1, STATES, TRACED, 7, 9))
    assert cli.main(["plan", "worldplay_8b:smoke", "--memory", "80"]) == 0
    out = capsys.readouterr().out
    assert "fits into 80 GiB" in out and "files: all present" in out
    assert cli.main(["plan", "worldplay_8b:smoke", "--memory", "0.5"]) == 1
    out = capsys.readouterr().out
    assert "DOES NOT FIT into" in out
    assert "the phase update needs the most memory: lower config.micro_rows (now 4)" in out
    monkeypatch.setattr(command, "_memory_here", lambda: None)
    assert cli.main(["plan", "worldplay_8b:smoke"]) == 0
    assert "This machine has no GPU: the size above is a card of 80 GB" in capsys.readouterr().out
    file = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(3)}, file)
    lines = command._file_lines(
        [NeededFile(file, "weights", {"a": (2,)}), NeededFile(tmp_path / "b", "poses")],
        [NeededModule("json", "it is there"), NeededModule("no_such_package", "pip install it")],
    )
    assert lines == [
        f"missing: {tmp_path / 'b'} (poses)",
        "missing: Python package no_such_package (pip install it)",
        f"{file} does not match this recipe:",
        "  a is (3,), expected (2,)",
    ]


def test_the_last_line_says_why_a_plan_that_fits_ends_with_an_error(monkeypatch, capsys):
    monkeypatch.setattr(plan, "make_plan", lambda needs, gpus: Plan(gpus, 1, STATES, TRACED, 7, 9))
    problems = ["missing: poses (a list)", "a.safetensors does not match this recipe:", "  b is missing"]
    monkeypatch.setattr(command, "_file_lines", lambda files, modules: problems)
    assert cli.main(["plan", "worldplay_8b:smoke", "--memory", "80"]) == 1
    *_, first, second, third, last = capsys.readouterr().out.splitlines()
    assert [first, second, third] == problems
    assert last == "the run cannot start: 2 inputs above, missing or of another model"


def test_many_missing_inputs_are_a_sentence_and_a_list(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "minwm:lora", "--out", "out"]) == 2
    head, *listed = capsys.readouterr().err.splitlines()
    assert head.startswith(
        f"error: this run lacks {len(listed)} inputs, listed below: put what is missing there"
    )
    assert all(line.startswith("  ") for line in listed) and len(listed) > 3
    assert any("Wan2.1_VAE" in line for line in listed) and not (tmp_path / "out").exists()


def test_recipes_that_cannot_tell_are_refused(tmp_path, capsys):
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "import dataclasses\n@dataclasses.dataclass\nclass Mine:\n    a: int = 1\ndef mine():\n    return Mine()\n"
    )
    assert cli.main(["plan", str(recipe)]) == 2
    assert "give it a method needs()" in capsys.readouterr().err


def test_the_embedded_worlds_recipes_have_a_plan_too():
    from worldcompass.worlds.doom.engine.facts import NEARNESS_SHAPE
    from worldcompass.worlds.doom.needs import needs_of
    from worldcompass.worlds.doom.network.reprojection import measured_motion

    config = Config(
        sampling=Sampling(prompts_per_step=1, group_size=2, last_chunk=1),
        learning=Learning(best=1, worst=1, noise_levels=1, micro_rows=2),
    )
    estimate = make_plan(dataclasses.replace(needs_of(config), num_chunks=1))
    assert estimate.states.parameters == estimate.states.trainable > 4_000_000
    assert estimate.traced.prefix > 0 and estimate.peak > 6 * estimate.states.weights
    assert all(file.path.exists() and not differences(file) for file in needs_of(config).files)
    # What the trace ran on has no data, and nothing of it may stay behind in the code.
    pictures, nearness = torch.rand(1, 2, 3, 48, 64), torch.ones(1, 2, *NEARNESS_SHAPE)
    assert not is_fake(measured_motion(pictures, nearness, torch.zeros(1, 2)))


def test_the_hands_recipes_have_a_plan_too(monkeypatch, capsys):
    from worldcompass.recipes.hands_demo import hands_demo
    from worldcompass.worlds.hands.network.shadows import reference, shadows_of
    from worldcompass.worlds.hands.world import load_hands_world

    def short(needs, gpus):
        return make_plan(dataclasses.replace(needs, num_chunks=1), gpus)

    monkeypatch.setattr(plan, "make_plan", short)
    small = ["sampling.prompts_per_step=1", "sampling.group_size=2", "learning.best=1", "learning.worst=1"]
    assert cli.main(["plan", "hands_demo", *(part for s in small for part in ("--set", f"config.{s}"))]) == 0
    world, needs = load_hands_world(), hands_demo().needs()
    assert (
        f"parameters {sum(p.numel() for p in world.net.parameters()):,}, trained" in capsys.readouterr().out
    )
    assert needs.other_bytes == sum(value.nbytes for value in world.autoencoder.state_dict().values())
    assert {"hands_reader.safetensors", "hands_judge.safetensors"} <= {file.path.name for file in needs.files}
    assert all(file.path.exists() and not differences(file) for file in needs.files)
    # What the trace ran on has no data, and nothing of it may stay behind in the code.
    assert not is_fake(shadows_of(reference()))


def counted(needs, chunks=1):
    """Of two blocks, on tensors with data, which is several times faster at this size."""
    world, modules = needs.world_of_depth(2)
    for module in modules:
        module.to_empty(device="cpu")
    return count(world, Job(needs.begin, chunks, 1, 1, 1, on_cuda=False))


def test_work_grows_with_the_clip_and_its_parts_are_those_of_a_step():
    """Operations of a tiny step by its parts, and the same on one GPU as on four times as long as on four."""
    recipe = worldplay_8b.smoke()
    work = counted(recipe.needs())
    assert 0 < work.first < work.row < work.attend * 4 and work.update > 2 * work.row
    config = recipe.config.changed(prompts_per_step=1)
    first, later = (step_work(work, config, chunk, 1, 3) for chunk in (0, 1))
    rows = (1 + 1) * config.learning.noise_levels
    assert first.network == pytest.approx(work.first * (4 * 3 + rows * (1 + work.update / work.row)))
    assert later.network == pytest.approx(
        3 * work.first + work.attend + 4 * 3 * work.row + rows * (work.row + work.update)
    )
    assert step_work(work, config, 9, 1, 3).network > later.network
    assert later.seconds(0.4, 1) == pytest.approx(4 * later.seconds(0.4, 4))
    assert later.seconds(0.2, 1) == pytest.approx(2 * later.seconds(0.4, 1))


def test_the_pass_that_keeps_a_frame_is_counted_where_there_is_one():
    """Waypoint keeps a frame by a denoising pass at level 0; WorldPlay's network runs when the past is read."""
    recipe = waypoint.smoke()
    work = counted(recipe.needs())
    assert 0.9 * work.row < work.keep <= work.row and work.keep_decoder == 0
    config = recipe.config.changed(prompts_per_step=1, clip_chunks=1)
    later, without = (step_work(w, config, 2, 1, 3) for w in (work, dataclasses.replace(work, keep=0)))
    first_share = work.first / work.row
    assert later.network - without.network == pytest.approx(work.keep * (1 + first_share))
    still = counted(worldplay_8b.smoke().needs())
    assert still.keep == 0


def test_the_operations_of_attention_are_counted_in_full():
    """By hand: the same chunk after twice the past costs as much more as the past alone cost."""
    needs = worldplay_8b.smoke().needs()
    found = [counted(needs, chunks) for chunks in (0, 1, 2)]
    width, tokens, past, blocks = 24, 4 * 6 * 8, 4 * 6 * 8, 2
    attention = 2 * 2 * 2 * blocks * tokens * past * width  # two branches, products with keys and with values
    assert found[1].row - found[0].row == attention
    assert found[2].row - found[1].row == attention


def test_the_command_shows_hours_at_several_rates(monkeypatch, capsys):
    monkeypatch.setattr(plan, "make_plan", lambda needs, gpus: Plan(gpus, 1, STATES, TRACED, 7, 9))
    monkeypatch.setattr(plan, "count_work", lambda needs: Work(1e14, 3e14, 1e15, 1e15, 2e14))
    assert cli.main(["plan", "worldplay_8b:smoke", "--memory", "80", "--hours"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (of_run,) = [line.split() for line in lines if line.startswith("  2 steps")]
    assert "at assumed shares of it" in "".join(lines) and of_run[2:] != of_run[4:]
    assert float(of_run[2]) == pytest.approx(3 * float(of_run[6]), rel=0.1)  # at 20% and at 60%


def test_critics_elsewhere_are_named_among_what_to_lower():
    config = worldplay_8b.smoke().config
    at_home = Plan(1, 1, dataclasses.replace(STATES, critics=24 << 30), TRACED, 7, 9)
    assert "24 GiB are assumed for critics in this process: serve them on another GPU" in plan.what_to_lower(
        at_home, config
    )
    assert "critics" not in plan.what_to_lower(Plan(1, 1, STATES, TRACED, 7, 9), config)


def test_no_part_of_a_small_network_is_below_zero():
    shallow, deeper = Traced(5, 5, 5, 5, 5), Traced(6, 4, 5, 0, 5)
    assert shallow.extended(deeper, 10) == Traced(15, 0, 5, 5, 5)


def test_the_table_of_the_guide_is_the_plan():
    """The row of the adapters of the 8B in docs/worldplay.md, in GiB with one digit, without critics."""
    page = (Path(__file__).parents[2] / "docs" / "worldplay.md").read_text(encoding="utf-8")
    (row,) = [
        line for line in page.splitlines() if line.startswith("| `worldcompass plan worldplay_8b:lora` |")
    ]
    told = [cell.strip().removesuffix(", decoding") for cell in row.split("|")[2:-1]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = make_plan(dataclasses.replace(worldplay_8b.lora().needs(), critic_bytes=0))
    sizes = [found.states.weights, found.states.other, found.traced.prefix, found.traced.imagine]
    sizes += [found.traced.decode, found.traced.update, found.peak]
    assert [f"{size / plan.GIB:.1f}" for size in sizes] == told and found.worst_phase == "decode"
