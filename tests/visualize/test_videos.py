import numpy as np
import pytest
from clips import red_then_brighter

from rpn_jax.data.videos import read_frames
from rpn_jax.errors import UserError
from rpn_jax.visualize.videos import writing_video


def test_pictures_become_a_video_of_even_size(tmp_path):
    pictures = red_then_brighter(5, 47, 63)
    path = tmp_path / "new" / "a.mp4"
    with writing_video(path) as add:
        for picture in (*pictures, red_then_brighter(1, 90, 70)[0]):
            add(picture, 5.0)
    frames = list(read_frames(path))
    assert [frame.pixels.shape for frame in frames] == [(46, 62, 3)] * 6
    np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(6) / 5, atol=1e-3)
    np.testing.assert_allclose(frames[3].pixels[:, 30:].mean(), 60, atol=12)
    assert [file.name for file in path.parent.iterdir()] == ["a.mp4"]


def test_no_picture_no_video_and_an_error_leaves_nothing(tmp_path):
    with writing_video(tmp_path / "a.mp4"):
        pass

    def fail():
        with writing_video(tmp_path / "a.mp4") as add:
            add(red_then_brighter(1)[0], 5.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "a.mp4"
    with (
        pytest.raises(UserError, match="a.mp4: cannot be written"),
        writing_video(place) as add,
    ):
        add(red_then_brighter(1)[0], 5.0)
