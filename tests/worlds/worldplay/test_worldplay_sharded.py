"""Two processes train WorldPlay like one, and a pass gathers only its own half of a network."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from ranks import bf16_anywhere, outcome, together
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from worldcompass.parallel.sharding import shard
from worldcompass.parallel.team import Team
from worldcompass.recipes import worldplay_5b, worldplay_8b
from worldcompass.rewards.bundle import OwnRewards
from worldcompass.rewards.paper import INTERACTION, QUALITY
from worldcompass.training.lora import Lora
from worldcompass.types import Actions, Scores
from worldcompass.worlds.open.weights import FILE_NAME, GENERATOR_FILE, read_pickled
from worldcompass.worlds.worldplay.recipe import WorldPlayRecipe
from worldcompass.worlds.worldplay.tiny import TINY_5B, TINY_8B
from worldcompass.worlds.worldplay.transformer_5b import Past5B
from worldcompass.worlds.worldplay.weights import load_5b, load_8b
from worldcompass.worlds.worldplay.world import LORA_TARGETS_5B, LORA_TARGETS_8B

# Relative and absolute: in float32 only the order of additions differs; in bfloat16 products of other shapes round
# otherwise.
TOLERANCE = {"full": 1e-4, "lora": 1e-4, "mixed": 2e-2, "half": 2e-2}
SMOKE = {"8b": worldplay_8b.smoke, "5b": worldplay_5b.smoke}
LORA_TARGETS = {"8b": LORA_TARGETS_8B, "5b": LORA_TARGETS_5B}
VARIANTS = [("8b", "full"), ("8b", "lora"), ("8b", "mixed"), ("5b", "full"), ("5b", "half")]


@dataclasses.dataclass(frozen=True)
class Corner:
    """A critic that any change can satisfy: the brightness of one corner at the end."""

    name: str
    channel: int

    def __call__(self, group):
        values = group.frames_GF3hw[:, -1, self.channel, 0, 0].float()
        return Scores(values, torch.ones_like(values, dtype=torch.bool))


def corners():
    return [Corner(INTERACTION, 0), Corner(QUALITY, 1)]


def recipe_of(kind: str, training: str, **changes) -> WorldPlayRecipe:
    """The smoke recipe with cheap critics.

    ``full`` and ``lora`` in float32; ``mixed`` as the paper's recipe has it, float32 beside a frozen bfloat16 half;
    ``half`` as ``:lora``, adapters in float32 on bfloat16.
    """
    rough = training in ("mixed", "half")
    recipe = replace(SMOKE[kind](), rewards=OwnRewards(corners), half_weights=rough)
    if training in ("lora", "half"):
        changes |= {"lora": Lora(rank=2, targets=LORA_TARGETS[kind])}
    config = recipe.config.changed(group_size=3, denoising_steps=2, noise_levels=1, updates_per_rollout=1,
        autocast_bf16=rough, probe_every=0, **changes,
    )  # fmt: skip
    return replace(recipe, config=config)


def run_all(root: Path, shard: bool) -> None:
    for kind, training in VARIANTS:
        with bf16_anywhere():
            recipe_of(kind, training, shard=shard).run(root / kind / training, "cpu", resume=False)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("alone")
    torch.set_num_threads(1)
    run_all(root, shard=False)
    return root


def agree(got: Path, expected: Path, tolerance: float) -> None:
    (rows, tensors), (rows_expected, tensors_expected) = outcome(got), outcome(expected)
    for number, (row, row_expected) in enumerate(zip(rows, rows_expected, strict=True)):
        # Muon enlarges the rounding of the first gradient, and in bfloat16 that is a tenth of the next one.
        rel = 10 * tolerance * (1 if number == 0 else 2.5)
        assert row == pytest.approx(row_expected, rel=rel, abs=tolerance)
    all_close(tensors, tensors_expected, tolerance)


def all_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("two")
    assert together(2, run_all, root, True) == [0, 0]
    return root


@pytest.mark.parametrize(("kind", "training"), VARIANTS)
def test_two_sharded_processes_train_like_one(kind, training, alone, two):
    agree(two / kind / training, alone / kind / training, TOLERANCE[training])


@pytest.mark.parametrize(("kind", "training"), VARIANTS)
def test_two_sharded_processes_export_the_whole_official_file(kind, training, alone, two):
    found_in, expected_in = (root / kind / training / "weights" for root in (two, alone))
    official, read = (FILE_NAME, load_file) if kind == "8b" else (GENERATOR_FILE, read_pickled)
    files = [(official, read)] + [("adapter/adapter_model.safetensors", load_file)] * (
        training in ("lora", "half")
    )
    for file, read in files:
        all_close(read(found_in / file), read(expected_in / file), TOLERANCE[training])
    load, tiny = (load_8b, TINY_8B) if kind == "8b" else (load_5b, TINY_5B)
    load(two / kind / training / "weights", tiny)


@pytest.mark.parametrize(("kind", "training"), [("8b", "full"), ("8b", "lora")])
def test_what_two_processes_saved_one_goes_on_with(kind, training, alone, two, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(two / kind / training, out)
    shutil.rmtree(out / "checkpoints" / "step_000002")
    recipe_of(kind, training).run(out, "cpu", resume=True)
    agree(out, alone / kind / training, TOLERANCE[training])


def halves(out: Path) -> None:
    """The half of the weights that is gathered while each block of the other half runs."""
    for kind in SMOKE:
        recipe = recipe_of(kind, "full")
        world, plain = (recipe.parts("cpu").world for _ in range(2))
        scenario = recipe.scenarios()[Team.current().rank : Team.current().rank + 1]
        first, second = (Actions.stack([scenario[0].actions.latents(at, at + 4)]) for at in (0, 4))
        generator = torch.Generator().manual_seed(Team.current().rank)
        channels, height, width = world.spec.latent_shape
        noise = torch.randn(2, channels, 4, height, width, generator=generator)
        shard(world.net)
        looked = watch(world.net)
        begun = world.begin(scenario)
        assert looked == {("text", "text")}, looked
        looked.clear()
        contexts = []
        for each, start in ((world, begun), (plain, plain.begin(scenario))):
            context = each.remember(start, noise[:1], first)
            context = each.attend(context, second)
            clean = each.predict_clean(noise, torch.full((2,), 0.7), second, context)
            contexts.append((context, clean))
        (context, clean), (expected_context, expected) = contexts
        torch.testing.assert_close(clean, expected, rtol=1e-5, atol=1e-5)
        for (keys, values), (keys_expected, values_expected) in zip(
            memory_of(context), memory_of(expected_context), strict=True
        ):
            torch.testing.assert_close(keys, keys_expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(values, values_expected, rtol=1e-5, atol=1e-5)
        clean.square().mean().backward()
        assert looked == {("video", "video")}, looked
        (out / f"{kind}-{Team.current().rank}").touch()


def watch(net) -> set[tuple[str, str]]:
    """(half at work, half gathered) for every call of a layer, recomputed ones in the backward pass too.

    The ends of the video half (patches, timesteps, actions, last layer) belong to the root and serve both.
    """
    in_units = [
        (name, "text" if net.is_text_only(name) else "video")
        for name, _ in net.named_parameters()
        if "blocks." in name or net.is_text_only(name)
    ]
    looked = set()

    def look(half, *_):
        now = dict(net.named_parameters())
        looked.update((half, other) for name, other in in_units if not isinstance(now[name], DTensor))

    for owner, half in {(name.rpartition(".")[0], half) for name, half in in_units}:
        net.get_submodule(owner).register_forward_pre_hook(partial(look, half))
    return looked


def memory_of(context):
    """Keys and values of every block."""
    ((past,),) = context.attended.pasts
    return past.memory if isinstance(past, Past5B) else past


def test_a_pass_on_two_processes_gathers_only_its_own_half(tmp_path):
    assert together(2, halves, tmp_path) == [0, 0]
    assert len(list(tmp_path.iterdir())) == 2 * len(SMOKE)
