"""What is kept by picture is what would be found anew, costs nothing again, and stays within its bound."""

import pytest
import torch

from worldcompass.worlds.small.by_picture import ByPicture


@pytest.fixture
def asked():
    return []


@pytest.fixture
def means(asked):
    def look(pictures):
        asked.append(len(pictures))
        return pictures.mean((2, 3)), pictures.amax((1, 2, 3))

    return ByPicture(look, most=3)


def test_pictures_that_come_again_are_not_looked_at_again(means, asked):
    pictures = torch.rand(3, 3, 4, 4)
    first = means(pictures)
    again = means(pictures[[2, 0, 0]].clone())
    assert asked == [1, 1, 1]
    assert torch.equal(first[0], pictures.mean((2, 3))) and torch.equal(first[1], pictures.amax((1, 2, 3)))
    assert all(torch.equal(a[[2, 0, 0]], b) for a, b in zip(first, again, strict=True))


def test_what_is_found_of_a_picture_does_not_depend_on_the_others(asked):
    layer = torch.nn.Conv2d(3, 32, 3)
    alone, together = (ByPicture(lambda x: (layer(x),), 8) for _ in range(2))
    pictures = torch.rand(5, 3, 16, 16)
    (one,), (all_five,) = alone(pictures[3:4]), together(pictures)
    assert torch.equal(one[0], all_five[3]) and not one.requires_grad


def test_the_oldest_are_forgotten_first(means, asked):
    a, b, c, d = torch.rand(4, 1, 3, 2, 2)
    for picture in (a, b, c, a, d, a, b):  # b is the oldest when d comes
        means(picture)
    assert len(asked) == 5


def test_in_inference_mode_nothing_is_kept(means, asked):
    with torch.inference_mode():
        means(torch.ones(2, 3, 4, 4))
        means(torch.ones(2, 3, 4, 4))
    assert asked == [2, 2]
