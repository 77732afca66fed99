"""A world of the kit keeps the contract, shares pasts without copies, and needs only what is its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from bouncing import NET, SPEC, BouncingWorld, random_world, scenarios
from safetensors.torch import save_file
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.reachable import reachable_truth
from worldcompass.rollout import imagine_video
from worldcompass.testing import check_world_model
from worldcompass.types import Actions, Scenario, Truth
from worldcompass.walk import start_walk
from worldcompass.worlds.small.context import needed
from worldcompass.worlds.small.heads import posterior_velocity
from worldcompass.worlds.small.weights import WeightFiles
from worldcompass.worlds.small.world import SmallWorld

C, H, W = SPEC.latent_shape


class ShiftedViews(BouncingWorld):
    """Its views are the last latent and that latent moved by a cell to each side."""

    def views(self, look, last, older, actions) -> Tensor:
        latent = self.autoencoder.encode(look.picture)
        moved = torch.cat([torch.roll(latent, shift, -1) for shift in (-1, 1)], 1)
        return moved[:, :, None].expand(-1, -1, len(actions), -1, -1)


@pytest.fixture(scope="module")
def world() -> SmallWorld:
    return random_world()


def seeing() -> SmallWorld:
    return random_world(replace(NET, seen=2 * C), ShiftedViews)


@pytest.mark.parametrize("make", [random_world, seeing])
def test_a_world_of_the_kit_keeps_the_contract(make):
    check_world_model(make(), scenarios(20))


def test_chunks_of_one_latent_give_the_same_number_of_frames(world):
    for length in SPEC.chunk_lengths:
        video = imagine_video(world, scenarios(6 if length == 1 else 8), chunk_length=length, num_steps=2)
        assert video.shape[1:] == (21 if length == 1 else 29, 3, 16, 16) and video.dtype == torch.uint8


def test_a_still_world_weakens_its_commands_and_another_its_views(world):
    for own in (world, seeing()):
        context = own.begin(scenarios())
        attended = own.attend(context, Actions.stack([s.actions.latents(0, 4) for s in scenarios()])).attended
        weak = own.weaken(replace(context, attended=attended)).attended
        has_views = attended.seen_PDKyx.shape[1] > 0
        assert not weak.seen_PDKyx.any() and not (weak.command[0].any() and not has_views)
        assert weak.command[0].equal(attended.command[0]) == has_views


def test_a_guess_is_trusted_where_all_is_noise_and_the_noisy_latent_where_there_is_none():
    """Between the two ends the estimate is the mean of the posterior, found here by summing over latents."""
    noisy, mean, spread = (torch.randn(2, C, H, W).abs() + 0.1 for _ in range(3))

    def clean(sigma: float) -> Tensor:
        return noisy - sigma * posterior_velocity(noisy, mean, spread, torch.tensor(sigma))

    torch.testing.assert_close(clean(1.0), mean)
    torch.testing.assert_close(clean(0.0), noisy)
    possible = torch.linspace(-12, 12, 4001).view(-1, 1, 1, 1, 1)
    unlikely = ((possible - mean) / spread).square() + ((noisy - 0.4 * possible) / 0.6).square()
    expected = (torch.softmax(-unlikely / 2, 0) * possible).sum(0)
    torch.testing.assert_close(clean(0.6), expected, atol=1e-3, rtol=1e-3)


def test_sizes_that_do_not_divide_are_refused_in_words():
    with pytest.raises(ValueError, match=r"tokens of \(3, 1\) cells do not divide latents of \(4, 4\)"):
        replace(NET, token=(3, 1))
    with pytest.raises(ValueError, match="a width of 20 does not divide into heads of 12"):
        replace(NET, width=20)


def test_history_is_bounded_and_the_first_chunk_is_kept(world):
    """The memory does not grow with the length of the video."""
    actions = Actions.stack([SPEC.actions.commanded(SPEC.actions.parse("right-90"))])
    context = world.begin(scenarios()[:1])
    for chunk in range(20):
        part = actions.latents(4 * chunk, 4 * chunk + 4)
        context = world.attend(context, part)
        if context.attended.prefix is not None:
            assert context.attended.prefix[0][0].shape[2] <= 8 * NET.tokens
        context = world.remember(context, torch.randn(1, C, 4, H, W), part)
    assert sum(len(chunk) for chunk in context.history) <= world.memory.most
    assert not context.history[0].actions.commanded_K[0, 0] and context.history[1].actions.commanded_K.all()


def test_pieces_for_the_cache_change_nothing(world, monkeypatch):
    """Predictions, gradients and frames are those of all rows at once."""
    generator, found = torch.Generator().manual_seed(0), []
    actions = Actions.stack([s.actions.latents(0, 4) for s in scenarios()])
    noisy, sigma = torch.randn(8, C, 4, H, W, generator=generator), torch.full((8,), 0.7)
    context = world.attend(world.begin(scenarios()), actions)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    for per_thread in (4, 99):
        monkeypatch.setattr("worldcompass.worlds.small.world.ROWS_PER_THREAD", per_thread)
        monkeypatch.setattr("worldcompass.worlds.small.world.CLIPS_PER_THREAD", per_thread)
        world.net.zero_grad()
        clean = world.predict_clean(noisy, sigma, actions, context)
        clean.square().mean().backward()
        gradient = torch.cat([p.grad.flatten() for p in world.net.parameters() if p.grad is not None])
        found.append((clean.detach(), gradient, world.decode(noisy, context).float()))
    assert (found[0][2] - found[1][2]).abs().max() <= 1
    for ours, whole in zip(found[0][:2], found[1][:2], strict=True):
        torch.testing.assert_close(ours, whole, atol=1e-5, rtol=1e-4)


def test_reconstructed_video_is_what_its_chunks_decode_to_without_the_network(world, monkeypatch):
    rng = torch.Generator().manual_seed(0)
    known = [
        replace(s, truth=Truth(torch.randint(0, 256, (45, 3, 16, 16), generator=rng).byte(), s.actions))
        for s in scenarios(12)
    ]
    with monkeypatch.context() as without:
        without.delattr(SmallWorld, "reconstruct")
        walked = reachable_truth(world, known)
    monkeypatch.setattr(world.net, "forward", None)
    whole = reachable_truth(world, known)
    assert whole.shape == walked.shape and whole.dtype == torch.uint8
    assert (whole.int() - walked.int()).abs().max() <= 1  # rounding
    assert (whole == walked).float().mean() > 0.999


def test_a_piece_has_rows_for_every_thread(world, monkeypatch):
    monkeypatch.setattr("worldcompass.worlds.small.world.CLIPS_PER_THREAD", 3)
    sizes: list[int] = []
    monkeypatch.setattr(world, "_frames", lambda clean, _: sizes.append(len(clean)) or clean)
    latents = torch.zeros(8, C, 4, H, W)
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        world.decode(latents, world.begin(scenarios()))
    assert sizes == [3, 3, 2, 6, 2]


def test_rows_of_a_larger_network_come_in_smaller_pieces(world, monkeypatch):
    monkeypatch.setattr("worldcompass.worlds.small.world.ROWS_PER_THREAD", 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    sizes: list[int] = []
    monkeypatch.setattr(world, "_predict", lambda noisy, *_: sizes.append(len(noisy)) or noisy)
    actions = Actions.stack([s.actions.latents(0, 4) for s in scenarios()])
    context = world.attend(world.begin(scenarios()), actions)
    for size in (1, 2):
        monkeypatch.setattr(world.net, "row_size", size)
        world.predict_clean(torch.zeros(8, C, 4, H, W), torch.ones(8), actions, context)
    assert sizes == [8, 4, 4]


def test_only_chunks_with_a_chosen_latent_are_gathered(world):
    walk = start_walk(world, scenarios(), num_steps=1)
    for label in (1, 2, 1, 2, 3, 2):
        walk = walk.step(walk.of([label, label + 3]))
    history = walk.context.history
    chosen = torch.tensor([[0, 5, 6], [2, 5, 6]])
    kept, index = needed(history, chosen)
    assert [any(h is k for k in kept) for h in history] == [True, False, True, False, False, True, True]
    latents, gathered = (torch.cat([h.latents_PCKHW for h in part], 2) for part in (history, kept))
    rows = torch.arange(2)[:, None]
    assert gathered[rows, :, index].equal(latents[rows, :, chosen])


def test_an_image_of_another_size_is_refused_in_words(world):
    wrong = Scenario("x", scenarios()[0].actions, image_3hw=torch.zeros(3, 10, 10, dtype=torch.uint8))
    with pytest.raises(
        ValueError, match=r"Bouncing world starts from .* shape \(3, 16, 16\), got \(3, 10, 10\)"
    ):
        world.begin([wrong])


def test_weights_come_back_and_wrong_ones_are_refused_in_words(world, tmp_path):
    files = WeightFiles("bouncing", "1")
    with pytest.raises(UserError, match="the package has no weights of the bouncing world"):
        files.load(None, world.autoencoder, world.net)
    with pytest.raises(UserError, match=r"no weights at .* 'worldcompass bouncing pretrain'"):
        files.load(tmp_path, world.autoencoder, world.net)
    files.export(world.autoencoder, tmp_path / files.autoencoder)
    files.export(world.net, tmp_path / files.net)
    again = random_world()
    for parameter in again.net.parameters():
        parameter.data.zero_()
    files.load(tmp_path, again.autoencoder, again.net)
    assert again.net.stem.weight.equal(world.net.stem.weight.half().float())
    with pytest.raises(UserError, match="version 1, expected 2: pretrain them again"):
        WeightFiles("bouncing", "2").load(tmp_path, again.autoencoder, again.net)
    again.net.stem.weight.data[0] = torch.nan
    files.export(again.net, tmp_path / files.net)
    with pytest.raises(UserError, match=r"holds weights that are not finite \(stem.weight\)"):
        files.load(tmp_path, world.autoencoder, random_world().net)
    save_file({"a": torch.zeros(1)}, tmp_path / files.net, {"version": "1"})
    with pytest.raises(UserError, match="belongs to another network"):
        files.load(tmp_path, again.autoencoder, again.net)
    (tmp_path / files.net).write_bytes(b"not safetensors at all")
    with pytest.raises(UserError, match="is not a safetensors file"):
        files.load(tmp_path, again.autoencoder, again.net)
