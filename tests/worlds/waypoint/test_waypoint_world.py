"""The Waypoint world fulfils the contract on tiny random networks, with a stand-in for the autoencoder."""

import dataclasses

import pytest
import torch
from waypoint_tiny import CONFIG, far_along, frame_of, noise, random_network, scenario, scenarios, world_of

from worldcompass.errors import UnfitInputs
from worldcompass.rollout import RolloutRequest, imagine_groups, imagine_video
from worldcompass.testing import check_world_model
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.loop import train
from worldcompass.training.lora import Lora, merge_lora
from worldcompass.training.optim import Optimiser
from worldcompass.training.selection import Learning
from worldcompass.types import Scores
from worldcompass.world import Guidable
from worldcompass.worlds.waypoint.rings import Sight, kept, visible
from worldcompass.worlds.waypoint.rotary import rotary_table, rotate
from worldcompass.worlds.waypoint.transformer import Frame, Prompt, WaypointTransformer, rms
from worldcompass.worlds.waypoint.weights import to_official
from worldcompass.worlds.waypoint.world import LORA_TARGETS


@pytest.fixture(scope="module")
def world():
    """Not to be changed."""
    return world_of()


@pytest.fixture(scope="module")
def batch(world):
    return scenarios(world)


@pytest.mark.parametrize("num_given", [1, 3])
def test_it_fulfils_the_contract(world, num_given):
    """With two pasts in one batch, whether a video begins with one given frame or with several."""
    check_world_model(world, scenarios(world, num_given=num_given))


def test_a_frame_is_a_latent_and_a_chunk(world):
    assert (world.spec.chunk_lengths, world.spec.frames_per_latent, world.spec.first_latent_frames) == (
        (1,),
        1,
        1,
    )
    assert world.spec.num_frames(0, 60) == 60 == world.spec.fps


def test_given_latents_are_chunks_of_their_own_and_cost_no_pass(world):
    """Each enters the rings by its own pass at level 0, with its own controls."""
    given = scenario(world, 0, num_given=3)
    context, seen = world.begin([given]), []
    hook = world.net.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    for t in range(4):
        attended = world.attend(context, frame_of([given], t))
        assert attended.given_K.tolist() == [t < 3]
        clean = world.predict_clean(noise(world, 2), torch.ones(2), frame_of([given], t), attended)
        if t < 3:
            assert torch.equal(clean[:, :, 0], given.conditioning["latents"][t].expand(2, -1, -1, -1))
        context = world.remember(attended, clean[:1], frame_of([given], t))
    hook.remove()
    assert [frame.sigma_B.tolist() for frame in seen] == [[0], [0], [0], [1, 1], [0]]
    assert [frame.index for frame in seen] == [0, 1, 2, 3, 3]
    for frame, t in zip(seen, (0, 1, 2, 3, 3), strict=True):
        assert torch.equal(frame.controls_BA[0], given.actions.values_KTA[t, 0])


def test_a_start_image_is_encoded_like_the_first_frame_of_a_recording(world, batch):
    picture = torch.randint(0, 256, (3, *world.spec.frame_size), dtype=torch.uint8)
    text = {"text_states": batch[0].conditioning["text_states"]}
    start = dataclasses.replace(batch[0], image_3hw=picture, conditioning=text)
    context = world.begin([start])
    assert torch.equal(context.pasts[0].given_GCHW[0], world.encode(picture[None, None])[0, :, 0])
    assert torch.equal(world.decode(context.pasts[0].given_GCHW[None].transpose(1, 2), context)[0, 0],
                       world.decoder.decode(context.pasts[0].given_GCHW)[0])  # fmt: skip


def test_rings_share_their_frames_and_hold_no_more_than_layers_can_reach(world, batch):
    """A past keeps 2 frames of a window of 3, and 2 pinned frames of a window of 4 with dilation 2."""
    context = far_along(world, batch[:1], 9)
    later = world.remember(context, noise(world, 1), frame_of(batch[:1], 9))
    rings = [[kept.frame for kept in ring] for ring in later.pasts[0].rings]
    assert rings == [[6, 8], [8, 9], [6, 8]]
    before, after = context.pasts[0].rings[0], later.pasts[0].rings[0]
    assert after is before  # frame 9 is not pinned
    assert later.pasts[0].rings[1][0] is context.pasts[0].rings[1][1]
    assert all(kept.keys_hNd._base is None for ring in later.pasts[0].rings for kept in ring)


def test_a_global_layer_sees_one_pinned_frame_less_when_the_current_one_is_pinned():
    sight, ring, found = Sight(dilation=3, slots=2), (), []
    for t in range(9):
        found.append([one.frame for one in visible(ring, t, sight)])
        ring = kept(ring, t, torch.zeros(1), torch.zeros(1), sight)
    assert found == [[], [0], [0], [0], [0, 3], [0, 3], [3], [3, 6], [3, 6]]


def test_pasts_of_different_ages_and_rows_that_do_not_divide_are_refused(world, batch):
    with pytest.raises(ValueError, match="give 1 to 3 latents"):
        world.begin([batch[0], scenario(world, 1, num_given=3)])
    with pytest.raises(ValueError, match="3 rows cannot be divided among 2 pasts"):
        world.predict_clean(noise(world, 3), torch.ones(3), frame_of(batch, 1), far_along(world, batch, 1))


def test_missing_or_unpadded_conditioning_is_refused(world, batch):
    """The padding of a caption takes part in attention, so that states without it are other states."""
    start = batch[0].conditioning
    for wrong, words in (
        (None, "text_states is missing"),
        ({"text_states": start["text_states"]}, "latent is missing"),
        (
            {**start, "text_states": start["text_states"][:-1]},
            r"shape \(5, 32\), expected \(6, 32\), padding",
        ),
        ({**start, "latent": torch.zeros(3, 2, 2)}, r"latents has the shape \(1, 3, 2, 2\)"),
    ):
        with pytest.raises(ValueError, match=words):
            world.begin([dataclasses.replace(batch[0], conditioning=wrong)])


def test_padding_of_the_caption_counts(world, batch):
    """A row of zeros has the logit and the value 0, and takes its share."""
    states = batch[0].conditioning["text_states"]
    (k, v), *_ = world.net(Prompt(states))
    assert not k[:, :, -2:].any()
    q = torch.ones(1, 1, 1, k.shape[-1])
    shares = torch.softmax(q @ k.mT / k.shape[-1] ** 0.5, -1)
    reader = world.net.transformer.blocks[0].prompt_cross_attn
    tokens = torch.randn(1, 6, CONFIG.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        full, short = reader(tokens, [(k, v)]), reader(tokens, [(k[:, :, :-2], v[:, :, :-2])])
    assert float(shares[..., -2:].min()) > 0
    assert float((full - short).abs().max()) > 1e-3


def test_more_than_one_frame_at_once_and_a_plain_context_are_refused(world, batch):
    context = world.begin(batch[:1])
    two = batch[0].actions.latents(0, 2)
    with pytest.raises(ValueError, match="chunks of 1 latent, not 2"):
        world.attend(context, type(two).stack([two]))
    with pytest.raises(ValueError, match="call attend"):
        world.predict_clean(noise(world, 1), torch.ones(1), frame_of(batch[:1], 0), context)


def test_the_levels_are_those_of_the_file_and_nothing_else_is_rolled_out():
    world = world_of(dataclasses.replace(CONFIG, sigmas=(1.0, 0.94921875, 0.83984375, 0.0)))
    assert world.spec.sigmas().tolist() == [1.0, 0.94921875, 0.83984375, 0.0]
    with pytest.raises(UnfitInputs, match="fixed noise levels for 3 denoising steps, got 4"):
        world.spec.sigmas(4)


def test_any_level_can_be_asked_for(world, batch):
    """Training asks for levels between those of the sampler, which the official engine's table lacks."""
    context = far_along(world, batch[:1], 2)
    with torch.no_grad():
        near, far = (
            world.predict_clean(noise(world, 1), torch.tensor([s]), frame_of(batch[:1], 2), context)
            for s in (0.5, 0.5001)
        )
    assert 0 < float((near - far).abs().max()) < 0.05


def test_nothing_can_be_guided_and_the_stored_empty_embeddings_are_dead(world, batch):
    assert not isinstance(world, Guidable)
    net = random_network()
    with torch.no_grad():
        net.ctrl_cfg.null_emb.add_(1)
        net.prompt_cfg.null_emb.add_(1)
        frame = Frame(noise(world, 1)[:, :, 0], torch.ones(1), torch.zeros(1, CONFIG.num_controls), 1)
        past = far_along(world, batch[:1], 1).attended.pasts
        assert torch.equal(net(frame, past), world.net(frame, past))


def test_videos_are_longer_than_the_official_table(world, batch):
    """Angles are computed: frame 5000 is as good as frame 5, and another one."""
    frame = Frame(noise(world, 1)[:, :, 0], torch.ones(1), torch.zeros(1, CONFIG.num_controls), 5)
    pasts = far_along(world, batch[:1], 3).attended.pasts
    with torch.no_grad():
        near, far = (world.net(dataclasses.replace(frame, index=t), pasts) for t in (5, 5000))
    assert bool(far.isfinite().all())
    assert float((near - far).abs().max()) > 1e-3


def test_the_noise_level_is_embedded_in_float32_whatever_the_weights():
    net = random_network().bfloat16()
    sigma = torch.tensor([0.73, 0.9999])
    found = net.denoise_step_emb(sigma)
    assert found.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net.denoise_step_emb(sigma), found)
    assert torch.equal(net.float().denoise_step_emb(sigma), found)


def test_bfloat16_and_autocast_change_little(world, batch):
    sigma, noisy = torch.tensor([0.7, 0.4]), noise(world, 2)
    with torch.no_grad():
        expected = world.predict_clean(noisy, sigma, frame_of(batch, 4), far_along(world, batch, 4))
        with torch.autocast("cpu", torch.bfloat16):
            found = [world.predict_clean(noisy, sigma, frame_of(batch, 4), far_along(world, batch, 4))]
        half = world_of()
        half.net.bfloat16()
        found.append(half.predict_clean(noisy, sigma, frame_of(batch, 4), far_along(half, batch, 4)))
    for other in found:
        assert other.dtype == torch.float32
        assert float((other - expected).abs().max()) < 0.05 * float(expected.abs().max())


def test_norms_have_the_smallest_epsilon():
    """Of float32's machine precision: a larger one would shrink small activations."""
    x = torch.full((1, 4), 1e-3)
    torch.testing.assert_close(rms(x), x / (1e-6 + 2**-23) ** 0.5, atol=1e-6, rtol=0)


def test_stored_keys_hold_all_first_components_then_all_second_ones():
    table = rotary_table(3, (2, 3), 32, torch.device("cpu"))
    x = torch.randn(1, 1, 6, 32, generator=torch.Generator().manual_seed(0))
    turned, (cos, sin) = rotate(x, table)[0, 0], table
    first, second = x[0, 0, :, 0::2], x[0, 0, :, 1::2]
    torch.testing.assert_close(turned[:, :16], first * cos - second * sin)
    torch.testing.assert_close(turned[:, 16:], second * cos + first * sin)


def test_recomputed_activations_give_the_same_gradients(world, batch):
    found = []
    for recompute in (False, True):
        own = world_of()
        own.net.recompute = recompute
        clean = own.predict_clean(
            noise(own, 2), torch.tensor([0.7, 0.2]), frame_of(batch, 3), far_along(own, batch, 3)
        )
        clean.square().mean().backward()
        found.append({n: p.grad for n, p in own.net.named_parameters() if p.requires_grad})
    assert all(torch.equal(g, found[1][n]) for n, g in found[0].items())


def test_all_but_the_captions_own_parameters_are_trained(world, batch):
    own = world_of()
    frozen = {n for n, p in own.net.named_parameters() if not p.requires_grad}
    assert {n.split(".")[-2] for n in frozen} == {"k_proj", "v_proj", "ctrl_cfg", "prompt_cfg"}
    clean = own.predict_clean(
        noise(own, 2), torch.tensor([0.7, 0.2]), frame_of(batch, 3), far_along(own, batch, 3)
    )
    clean.square().mean().backward()
    without = {n for n, p in own.net.named_parameters() if p.requires_grad and not bool(p.grad.any())}
    assert without == {"transformer.blocks.0.attn.v_lamb"}  # layer 0 mixes its values with themselves


class Brightness:
    """A critic that any change can satisfy."""

    name = "brightness"

    def __call__(self, group):
        values = group.frames_GF3hw.float().mean((1, 2, 3, 4))
        return Scores(values, torch.ones_like(values, dtype=torch.bool))


def train_two_steps(world, batch, folder, lora=None):
    config = Config(
        steps=2,
        sampling=Sampling(prompts_per_step=2, group_size=4, first_chunk=1, last_chunk=2),
        learning=Learning(best=1, worst=1, noise_levels=2),
        optimiser=Optimiser(lr=1e-3, lora=lora),
    )
    return train(world, [Brightness()], batch, config, folder, live=False)


def test_the_whole_loop_trains_it_and_tied_matrices_stay_one(batch, tmp_path):
    world = world_of()
    before = to_official(world.net, world.net.state_dict())
    train_two_steps(world, batch, tmp_path)
    after = to_official(world.net, world.net.state_dict())
    tied = [f"transformer.blocks.{i}.cond_head.cond_proj.4.weight" for i in range(3)]
    assert all(torch.equal(after[name], after[tied[0]]) for name in tied)
    assert not torch.equal(after[tied[0]], before[tied[0]])
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {n.split(".")[-2] for n in same} <= {"k_proj", "v_proj", "ctrl_cfg", "prompt_cfg", "attn"}


def test_adapters_train_what_reads_a_frame_and_merge(batch, tmp_path):
    world = world_of()
    names = {n for n, m in world.net.named_modules() if isinstance(m, torch.nn.Linear)}
    before = to_official(world.net, world.net.state_dict())
    policy = train_two_steps(world, batch, tmp_path, Lora(rank=2, targets=LORA_TARGETS))
    layers = {n.removesuffix(".lora_B") for n in policy.live if n.endswith("lora_B")}
    assert {n for n in names - layers if "blocks" in n and "prompt_cross_attn" not in n} == {
        f"transformer.blocks.{i}.attn.gate_proj" for i in range(3)
    }
    merge_lora(world.net)
    after = to_official(world.net, world.net.state_dict())
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{name}.weight" for name in layers}


def test_adapters_of_tied_matrices_stay_tied(batch, tmp_path):
    """One layer of ours stands for those of all blocks, so that one adapter changes all of them alike."""
    world = world_of()
    before = to_official(world.net, world.net.state_dict())
    train_two_steps(world, batch, tmp_path, Lora(rank=2, targets=r".*cond_proj.*"))
    merge_lora(world.net)
    after = to_official(world.net, world.net.state_dict())
    for j in range(6):
        copies = [f"transformer.blocks.{i}.cond_head.cond_proj.{j}.weight" for i in range(3)]
        assert all(torch.equal(after[name], after[copies[0]]) for name in copies)
        assert not torch.equal(after[copies[0]], before[copies[0]])


def test_videos_and_groups_are_imagined_after_the_given_frames(world, batch):
    video = imagine_video(world, batch)
    assert video.shape == (2, 12, 3, *world.spec.frame_size)
    request = RolloutRequest(batch, 5, 1, 3, (0,), world.spec.sigmas())
    (futures,) = imagine_groups(world, request)
    assert [g.frames_GF3hw.shape[:2] for g in futures.groups] == [(3, 1)] * 2
    with pytest.raises(UnfitInputs, match="first_chunk=1"):
        imagine_groups(world, dataclasses.replace(request, chunk=0))


def test_the_package_leaves_the_precision_of_matrices_as_it_is():
    """The official engine lowers it for the whole process."""
    assert torch.get_float32_matmul_precision() == "highest"


def test_latents_of_another_size_are_refused(world):
    frame = Frame(torch.zeros(1, 3, 4, 4), torch.ones(1), torch.zeros(1, CONFIG.num_controls), 0)
    with pytest.raises(ValueError, match=r"shape \(3, 4, 4\), expected \(3, 4, 6\)"):
        world.net(frame)


def test_sharding_gathers_every_block_by_itself_and_the_tied_matrices_once():
    net = WaypointTransformer(CONFIG)
    units = list(net.units())
    found = [p for unit in units for module in unit for p in module.parameters()]
    assert {id(p) for p in net.transformer.parameters()} <= {id(p) for p in found}
    assert units[0] == (net.noise_heads,)
    assert not [p for p in net.parameters() if p.ndim == 0]  # a scalar cannot be sharded
