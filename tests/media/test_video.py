"""Videos that browsers play, columns with labels, filmstrips."""

import av
import cv2
import numpy as np
import pytest
import torch

from worldcompass.media import video


def moving_square(length: int = 12, height: int = 48, width: int = 64) -> np.ndarray:
    frames = np.full((length, 3, height, width), 40, np.uint8)
    for index in range(length):
        frames[index, 0, 10:20, index : index + 10] = 220
    return frames


def read(path) -> tuple[np.ndarray, av.VideoStream]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(frames).transpose(0, 3, 1, 2), (
            stream.codec_context.name,
            stream.codec_context.pix_fmt,
            float(stream.average_rate),
        )


@pytest.mark.parametrize("as_type", [np.asarray, torch.from_numpy])
def test_mp4_is_h264_with_every_frame(tmp_path, as_type):
    frames = moving_square()
    path = video.write_mp4(tmp_path / "deep" / "a.mp4", as_type(frames), 15)
    back, facts = read(path)
    assert facts == ("h264", "yuv420p", 15.0)
    assert back.shape == frames.shape
    assert np.abs(back.astype(float) - frames).mean() < 4
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert [p.name for p in path.parent.iterdir()] == ["a.mp4"]


def test_odd_sizes_become_even(tmp_path):
    back, _ = read(video.write_mp4(tmp_path / "a.mp4", moving_square(3, 47, 63), 29.97))
    assert back.shape == (3, 3, 48, 64)


def test_side_by_side_holds_the_shorter_column():
    long, short = moving_square(8), moving_square(5)
    out = video.side_by_side([long, short], ["base", "a label far too long for this narrow column"], scale=2)
    assert out.shape == (8, 3, 96 + video.LABEL_HEIGHT, 2 * 128 + video.GAP)
    left, right = out[:, :, video.LABEL_HEIGHT :, :128], out[:, :, video.LABEL_HEIGHT :, -128:]
    assert (left[:, :, ::2, ::2] == long).all()
    assert (right[7, :, ::2, ::2] == short[4]).all()
    assert (out[0, :, : video.LABEL_HEIGHT] > 150).any(), "the label is drawn"


def test_stack_rows():
    assert video.stack_rows([moving_square(4), moving_square(2)]).shape == (4, 3, 98, 64)


def test_filmstrips(tmp_path):
    strip = video.filmstrip(moving_square(10), every=4)
    assert strip.shape == (3, 48, 3 * 64 + 2 * video.GAP)
    both = video.filmstrips([moving_square(10), moving_square(4)], ["base", "trained"], every=4, scale=1)
    assert both.shape == (3, 2 * (48 + video.LABEL_HEIGHT) + video.GAP, strip.shape[2])
    path = video.save_png(tmp_path / "x" / "strip.png", strip)
    assert (cv2.imread(str(path))[:, :, ::-1].transpose(2, 0, 1) == strip).all()


def bars(frames, height=48):
    """The bars below frames of this height."""
    return frames[..., height:, :]


def test_every_frame_of_a_video_stands_above_the_keys_of_its_moment():
    frames = moving_square(4)
    shown = video.above_keys(frames, ["start", "w + left", "w + left", "no key"])
    assert shown.shape == (4, 3, 48 + video.KEYS_HEIGHT, 64) and (shown[:, :, :48] == frames).all()
    start, first, second, last = bars(shown)
    assert (first == second).all() and (first != start).any() and (first != last).any()
    assert (first > 150).any(), "the keys are drawn"
    with pytest.raises(ValueError, match="one text for each of 4 frames, got 1"):
        video.above_keys(frames, ["w"])


def test_every_picture_of_a_filmstrip_has_its_own_keys():
    keys = ["start", *["w"] * 4, *["left + up"] * 4]
    both = video.filmstrips([moving_square(9), moving_square(7)], ["base", "trained"], 4, 1, keys)
    row = 48 + video.KEYS_HEIGHT + video.LABEL_HEIGHT
    assert both.shape == (3, 2 * row + video.GAP, 3 * 64 + 2 * video.GAP)
    below = [bars(both[:, video.LABEL_HEIGHT : row, 66 * i : 66 * i + 64]) for i in range(3)]
    assert (bars(video.above_keys(moving_square(1), ["w"]))[0] == below[1]).all()
    assert (below[0] != below[1]).any() and (below[1] != below[2]).any()


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 3, 4, 4)), np.zeros((2, 4, 4, 3), np.uint8), moving_square()[:0]]
)
def test_wrong_frames_are_refused(frames):
    with pytest.raises(ValueError, match="expected uint8 frames"):
        video.to_array(frames)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="one label for each column"):
        video.side_by_side([moving_square()], [])
    with pytest.raises(ValueError, match="every must be"):
        video.filmstrip(moving_square(), 0)


def test_equal_frames_give_equal_bytes_of_a_video(tmp_path):
    frames = np.full((7, 3, 104, 136), 46, np.uint8)
    frames[:, :, 40:64, 8:128] = np.random.default_rng(0).integers(0, 255, (7, 3, 24, 120), np.uint8)
    files = set()
    for i in range(12):
        files.add(video.write_mp4(tmp_path / f"{i}.mp4", frames, 8.0).read_bytes())
    assert len(files) == 1
