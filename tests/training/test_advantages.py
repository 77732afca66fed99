"""Advantages against plain loops and stored numbers, and what they must refuse."""

import statistics

import pytest
import torch

from worldcompass.training.advantages import (
    all_groups,
    damped,
    group_advantages,
    is_flat,
    keep_extremes,
    largest_group,
    masked_std,
    own_group,
)

SCORES = torch.tensor([[[1.0, 0.0], [2.0, 4.0], [6.0, 2.0]], [[0.5, 9.0], [0.5, 1.0], [2.0, 2.0]]])
ALL = torch.ones_like(SCORES, dtype=torch.bool)


def plain(scores, weights, spread, clip):
    """Loops over lists, nothing shared with the package."""
    groups = scores.tolist()
    result = []
    for group in groups:
        row = []
        for values in group:
            total = 0.0
            for r, weight in enumerate(weights):
                own = [v[r] for v in group]
                everything = [v[r] for g in groups for v in g]
                squares = [statistics.variance([v[r] for v in g]) for g in groups]
                std = {
                    own_group: statistics.stdev(own),
                    all_groups: statistics.stdev(everything),
                    largest_group: max(squares) ** 0.5,
                    damped: (statistics.variance(own) + sum(squares) / len(squares)) ** 0.5,
                }[spread]
                total += weight / sum(weights) * (values[r] - sum(own) / len(own)) / (std + 1e-8)
            row.append(max(-clip, min(clip, total)) / clip)
        result.append(row)
    return torch.tensor(result)


@pytest.mark.golden
@pytest.mark.parametrize("scale", [own_group, all_groups, largest_group, damped])
@pytest.mark.parametrize("clip", [0.4, 2.0])
def test_advantages_equal_a_plain_loop(scale, clip):
    weights = torch.tensor([2.0, 1.0])
    ours = group_advantages(SCORES, ALL, weights, scale, clip).advantage_NG
    torch.testing.assert_close(ours, plain(SCORES, weights.tolist(), scale, clip))


def test_stored_numbers():
    ours = group_advantages(SCORES, ALL, torch.tensor([2.0, 1.0]), own_group, 2.0).advantage_NG
    stored = [[-0.418643, 0.040679, 0.377964], [-0.00127, -0.307158, 0.308428]]
    torch.testing.assert_close(ours, torch.tensor(stored), atol=2e-6, rtol=0)


@pytest.mark.parametrize("scale", [own_group, all_groups, largest_group, damped])
@pytest.mark.parametrize("value", [0.0, 1 / 3, 1e6 + 1 / 3, -1e-9])
def test_a_constant_reward_gives_exactly_zero_and_not_amplified_rounding(scale, value):
    scores = torch.full((3, 12, 1), value) * torch.tensor([1.0, 1.0, 0.7])[:, None, None]
    result = group_advantages(scores, torch.ones_like(scores, dtype=torch.bool), torch.ones(1), scale)
    assert torch.equal(result.advantage_NG, torch.zeros(3, 12))
    assert result.flat_NR.all()


def test_rounding_of_a_constant_is_flat_too():
    scores = torch.full((1, 6, 1), 0.1) + torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 7.45e-9])[None, :, None]
    assert is_flat(scores, torch.ones_like(scores, dtype=torch.bool)).all()


@pytest.mark.parametrize("scale", [own_group, all_groups, largest_group, damped])
def test_abstentions_enter_neither_mean_nor_deviation_and_count_zero(scale):
    valid = ALL.clone()
    valid[0, 2, 0] = False
    scores = SCORES.clone()
    scores[0, 2, 0] = 1e9
    result = group_advantages(scores, valid, torch.tensor([1.0, 1.0]), scale).per_reward_NGR
    assert result[0, 2, 0] == 0
    assert result[0, 0, 0] == -result[0, 1, 0] != 0
    spread = {
        own_group: statistics.stdev([1.0, 2.0]),
        all_groups: statistics.stdev([1.0, 2.0, 0.5, 0.5, 2.0]),
        largest_group: statistics.stdev([0.5, 0.5, 2.0]),
        damped: (statistics.variance([1.0, 2.0]) * 1.5 + statistics.variance([0.5, 0.5, 2.0]) / 2) ** 0.5,
    }[scale]
    assert result[0, 1, 0].item() == pytest.approx(0.5 / spread, rel=1e-6)


def test_a_group_where_all_abstain_is_flat_and_zero():
    result = group_advantages(SCORES, torch.zeros_like(ALL), torch.ones(2))
    assert result.flat_NR.all() and not result.advantage_NG.any()


def test_std_of_a_single_valid_score_is_zero():
    valid = torch.tensor([[[True], [False], [False]]])
    assert masked_std(torch.rand(1, 3, 1), valid, (1,)).item() == 0


@pytest.mark.parametrize(
    ("scores", "weights", "clip", "words"),
    [
        (SCORES, torch.tensor([1.0]), 2.0, "weights"),
        (SCORES, torch.tensor([1.0, -1.0]), 2.0, "not negative"),
        (SCORES, torch.tensor([1.0, torch.nan]), 2.0, "finite"),
        (SCORES, torch.tensor([1.0, torch.inf]), 2.0, "finite"),
        (SCORES, torch.zeros(2), 2.0, "not all zero"),
        (SCORES, torch.ones(2), 0.0, "above 0"),
        (SCORES * torch.nan, torch.ones(2), 2.0, "not finite"),
    ],
)
def test_unusable_input_is_refused(scores, weights, clip, words):
    with pytest.raises(ValueError, match=words):
        group_advantages(scores, ALL, weights, own_group, clip)


def test_each_reward_is_clipped_before_it_is_weighed():
    weights = torch.tensor([2.0, 1.0])
    free = group_advantages(SCORES, ALL, weights, own_group)
    tight = group_advantages(SCORES, ALL, weights, own_group, reward_clip=0.5)
    expected = (free.per_reward_NGR.clamp(-0.5, 0.5) * weights / 3).sum(-1)
    torch.testing.assert_close(tight.ranking_NG, expected)
    torch.testing.assert_close(tight.advantage_NG, expected.clamp(-2, 2) / 2)
    assert torch.equal(tight.per_reward_NGR, free.per_reward_NGR)
    assert not torch.allclose(tight.ranking_NG, free.ranking_NG)
    with pytest.raises(ValueError, match="reward_clip must be above 0"):
        group_advantages(SCORES, ALL, weights, own_group, reward_clip=0.0)


def test_one_extreme_reward_cannot_outweigh_what_the_others_say():
    """Eleven alike and one far off: unclipped, the outlier of a light reward decides who is best."""
    outlier = torch.zeros(12)
    outlier[0] = 100.0
    scores = torch.stack([torch.linspace(0, 1, 12), outlier], -1)[None]
    valid, weights = torch.ones_like(scores, dtype=torch.bool), torch.tensor([1.0, 1.0])
    best = [
        int(group_advantages(scores, valid, weights, own_group, reward_clip=clip).ranking_NG.argmax())
        for clip in (None, 1.6)
    ]
    assert best == [0, 11]


def test_extremes_are_the_best_first_and_the_worst_last_with_stable_ties():
    ranking = torch.tensor([[0.1, 0.9, -0.5, 0.9, -2.0, 0.0]])
    assert keep_extremes(ranking, 2, 2).tolist() == [[1, 3, 2, 4]]
    assert keep_extremes(ranking, 0, 2).tolist() == [[2, 4]]
    assert keep_extremes(ranking, 6, 0).tolist() == [[1, 3, 0, 5, 2, 4]]
    assert keep_extremes(torch.zeros(1, 4), 1, 1).tolist() == [[0, 3]]


@pytest.mark.parametrize(("best", "worst"), [(0, 0), (-1, 2), (4, 3)])
def test_extremes_that_do_not_fit_are_refused(best, worst):
    with pytest.raises(ValueError, match="cannot keep"):
        keep_extremes(torch.zeros(1, 6), best, worst)
