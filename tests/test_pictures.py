"""Pictures in and out, against Pillow's own conversion."""

import os
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mindeye_dist import pictures
from mindeye_dist.errors import DataError
from mindeye_dist.pictures import PictureFiles, copies_among, decode, small, square_jpeg, thumbnail
from mindeye_dist.simulation.scenes import render_scene


def encoded(picture, file_format):
    buffer = BytesIO()
    picture.save(buffer, file_format)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_png_decodes_to_its_pixels(mode):
    """Oracle: Pillow's own conversion of the picture before it was encoded."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    decoded = decode(encoded(picture, "PNG"), "shard 3, key 17")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, np.array(picture.convert("RGB")))


def test_unreadable_pictures_are_named():
    jpeg = encoded(Image.effect_noise((64, 64), 50), "JPEG")
    for data in (
        b"",
        b"not a picture",
        jpeg[: len(jpeg) // 2],
        encoded(Image.new("L", (4, 4)), "GIF"),
    ):
        with pytest.raises(DataError, match="shard 3, key 17"):
            decode(data, "shard 3, key 17")


def test_too_large_pictures_are_refused_before_decoding(monkeypatch):
    data = encoded(Image.new("L", (20, 20)), "PNG")
    monkeypatch.setattr(pictures, "MAX_PIXELS", 399)
    with pytest.raises(DataError, match="shard 3, key 17: 20 x 20 pixels"):
        decode(data, "shard 3, key 17")
    monkeypatch.undo()
    # A header that declares 60,000 x 60,000 pixels, over Pillow's own limit too.
    header = data[:16] + (60_000).to_bytes(4) * 2 + data[24:]
    with pytest.raises(DataError, match="shard 3, key 17"):
        decode(header, "shard 3, key 17")


def test_square_jpeg_takes_the_middle_and_leaves_fitting_files_alone():
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 20:60] = (200, 30, 30)
    cut = square_jpeg(encoded(Image.fromarray(wide), "PNG"), 32, "here")
    assert decode(cut, "here").shape == (32, 32, 3)
    np.testing.assert_allclose(decode(cut, "here").mean((0, 1)), (200, 30, 30), atol=4)
    assert square_jpeg(cut, 32, "here") == cut


def test_small_is_the_mean_over_blocks():
    """Oracle: block means in NumPy."""
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    blocks = rgb.reshape(32, 2, 32, 2, 3).mean((1, 3))
    np.testing.assert_allclose(small(rgb), blocks, atol=1)


def test_folder_and_tar_give_the_same_files(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "cats").mkdir(parents=True)
    (folder / "b.png").write_bytes(encoded(Image.new("RGB", (4, 4)), "PNG"))
    (folder / "cats" / "a.JPG").write_bytes(encoded(Image.new("RGB", (4, 4)), "JPEG"))
    (folder / "notes.txt").write_text("not a picture")
    with tarfile.open(tmp_path / "pictures.tar", "w") as tar:
        tar.add(folder, arcname=".")
    with PictureFiles(folder) as files, PictureFiles(tmp_path / "pictures.tar") as packed:
        assert files.names == ["b.png", "cats/a.JPG"]
        assert packed.names == ["./b.png", "./cats/a.JPG"]
        for name in files.names:
            assert files.read(name) == packed.read(f"./{name}")
    with pytest.raises(DataError, match="nowhere"):
        PictureFiles(tmp_path / "nowhere")


def jpeg_of(picture, quality):
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return decode(buffer.getvalue(), "copy")


def check_copies(scenes):
    """Assert that each picture's copies are known, and that no picture is one of another."""
    held = np.stack([thumbnail(scene) for scene in scenes])
    for number in range(len(scenes)):
        others = np.delete(held, number, axis=0)
        assert not copies_among(others, held[number : number + 1]).any(), number
    for number in range(0, len(scenes), 30):
        picture = Image.fromarray(scenes[number])
        for scale in (0.5, 0.75, 1.0, 2.5):
            size = (round(picture.width * scale), round(picture.height * scale))
            for how in (Image.Resampling.LANCZOS, Image.Resampling.BILINEAR):
                copy = thumbnail(jpeg_of(picture.resize(size, how), 60))
                assert np.flatnonzero(copies_among(held, copy[None])).tolist() == [number]


def test_copies_of_scenes_are_known_and_no_others():
    """300 rendered scenes 160 pixels wide, of another height each."""
    check_copies([render_scene(i, 0, 160).picture[: 160 - i % 20] for i in range(300)])


def test_copies_of_photos_are_known_and_no_others():
    """300 photos of as many places in the tar; the whole of it has the same photo twice."""
    photos = os.environ.get("MINDEYE_PHOTOS", "")
    if not photos:
        pytest.skip("MINDEYE_PHOTOS is not set: a tar of photos")
    with PictureFiles(Path(photos)) as files:
        chosen = np.linspace(0, len(files.names) - 1, 300).astype(int)
        check_copies([decode(files.read(files.names[n]), files.names[n]) for n in chosen])


@pytest.mark.parametrize("shape", [(160, 160), (80, 112), (33, 16)])
def test_a_thumbnail_is_of_the_central_square(shape):
    """Oracle: the thumbnail of the square that was cut first; a ramp's averages by hand."""
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    edge, (top, left) = min(shape), ((side - min(shape)) // 2 for side in shape)
    square = rgb[top : top + edge, left : left + edge].copy()
    np.testing.assert_array_equal(thumbnail(rgb), thumbnail(square))
    ramp = np.broadcast_to(np.arange(160, dtype=np.uint8)[None, :, None], (160, 160, 3)).copy()
    np.testing.assert_allclose(thumbnail(ramp)[8, 1:-1, 0], np.arange(1, 15) * 10 + 4.5, atol=0.6)
