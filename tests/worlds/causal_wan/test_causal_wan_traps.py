"""What a reader of the official code of minWM easily gets wrong; each claim fails when one does."""

import dataclasses

import pytest
import torch
from causal_wan_tiny import (
    HEIGHT,
    WIDTH,
    chunk_of,
    far_along,
    noise,
    random_network,
    scenario,
    scenarios,
    tiny_world,
)

from worldcompass.errors import UnfitInputs
from worldcompass.noise import euler_step, fresh_noise_step
from worldcompass.worlds.causal_wan.config import read_config
from worldcompass.worlds.causal_wan.memory import Past, Window
from worldcompass.worlds.causal_wan.minwm import Guidance, minwm, stage_of
from worldcompass.worlds.causal_wan.network import Latents
from worldcompass.worlds.causal_wan.tiny import TINY
from worldcompass.worlds.open.prope import cameras
from worldcompass.worlds.open.tiny import Blend

SIGMA = torch.full((2,), 0.7)


def predicted(world, batch, context):
    with torch.no_grad():
        return world.predict_clean(noise(2, 9), SIGMA, chunk_of(batch, context.num_latents // 4), context)


def watched(world):
    """The latents that enter the network from now on."""
    seen = []
    world.net.register_forward_pre_hook(lambda _net, inputs: seen.append(inputs[0]))
    return seen


def test_a_window_counts_the_chunk_itself():
    one = scenarios()[:1]
    attended = far_along(tiny_world(window=Window(8)), one, 3).attended
    assert [(part.first, part.num_latents) for part in attended.sides[0][0].visible] == [(8, 4)]


def test_a_window_of_half_a_chunk_cuts_one_in_two():
    attended = far_along(tiny_world(window=Window(6)), scenarios()[:1], 3).attended
    assert [(part.first, part.num_latents) for part in attended.sides[0][0].visible] == [(10, 2)]


def test_a_sink_stays_in_view_within_the_window():
    attended = far_along(tiny_world(window=Window(8, sink=2)), scenarios()[:1], 3).attended
    assert [(part.first, part.num_latents) for part in attended.sides[0][0].visible] == [(0, 2), (10, 2)]


@pytest.mark.parametrize("window", [Window(5, sink=2), Window(3)])
def test_a_window_without_room_for_a_chunk_beside_the_sink_is_refused(window):
    """The official cache overwrites the sink without a word."""
    with pytest.raises(ValueError, match="holds no chunk of 4 beside a sink"):
        tiny_world(window=window)


def test_keys_of_latents_out_of_view_are_let_go():
    context = far_along(tiny_world(window=Window(8, sink=2)), scenarios()[:1], 4, attend=False)
    assert [part.first for part in context.pasts[0].kept[0]] == [0, 12]


def test_positions_in_time_are_those_in_the_video():
    """Beside a sink the distance to it grows, whatever was evicted between."""
    world, one = tiny_world(window=Window(8, sink=2)), scenarios()[:1]
    context = far_along(world, one, 3)
    (past,) = context.attended.sides[0]
    assert past.visible[0].first == 0
    moved = (dataclasses.replace(past.visible[0], first=8), past.visible[1])
    packed = dataclasses.replace(
        context,
        attended=dataclasses.replace(context.attended, sides=((dataclasses.replace(past, visible=moved),),)),
    )
    assert float((predicted(world, one, context) - predicted(world, one, packed)).abs().max()) > 1e-3


def test_the_branch_by_cameras_has_no_position_in_time():
    """With all weights of the branch by place at zero, a video that begins later is the same."""
    net = random_network(num_blocks=1)
    torch.nn.init.zeros_(net.blocks[0].self_attn.o.weight)
    moves, states = chunk_of(scenarios()[:1], 1).cameras, torch.randn(3, TINY.states_width)
    by = cameras(moves.world_from_camera_K44, moves.intrinsics_K4)
    early, late = (
        net(Latents(noise(1), torch.full((1, 4), 500.0), first, by), [Past(states)]) for first in (0, 400)
    )
    torch.testing.assert_close(early, late, atol=1e-6, rtol=0)


def test_the_zeros_after_a_prompt_are_read():
    one = scenario(0)
    states = one.conditioning["text_states"]
    padded = torch.cat([states, torch.zeros(TINY.text_length - len(states), TINY.states_width)])
    outcomes = []
    for own, length in ((states, TINY.text_length), (padded, TINY.text_length), (states, len(states))):
        world = minwm(random_network(text_length=length), Blend(), (HEIGHT, WIDTH))
        batch = [dataclasses.replace(one, conditioning={"text_states": own})]
        outcomes.append(predicted(world, batch, far_along(world, batch, 0)))
    torch.testing.assert_close(outcomes[0], outcomes[1], atol=1e-6, rtol=0)
    assert float((outcomes[0] - outcomes[2]).abs().max()) > 1e-3


def test_no_cameras_are_something_else_than_cameras_that_stand_still():
    net, past = random_network(), Past(torch.randn(3, TINY.states_width))
    chunk = Latents(noise(1), torch.full((1, 4), 500.0), 0)
    still = cameras(torch.eye(4).expand(1, 4, 4, 4), torch.tensor([1.0, 1.0, 0.5, 0.5]).expand(1, 4, 4))
    with torch.no_grad():
        difference = net(chunk, [past]) - net(dataclasses.replace(chunk, cameras=still), [past])
    assert float(difference.abs().max()) > 1e-2


def test_gradients_reach_what_only_the_prompt_uses():
    """A cache of the prompt's keys, filled without gradient, would cut these parameters off."""
    world, batch = tiny_world(), scenarios()
    context = far_along(world, batch, 1)
    world.predict_clean(noise(2), SIGMA, chunk_of(batch, 1), context).square().mean().backward()
    for name, parameter in world.net.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


def test_timesteps_are_not_rounded_and_finished_chunks_have_timestep_0():
    world, batch = tiny_world(), scenarios()[:1]
    seen = watched(world)
    context = far_along(world, batch, 1)
    assert seen.pop().timesteps_BK.unique().tolist() == [0]
    sigmas = world.spec.sigmas()[1:3]
    with torch.no_grad():
        world.predict_clean(noise(2), sigmas, chunk_of(batch, 1), context)
    expected = torch.tensor([[937.5] * 4, [833.3333] * 4])
    torch.testing.assert_close(seen.pop().timesteps_BK, expected, atol=1e-3, rtol=0)


def test_students_go_on_with_fresh_noise_at_their_four_levels_and_stage_1_by_euler():
    for name in ("dmd", "causal_cd", "causal_ode"):
        spec = tiny_world(name).spec
        assert spec.sampler is fresh_noise_step
        expected = torch.tensor([1, 0.9375, 0.8333333, 0.625, 0])
        torch.testing.assert_close(spec.sigmas(), expected, atol=1e-6, rtol=0)
        with pytest.raises(UnfitInputs, match="fixed noise levels for 4"):
            spec.sigmas(3)
    spec = tiny_world("ar_diffusion_tf").spec
    assert (spec.sampler, spec.num_steps) == (euler_step, 48)
    torch.testing.assert_close(spec.sigmas()[[0, 12, 24, 36]], tiny_world().spec.sigmas()[:4])


def test_the_lens_is_that_of_the_training():
    """The official inference passes 0.5 for both, far from it."""
    lens = tiny_world().spec.actions.intrinsics
    assert lens == pytest.approx((0.5050505, 0.89786756, 0.5, 0.5))


def test_cameras_stay_exact_under_autocast():
    """20 units out, bfloat16 poses would be spaced wider than a step."""
    world, batch = tiny_world(), scenarios()
    for s in batch:
        s.actions.world_from_camera_K44[:, 2, 3] += 20.3
    seen = watched(world)
    with torch.autocast("cpu", torch.bfloat16):
        found = predicted(world, batch, far_along(world, batch, 2))
    assert found.dtype == torch.float32
    for inputs, chunk in zip(seen, (0, 1, 2), strict=True):
        moves = chunk_of(batch, chunk).cameras
        exact = cameras(moves.world_from_camera_K44, moves.intrinsics_K4)
        assert torch.equal(inputs.cameras.image_from_world_BK44, exact.image_from_world_BK44)


def test_only_relative_cameras_matter():
    """Every pose moved by one rigid transform."""
    world, batch = tiny_world(), scenarios()[:1]
    before = predicted(world, batch, far_along(world, batch, 2))
    turn = batch[0].actions.world_from_camera_K44[9]
    poses = turn @ batch[0].actions.world_from_camera_K44
    moved = [
        dataclasses.replace(
            batch[0], actions=dataclasses.replace(batch[0].actions, world_from_camera_K44=poses)
        )
    ]
    torch.testing.assert_close(predicted(world, moved, far_along(world, moved, 2)), before, atol=1e-5, rtol=0)


def test_nothing_is_given_without_a_video():
    """There is no start image: latent 0 is imagined."""
    context = far_along(tiny_world(), scenarios(), 0)
    assert context.given_K.tolist() == [False] * 4


def test_a_given_video_is_returned_as_it_is_and_then_gone_on_from():
    world, video = tiny_world(), noise(1, 5, 8)[0]
    one = [scenario(0, latents=video)]
    context = world.attend(world.begin(one), chunk_of(one, 0))
    assert context.given_K.tolist() == [True] * 4
    assert torch.equal(predicted(world, one, context), video[None, :, :4].expand(2, -1, -1, -1, -1))
    context = far_along(world, one, 2)
    assert context.given_K.tolist() == [False] * 4


def test_a_video_of_half_chunks_or_of_one_scenario_alone_is_refused():
    world = tiny_world()
    with pytest.raises(UnfitInputs, match="expected \\(3, 4 or a multiple of it, 2, 4\\)"):
        world.begin([scenario(0, latents=noise(1, 5, 6)[0])])
    with pytest.raises(UnfitInputs, match="give each the same number"):
        world.begin([scenario(0, latents=noise(1, 5, 4)[0]), scenario(1)])


def test_missing_or_misshapen_conditioning_is_refused():
    world, one = tiny_world(), scenario(0)
    with pytest.raises(UnfitInputs, match="s0: minWM starts from prepared conditioning"):
        world.begin([dataclasses.replace(one, conditioning=None)])
    for states in (torch.zeros(3, 7), torch.zeros(TINY.text_length + 1, TINY.states_width)):
        with pytest.raises(UnfitInputs, match="expected 1 to 6 states of 10 numbers"):
            world.begin([dataclasses.replace(one, conditioning={"text_states": states})])


def test_a_chunk_of_another_length_is_refused():
    world, one = tiny_world(), scenarios()[:1]
    with pytest.raises(ValueError, match="chunks of 4 latents, not 3"):
        world.attend(world.begin(one), one[0].actions.latents(0, 3))


def test_guidance_is_for_play_with_stage_1():
    guidance = Guidance(3.0, torch.zeros(2, TINY.states_width))
    with pytest.raises(UnfitInputs, match="dmd were distilled to run without guidance"):
        tiny_world("dmd", guidance=guidance)
    world, one = tiny_world("ar_diffusion_tf", guidance=guidance), scenarios()[:1]
    with pytest.raises(ValueError, match="guidance is for play"):
        world.predict_clean(noise(2), SIGMA, chunk_of(one, 0), far_along(world, one, 0))


def test_the_stage_that_is_not_causal_is_refused():
    with pytest.raises(UnfitInputs, match="bidirectional is not causal"):
        stage_of("bidirectional")
    with pytest.raises(UnfitInputs, match="sft is no stage of minWM: expected one of dmd"):
        stage_of("sft")


def shapes_of(net):
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def test_a_network_is_read_from_its_tensors():
    official = {"num_heads": 2, "text_len": 6}
    for changes in ({}, {"num_blocks": 3, "by_camera": False}, {"reads": "image", "in_channels": 8}):
        net = random_network(**changes)
        assert read_config(shapes_of(net), official) == net.config
    with pytest.raises(UnfitInputs, match=r"of no causal Wan2\.1 network: expected patch_embedding\.weight"):
        read_config({"img_in.proj.weight": (4, 4)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"reads": "image"}, "reads a start image"), ({"by_camera": False}, "no branch by cameras")],
)
def test_the_network_of_another_family_is_refused(changes, words):
    with pytest.raises(UnfitInputs, match=words):
        minwm(random_network(**changes), Blend(), (HEIGHT, WIDTH))


def test_a_size_that_patches_do_not_divide_is_refused():
    with pytest.raises(UnfitInputs, match="3x4 cells cannot be split into patches of 2x2"):
        minwm(random_network(), Blend(), (3, 4))
