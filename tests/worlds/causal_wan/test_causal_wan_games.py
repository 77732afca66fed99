"""Matrix-Game 2 and ForgeWM as worlds: the contract, the differences between checkpoints, and what a chunk sees."""

import dataclasses
from functools import cache

import pytest
import torch
from matrix_game_tiny import (
    HEIGHT,
    WIDTH,
    chunk_of,
    far_along,
    noise,
    random_network,
    scenario,
    scenarios,
    tiny_game,
)

from worldcompass.errors import UnfitInputs
from worldcompass.noise import euler_step, fresh_noise_step
from worldcompass.testing import check_world_model
from worldcompass.training.lora import Lora, inject_lora
from worldcompass.types import ControlValues
from worldcompass.worlds.causal_wan.matrix_game import (
    BASE,
    FORGEWM_1,
    FORGEWM_3,
    GTA,
    LORA_TARGETS,
    TEMPLE_RUN,
    UNIVERSAL,
    Sight,
    actions_of,
    build,
    condition_of,
    matrix_game,
    sizes_of,
)
from worldcompass.worlds.causal_wan.minwm import minwm
from worldcompass.worlds.causal_wan.network import CausalWan
from worldcompass.worlds.causal_wan.tiny import TINY
from worldcompass.worlds.causal_wan.tiny_game import tiny_variant
from worldcompass.worlds.open.tiny import Blend

ALL = (UNIVERSAL, GTA, TEMPLE_RUN, BASE, FORGEWM_1, FORGEWM_3)
TOKENS = HEIGHT * WIDTH // 4  # of a latent


@cache
def published(variant):
    """The network in its real size, without numbers."""
    with torch.device("meta"):
        return build(*sizes_of(variant))


@pytest.mark.parametrize("variant", [UNIVERSAL, GTA, TEMPLE_RUN, FORGEWM_1], ids=lambda v: v.name)
def test_the_contract_holds(variant):
    check_world_model(tiny_game(variant), scenarios(variant))


@pytest.mark.parametrize(
    ("variant", "tensors", "parameters"),
    [(UNIVERSAL, 1114, 1_619_242_304), (TEMPLE_RUN, 964, 1_508_715_584), (FORGEWM_1, 1399, 1_824_413_504)],
    ids=lambda v: getattr(v, "name", ""),
)
def test_real_networks_have_the_published_number_of_tensors_and_parameters(variant, tensors, parameters):
    net = published(variant)
    state = net.state_dict()
    assert (len(state), sum(t.numel() for t in state.values())) == (tensors, parameters)
    first = "blocks.0.action_model."
    assert state["patch_embedding.weight"].shape == (1536, 36, 1, 2, 2)
    assert state[f"{first}keyboard_embed.0.weight"].shape == (128, variant.num_keys)
    assert state[f"{first}keyboard_attn_kv.weight"].shape == (2048, 1536)
    assert (f"{first}mouse_mlp.0.weight" in state) == variant.has_mouse
    world = matrix_game(net, Blend(8), variant)
    assert world.spec.frame_size == (352, 640) and world.spec.latent_shape == (16, 44, 80)


def test_noise_levels_and_samplers_are_those_of_each_checkpoint():
    three = [1.0, 0.908843, 0.713979, 0.0]  # of steps 1000, 666, 333: not the levels of any three even steps
    four = [1.0, 0.9375, 0.833333, 0.625, 0.0]
    for variant, levels in ((UNIVERSAL, three), (GTA, three), (TEMPLE_RUN, four), (FORGEWM_3, four)):
        assert variant.sampler is fresh_noise_step
        assert tiny_game(variant).spec.sigmas().tolist() == pytest.approx(levels, abs=1e-6)
    for variant in (BASE, FORGEWM_1):
        assert variant.sampler is euler_step and variant.schedule.num_steps == 50
        assert float(variant.schedule.sigmas(4)[1]) == pytest.approx(0.9375)


def test_the_network_gets_latent_mask_image_and_real_timesteps():
    world, batch = tiny_game(), scenarios()
    context = far_along(world, batch, 0)
    seen = []
    with world.net.register_forward_pre_hook(lambda _, args: seen.append(args)):
        world.predict_clean(noise(2), torch.tensor([0.908843, 0.3]), chunk_of(batch, 0), context)
        world.remember(context, noise(2, 5), chunk_of(batch, 0))
    (noisy, pasts), (clean, *_) = seen
    assert noisy.timesteps_BK.tolist() == [[pytest.approx(908.843)] * 3, [pytest.approx(300)] * 3]
    assert not clean.timesteps_BK.any()
    channels = noisy.latents_BCKHW
    assert torch.equal(channels[:, :3], noise(2)) and torch.equal(clean.latents_BCKHW[:, :3], noise(2, 5))
    assert channels[:, 3:7, 0].eq(1).all() and not channels[:, 3:7, 1:].any()
    image = torch.stack([s.conditioning["image_latents"] for s in batch])
    assert torch.equal(channels[:, 7:], image[:, :, :3])
    assert torch.equal(pasts[0].states_LE, batch[0].conditioning["image_tokens"])


def test_the_last_latent_of_the_image_condition_stands_for_all_later_ones():
    image = torch.randn(3, 4, 1, 1)
    found = condition_of(image, 3, 3)
    assert not found[:4].any()
    assert torch.equal(found[4:], image[:, [3, 3, 3]])
    assert condition_of(image, 0, 2)[:4, :, 0, 0].tolist() == [[1, 0]] * 4


def test_latent_0_is_imagined_and_depends_on_the_start_image():
    world, batch = tiny_game(), scenarios()
    context = far_along(world, batch, 0)
    assert context.given_K.tolist() == [False] * 3
    one, sigma = chunk_of(batch[:1], 0), torch.tensor([0.7])
    with torch.no_grad():
        before = world.predict_clean(noise(1), sigma, one, context.select(0))
    for key in ("image_latents", "image_tokens"):
        other = scenario(0, **{key: scenarios()[1].conditioning[key]})
        changed = world.attend(world.begin([other]), one)
        with torch.no_grad():
            after = world.predict_clean(noise(1), sigma, one, changed)
        assert float((after - before).abs().max()) > 1e-3


def influences(world, num_chunks):
    """Which finished latents change the next chunk: by their self-attention keys, and by their mouse's."""
    batch = [scenario(0, world.head.variant)]
    context = far_along(world, batch, num_chunks, attend=False)
    actions, found = chunk_of(batch, num_chunks), ([], [])

    def predict(of):
        with torch.no_grad():
            return world.predict_clean(noise(1), torch.tensor([0.7]), actions, world.attend(of, actions))

    before = predict(context)
    for kind in range(2):
        for latent in range(context.num_latents):
            if float((predict(changed(context, latent, kind)) - before).abs().max()) > 1e-6:
                found[kind].append(latent)
    return found


def changed(context, latent, kind):
    """The context with other self-attention (0) or mouse (1) values of one finished latent."""
    past, parts = context.pasts[0], []
    for part in past.kept[0]:
        blocks = []
        for block in part.blocks:
            v, action = block.v_hNd.clone(), [t.clone() for t in block.action]
            own = latent - part.first
            if 0 <= own < part.num_latents and kind == 0:
                v[:, own * TOKENS : (own + 1) * TOKENS] += 1
            if 0 <= own < part.num_latents and kind == 1 and action:
                action[3][own] += 1
            blocks.append(dataclasses.replace(block, v_hNd=v, action=tuple(action)))
        parts.append(dataclasses.replace(part, blocks=tuple(blocks)))
    return dataclasses.replace(context, pasts=(dataclasses.replace(past, kept=(tuple(parts),)),))


@pytest.mark.parametrize(
    ("sight", "chunks", "own", "acting"),
    [
        (UNIVERSAL.sight, 3, [6, 7, 8], [6, 7, 8]),  # 6 latents in view, of which 3 are the chunk's
        (GTA.sight, 2, [5], [5]),
        (FORGEWM_3.sight, 5, list(range(15)), list(range(3, 15))),
        (Sight(None, 6), 2, list(range(6)), [3, 4, 5]),
        (Sight(4, 6), 2, [5], [3, 4, 5]),
        (Sight(None, 6, tokens=int(5.5 * TOKENS)), 3, [6, 7, 8], [6, 7, 8]),
    ],
)
def test_what_a_chunk_sees_of_the_past(sight, chunks, own, acting):
    world = tiny_game(sight=sight)
    assert influences(world, chunks) == (own, acting)


@torch.no_grad()
def test_a_number_of_tokens_may_cut_a_latent_in_two():
    tokens = 3 * TOKENS + TOKENS // 2
    world, batch = tiny_game(sight=Sight(None, 6, tokens)), [scenario(0)]
    context = far_along(world, batch, 1)
    assert {past.most_tokens for side in context.attended.sides for past in side} == {TOKENS // 2}
    half = world.predict_clean(noise(1), torch.tensor([0.7]), chunk_of(batch, 1), context)
    whole_world = tiny_game(sight=Sight(None, 6))
    whole = whole_world.predict_clean(
        noise(1), torch.tensor([0.7]), chunk_of(batch, 1), far_along(whole_world, batch, 1)
    )
    assert float((half - whole).abs().max()) > 1e-4
    with pytest.raises(ValueError, match="6 tokens in view leave none of the past"):
        tiny_game(sight=Sight(tokens=3 * TOKENS))


def test_memory_out_of_sight_is_dropped_and_the_rest_of_the_mouse_too():
    batch = [scenario(0)]
    kept = far_along(tiny_game(), batch, 4).pasts[0].kept[0]
    assert [part.first for part in kept] == [9]  # of 6 latents in view the next chunk has 3
    kept = far_along(tiny_game(sight=Sight(None, 6)), batch, 4).pasts[0].kept[0]
    assert [part.first for part in kept] == [0, 3, 6, 9]
    assert [bool(part.blocks[0].action) for part in kept] == [False, False, False, True]


@torch.no_grad()
def test_commands_of_the_two_latents_before_a_chunk_still_count():
    world, batch = tiny_game(), [scenario(0)]
    context = far_along(world, batch, 2, attend=False)
    actions, sigma = chunk_of(batch, 2), torch.tensor([0.7])
    before = world.predict_clean(noise(1), sigma, actions, world.attend(context, actions))
    reaches = []
    for latent in range(context.num_latents):
        values = context.actions.values_KTA.clone()
        values[:, latent, :, 2] += 0.5
        other = dataclasses.replace(context, actions=ControlValues(values))
        after = world.predict_clean(noise(1), sigma, actions, world.attend(other, actions))
        reaches += [latent] * (float((after - before).abs().max()) > 1e-6)
    assert reaches == [4, 5]


def test_gradients_reach_the_image_and_the_modules_after_a_past_without_gradient():
    """The official code caches the image's keys on the first pass, which can cut them off from training."""
    world, batch = tiny_game(), scenarios()
    context = far_along(world, batch, 1)
    world.predict_clean(
        noise(2), torch.tensor([0.7, 0.7]), chunk_of(batch, 1), context
    ).square().mean().backward()
    without = {n for n, p in world.net.named_parameters() if p.grad is None or not p.grad.any()}
    scales = {f"blocks.0.action_model.{d}_attn_{x}_norm.weight" for d in ("img", "key") for x in "qk"}
    assert without == scales


def test_adapters_go_to_the_layers_of_blocks_and_modules():
    lora = Lora(rank=2, alpha=2.0, targets=LORA_TARGETS)
    names = inject_lora(random_network(), lora, torch.Generator().manual_seed(0))
    own = {name.removeprefix("blocks.0.") for name in names if name.startswith("blocks.0.")}
    assert own == {
        *(f"self_attn.{part}" for part in "qkvo"), "cross_attn.q", "cross_attn.o", "ffn.0", "ffn.2",
        *(f"action_model.{part}" for part in ("t_qkv", "proj_mouse", "mouse_mlp.0", "mouse_mlp.2")),
        *(f"action_model.{part}" for part in ("mouse_attn_q", "keyboard_attn_kv", "proj_keyboard")),
    }  # fmt: skip
    assert {name.split(".")[0] for name in names} == {"blocks"}


@pytest.mark.parametrize("variant", ALL, ids=lambda v: v.name)
def test_a_network_of_another_checkpoint_is_refused(variant):
    other = GTA if variant is not GTA else TEMPLE_RUN
    wrong = random_network(other)
    with pytest.raises(UnfitInputs, match=f"{variant.name} has {variant.num_keys} keys"):
        matrix_game(wrong, Blend(), tiny_variant(variant), (HEIGHT, WIDTH))


def test_a_stage_is_told_by_its_blocks_with_actions():
    with torch.device("meta"):
        student = build(*sizes_of(FORGEWM_3))
    with pytest.raises(
        UnfitInputs, match="a mouse and modules for actions in 15 blocks: forgewm-stage-1 has"
    ):
        matrix_game(student, Blend(8), FORGEWM_1)


def test_networks_of_other_families_and_sizes_are_refused():
    with pytest.raises(UnfitInputs, match="no modules for keyboard and mouse"):
        actions_of(CausalWan(TINY))
    with pytest.raises(UnfitInputs, match="has modules for keyboard and mouse"):
        minwm(random_network(), Blend(), (HEIGHT, WIDTH))
    with pytest.raises(UnfitInputs, match="latents of 3x4 cells cannot be split into patches of 2x2"):
        matrix_game(random_network(), Blend(), tiny_variant(UNIVERSAL), (3, 4))
    with pytest.raises(ValueError, match="a window of 2 latents holds no chunk of 3"):
        Sight(2, 6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image_latents": torch.zeros(3, 4, 2, 2)}, r"latents \(3, 4, 2, 2\).*expected \(3, T, 2, 4\)"),
        ({"image_latents": torch.zeros(3, 2, 4)}, r"latents \(3, 2, 4\)"),
        ({"image_tokens": torch.zeros(5, 4)}, r"tokens \(5, 4\), expected .* and \(L, 10\)"),
    ],
)
def test_start_images_of_another_model_are_refused(change, sentence):
    with pytest.raises(UnfitInputs, match=sentence):
        tiny_game().begin([scenario(0, **change)])


def test_scenarios_without_start_image_or_with_other_commands_are_refused():
    bare = dataclasses.replace(scenario(0), conditioning=None)
    with pytest.raises(
        UnfitInputs, match="image_latents and image_tokens missing: make it with 'worldcompass pre"
    ):
        tiny_game().begin([bare])
    drivers = dataclasses.replace(scenario(0), actions=scenario(0, GTA).actions)
    with pytest.raises(
        UnfitInputs, match=r"scenario s0: the commands have shape \(28, 4, 2\), expected \(M, 4, 4\)"
    ):
        tiny_game().begin([drivers])


def test_pixels_are_truncated():
    class Grey(Blend):
        def decode(self, latents_BCKHW, memory):
            return torch.full((1, 9, 3, 4, 8), 200.9 / 255)

    world, batch = tiny_game(decoder=Grey()), [scenario(0)]
    assert world.decode(noise(1), far_along(world, batch, 0)).unique().tolist() == [200]


def test_the_tiny_network_has_the_published_networks_layers():
    real, tiny = published(UNIVERSAL).state_dict(), random_network().state_dict()
    for part in ("", "blocks.0."):
        own, theirs = ({n for n in names if _belongs(n, part)} for names in (tiny, real))
        assert own == theirs


def _belongs(name, block):
    return name.startswith(block) if block else not name.startswith("blocks.")
