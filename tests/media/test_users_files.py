"""Videos and pictures as users have them: turned, mirrored, cut, huge, with odd names or no picture at all."""

import gc
import struct
import tracemalloc
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition

from worldcompass import api
from worldcompass.errors import UserError
from worldcompass.media import pictures, video
from worldcompass.toy import ToyCleanliness, ToyWorld

RED, GREEN, BLUE, GREY = (220, 30, 30), (30, 200, 30), (30, 30, 220), (120, 120, 120)
ONE = 1 << 16  # of a container's fixed point numbers


def corners(frames):
    """The colours of the first frame's corners: top left, top right, bottom left, bottom right."""
    first = frames[0].numpy().astype(int)
    return [tuple(first[:, y, x]) for y in (4, -5) for x in (4, -5)]


def like(found, expected, tolerance=8):
    return np.abs(np.array(found) - np.array(expected)).max() <= tolerance


@pytest.fixture(scope="module")
def four_colours(tmp_path_factory):
    """13 frames of 48 x 64 with a colour in each corner."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32], picture[24:, 32:] = RED, GREEN, BLUE, GREY
    frames = np.repeat(picture.transpose(2, 0, 1)[None], 13, 0)
    return video.write_mp4(tmp_path_factory.mktemp("video") / "a.mp4", frames, 8.0).read_bytes()


def shown_by(data, a, b, c, d):
    """The video with another matrix in its track header: a stored point (x, y) is shown at (ax + cy, bx + dy)."""
    at = data.index(b"tkhd") + 44
    return data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :]


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((ONE, 0, 0, ONE), (RED, GREEN, BLUE, GREY)),
        ((0, ONE, -ONE, 0), (BLUE, RED, GREY, GREEN)),  # clockwise, as a phone held upright
        ((0, -ONE, ONE, 0), (GREEN, GREY, RED, BLUE)),
        ((-ONE, 0, 0, -ONE), (GREY, BLUE, GREEN, RED)),
        ((-ONE, 0, 0, ONE), (GREEN, RED, GREY, BLUE)),  # mirrored
    ],
)
def test_a_turned_or_mirrored_video_is_read_as_it_is_shown(four_colours, matrix, expected):
    frames = video.read_video(shown_by(four_colours, *matrix))
    assert frames.shape == (13, 3, *((64, 48) if matrix[0] == 0 else (48, 64)))
    assert like(corners(frames), expected)


def test_a_video_turned_by_an_eighth_is_refused(four_colours):
    with pytest.raises(UserError, match="less than a quarter"):
        video.read_video(shown_by(four_colours, 46341, 46341, -46341, 46341))


def encoded(path, frames_Fhw3, options=(), **settings):
    """A video whose encoder has other settings, such as ``sample_aspect_ratio``."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options=dict(options))
        stream.height, stream.width = frames_Fhw3.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        for picture in frames_Fhw3:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if "colorspace" in settings:
                frame = frame.reformat(format="yuv420p", dst_colorspace=settings["colorspace"])
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_pixels_that_are_not_square_are_stretched(tmp_path):
    frames = np.full((3, 48, 64, 3), 99, np.uint8)
    wide = encoded(tmp_path / "wide.mp4", frames, sample_aspect_ratio=Fraction(2))
    assert video.read_video(wide).shape == (3, 3, 48, 128)


def test_a_videos_own_colour_space_is_used(tmp_path):
    red = np.full((2, 720, 1280, 3), RED, np.uint8)
    fast = {"preset": "ultrafast", "x264-params": "colormatrix=bt709"}
    path = encoded(tmp_path / "hd.mp4", red, fast, colorspace=1)
    assert like(corners(video.read_video(path)), (RED,) * 4, 4)  # by the coefficients of BT.601: 201, 8, 30


def test_every_cut_of_a_video_is_read_or_refused_in_one_sentence(four_colours):
    refused = 0
    for length in range(0, len(four_colours), 37):
        try:
            video.read_video(four_colours[:length], max_pixels=1 << 21)
        except UserError:
            refused += 1
    assert refused > 10


def test_a_file_that_ends_before_the_description_of_its_stream_is_refused(four_colours):
    with pytest.raises(UserError, match="not a readable video"):
        video.read_video(four_colours[: four_colours.index(b"stsd")], max_pixels=1 << 21)


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "audio.m4a"), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UserError, match="holds no video"):
        video.read_video(tmp_path / "audio.m4a")


def test_no_more_frames_are_decoded_than_a_path_needs(tmp_path, monkeypatch):
    path = video.write_mp4(tmp_path / "long.mp4", np.zeros((60, 3, 8, 8), np.uint8), 8.0)
    decoded, shown = [], video._shown_frames
    monkeypatch.setattr(
        video, "_shown_frames", lambda *args: (decoded.append(1) or frame for frame in shown(*args))
    )
    spec = ToyWorld().spec
    needed = spec.num_frames(0, 4)
    with pytest.raises(UserError, match=rf"makes {needed} frames .* has more"):
        api.score(path, "w-3", [ToyCleanliness()], spec)
    assert len(decoded) == needed + 1


def test_memory_depends_on_the_wanted_size_alone(tmp_path):
    frame_bytes = 720 * 1280 * 3
    path = encoded(tmp_path / "big.mp4", np.zeros((12, 720, 1280, 3), np.uint8), {"preset": "ultrafast"})
    tracemalloc.start()
    frames = video.read_video(path, size=(48, 64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert frames.shape == (12, 3, 48, 64)
    assert peak < 4 * frame_bytes  # all at full size: 12


def test_no_decoded_frame_waits_for_the_garbage_collector(four_colours):
    """Some hundred frames would, of 3 MB each at 1080p: the collector counts objects, not bytes."""
    gc.collect()
    gc.disable()
    try:
        assert len(video.read_video(four_colours, size=(24, 32))) == 13
        assert sum(type(thing) is av.VideoFrame for thing in gc.get_objects()) <= 1
    finally:
        gc.enable()


def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = video.write_mp4(video.Path("10:20.mp4"), np.zeros((3, 3, 8, 8), np.uint8), 8.0)
    assert (tmp_path / "10:20.mp4").is_file() and len(video.read_video(path)) == 3


def test_a_picture_of_16_bits_keeps_its_brightness(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((20, 30), 0x8000, np.uint16))
    cv2.imwrite(str(tmp_path / "depth.png"), np.full((20, 30), 900, np.uint16))
    assert (video.read_image(tmp_path / "grey.png") == 128).all()
    assert (video.read_image(tmp_path / "depth.png") == 3).all()


def test_a_huge_picture_is_refused_by_its_header(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures.cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 20_000, 18_000)
    (tmp_path / "big.png").write_bytes(header + bytes(9))
    with pytest.raises(UserError, match="20000 x 18000 pixels: scale it down"):
        video.read_image(tmp_path / "big.png")


def playlists(secret):
    """Texts that make FFmpeg open something else: a file of this machine, or an address."""
    return [
        f"ffconcat version 1.0\nfile '{secret}'\n",
        f"ffconcat version 1.0\nfile {secret.name}\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:{secret}\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
    ]


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("as_file", [False, True])
def test_a_video_reads_nothing_but_itself(four_colours, tmp_path, monkeypatch, kind, as_file):
    """Bytes that come over HTTP must not read files of the server; an SDP would also wait for packets."""
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(four_colours)
    body = playlists(secret)[kind].encode()
    (tmp_path / "sent.mp4").write_bytes(body)
    with pytest.raises(UserError, match="is not a readable video"):
        video.read_video(tmp_path / "sent.mp4" if as_file else body)


def test_a_server_answers_a_playlist_with_400(four_colours, tmp_path):
    pytest.importorskip("fastapi", reason="the server needs worldcompass[web]")
    from fastapi import HTTPException

    from worldcompass.serving.scoring import Scorer, score_file

    secret = tmp_path / "secret.mp4"
    secret.write_bytes(four_colours)
    scorer = Scorer((ToyCleanliness(),), ToyWorld().spec)
    assert score_file(four_colours, "w-6", scorer).scores.keys() == {"cleanliness"}
    with pytest.raises(HTTPException) as refused:
        score_file(playlists(secret)[0].encode(), "w-3", scorer)
    assert refused.value.status_code == 400 and str(secret) not in refused.value.detail


def test_a_server_keeps_no_frame_at_its_full_size_and_refuses_a_cut_one(four_colours, tmp_path):
    pytest.importorskip("fastapi", reason="the server needs worldcompass[web]")
    from fastapi import HTTPException

    from worldcompass.serving.scoring import Scorer, score_file

    scorer = Scorer((ToyCleanliness(),), ToyWorld().spec)
    frames = np.zeros((12, 720, 1280, 3), np.uint8)
    big = encoded(tmp_path / "big.mp4", frames, {"preset": "ultrafast"}).read_bytes()
    tracemalloc.start()
    with pytest.raises(HTTPException) as too_short:
        score_file(big, "w-150", scorer)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert too_short.value.status_code == 400 and "the video has 12" in too_short.value.detail
    assert peak < 4 * frames[0].nbytes  # all at full size: 12
    with pytest.raises(HTTPException, match=r"makes 3 frames .* has more"):
        score_file(four_colours, "w-1", scorer)
    with pytest.raises(HTTPException) as cut:
        score_file(four_colours[: four_colours.index(b"stsd")], "w-3", scorer)
    assert cut.value.status_code == 400 and "not a readable video" in cut.value.detail


def test_a_cover_is_neither_the_video_nor_its_rate(tmp_path):
    """As phones and editors store one; where its box is the first, it is the first stream, too."""
    with av.open(str(tmp_path / "covered.mp4"), "w") as container:
        cover = container.add_stream("mjpeg", rate=90)
        cover.height, cover.width, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for into, size, count in ((cover, (32, 32), 1), (stream, (48, 64), 3)):
            for _ in range(count):
                picture = av.VideoFrame.from_ndarray(np.full((*size, 3), 99, np.uint8), format="rgb24")
                container.mux(into.encode(picture))
            container.mux(into.encode())
    path = tmp_path / "covered.mp4"
    data = path.read_bytes()
    track, cover_box = data.index(b"trak") - 4, data.index(b"udta") - 4
    end = cover_box + int.from_bytes(data[cover_box : cover_box + 4])
    path.write_bytes(data[:track] + data[cover_box:end] + data[track:cover_box] + data[end:])
    with av.open(str(path)) as container:
        assert container.streams.video[0].disposition & Disposition.attached_pic
    assert video.read_video(path).shape == (3, 3, 48, 64)
    assert video.frame_rate(path) == 8


@pytest.mark.parametrize(
    ("ending", "codec"), [("mkv", "libx264"), ("avi", "mpeg4"), ("mov", "libx264"), ("ts", "libx264")]
)
def test_usual_containers_are_read(tmp_path, ending, codec):
    path = tmp_path / f"a.{ending}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for _ in range(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))))
        container.mux(stream.encode())
    for source in (path, path.read_bytes()):
        assert video.read_video(source).shape == (30, 3, 48, 64)


def webp(width, height, kind):
    chunk = {
        b"VP8X": bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"),
        b"VP8L": b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little") + bytes(5),
        b"VP8 ": b"\x50\x00\x00\x9d\x01\x2a" + struct.pack("<HH", width, height),
    }[kind]
    return (
        b"RIFF"
        + struct.pack("<I", 4 + 8 + len(chunk))
        + b"WEBP"
        + kind
        + struct.pack("<I", len(chunk))
        + chunk
    )


def tiff(width, height, order):
    entries = [(256, 4, 1, width), (257, 4, 1, height)]
    rows = b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}IH", 8, len(entries)) + rows + bytes(4)


def jp2(width, height):
    signature = b"\0\0\0\x0cjP  \r\n\x87\n"
    kind = struct.pack(">I4s4sI4s", 20, b"ftyp", b"jp2 ", 0, b"jp2 ")
    inner = struct.pack(">I4sIIHBBBB", 22, b"ihdr", height, width, 3, 7, 7, 0, 0)
    return signature + kind + struct.pack(">I4s", 8 + len(inner), b"jp2h") + inner


@pytest.mark.parametrize(
    "header",
    [
        webp(9000, 20, b"VP8X"),
        webp(9000, 20, b"VP8L"),
        webp(9000, 20, b"VP8 "),
        tiff(9000, 20, "<"),
        tiff(9000, 20, ">"),
        jp2(9000, 20),
        b"\xff\x4f\xff\x51" + struct.pack(">HHIIII", 41, 0, 9000, 20, 0, 0),
        b"BM" + bytes(12) + struct.pack("<Iii", 40, 9000, -20),
        b"GIF89a" + struct.pack("<HH", 9000, 20),
    ],
)
def test_every_formats_size_is_known_before_it_is_decoded(header):
    assert pictures.picture_size(header) == (9000, 20)
    with pytest.raises(UserError, match="9000 x 20 pixels: scale it down"):
        pictures.decode_picture(header, "it")


@pytest.mark.parametrize("ending", [".webp", ".tiff", ".jp2", ".bmp", ".png", ".jpg"])
def test_real_pictures_of_every_format_are_measured_and_read(ending):
    done, data = cv2.imencode(ending, np.zeros((64, 96, 3), np.uint8))
    assert done and pictures.picture_size(data.tobytes()) == (96, 64)
    assert pictures.decode_picture(data.tobytes(), "it").shape == (3, 64, 96)


def test_a_format_of_unknown_size_is_refused():
    with pytest.raises(UserError, match="is not an image that this program reads"):
        pictures.decode_picture(b"#?RADIANCE\n\n-Y 20 +X 30\n", "it")
