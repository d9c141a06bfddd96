import os

import numpy as np
import pytest
from clips import red_then_brighter, write_clip

from rpn_jax.data.videos import is_video, read_frames
from rpn_jax.errors import UserError


@pytest.mark.parametrize("name", ["a.avi", "a.mp4", "a.MOV"])
def test_the_frames_of_a_video_come_in_order_with_their_times(name, tmp_path, capfd):
    expected = red_then_brighter(7)
    clip = write_clip(tmp_path / name, expected)
    assert is_video(clip)
    frames = list(read_frames(clip))
    assert [frame.index for frame in frames] == list(range(7))
    np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(7) / 10, atol=1e-3)
    for frame, pixels in zip(frames, expected, strict=True):
        assert frame.pixels.shape == (48, 64, 3)
        means = frame.pixels[:, 4:12].mean(axis=(0, 1)), frame.pixels[:, 30:].mean(axis=(0, 1))
        np.testing.assert_allclose(means[0], (200, 0, 0), atol=12)  # red, and not blue
        np.testing.assert_allclose(means[1], pixels[0, 40], atol=12)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no video",
        # What FFmpeg takes for lists of other files, whatever the name.
        b"ffconcat version 1.0\nfile good.mp4\n",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\ngood.mp4\n#EXT-X-ENDLIST\n",
    ],
)
def test_what_is_no_video_is_one_line(content, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "good.mp4", red_then_brighter(3))
    file = tmp_path / "clip.mp4"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"^[^\n]*clip.mp4: is no video that can be read; give"):
        next(read_frames(file))
    assert capfd.readouterr() == ("", "")
    assert "OPENCV_FFMPEG_CAPTURE_OPTIONS" not in os.environ


def test_a_video_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="clip.mp4: no such video"):
        next(read_frames(tmp_path / "clip.mp4"))


def test_a_video_that_was_cut_off_gives_what_it_has_and_then_a_line(tmp_path):
    clip = write_clip(tmp_path / "a.avi", red_then_brighter(12))
    content = clip.read_bytes()
    clip.write_bytes(content[: content.rindex(b"\xff\xd8") - 600])
    frames = read_frames(clip)
    found = []
    with pytest.raises(UserError, match="a.avi: is damaged behind its first .* of about 12; what"):
        found.extend(frame.index for frame in frames)
    assert found == list(range(len(found)))
    assert 0 < len(found) < 12
