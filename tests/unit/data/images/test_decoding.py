import os
import re

import numpy as np
import pytest
from PIL import Image

from metasgd.data.images.decoding import PictureForm, read_picture, read_pictures
from metasgd.errors import UserError

GREY, COLOUR = PictureForm(1, 8, 8), PictureForm(3, 8, 8)


def saved(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def test_a_picture_of_the_wanted_form_keeps_its_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8)
    read = read_picture(saved(tmp_path / "p.png", pixels), COLOUR)
    assert read.dtype == np.uint8
    assert np.array_equal(read, pixels.transpose(2, 0, 1))


def test_grey_becomes_colour_and_colour_grey(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(read_picture(saved(tmp_path / "g.png", grey), COLOUR), np.stack([grey] * 3))
    red = np.zeros((8, 8, 3), dtype=np.uint8)
    red[..., 0] = 255
    assert (read_picture(saved(tmp_path / "r.png", red), GREY) == 76).all()  # ITU-R 601: 0.299 · 255


def test_sixteen_bits_are_scaled_not_cut_off(tmp_path):
    deep = np.full((8, 8), 65535 // 2, dtype=np.uint16)
    assert (read_picture(saved(tmp_path / "d.png", deep), GREY) == 127).all()


def test_transparency_lies_on_white(tmp_path):
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[:, :4, 3] = 255
    read = read_picture(saved(tmp_path / "t.png", pixels), GREY)[0]
    assert (read[:, :4] == 0).all()
    assert (read[:, 4:] == 255).all()


def test_a_camera_held_upright_is_heeded(tmp_path):
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90° clockwise: the upper edge comes to the right
    read = read_picture(saved(tmp_path / "c.png", pixels, exif=exif), GREY)[0]
    assert (read[:, 7] == 255).all()
    assert (read[:, :7] == 0).all()


@pytest.mark.parametrize("upright", [False, True])
def test_another_aspect_ratio(tmp_path, upright):
    """A rim of 200 around 16 columns of rising grey, twice as wide as high."""
    pixels = np.tile(np.arange(0, 160, 10, dtype=np.uint8), (8, 1))
    pixels[[0, -1]] = 200
    path = saved(tmp_path / "p.png", pixels.T if upright else pixels)
    read = {fit: read_picture(path, PictureForm(1, 8, 8, fit))[0] for fit in ("crop", "pad", "stretch")}
    if upright:
        read = {fit: picture.T for fit, picture in read.items()}
    assert np.array_equal(read["crop"], pixels[:, 4:12])
    assert (read["pad"][[0, 1, 6, 7]] == 200).all()  # the rim's median
    assert read["pad"][3:5, 0].max() < 60
    assert read["pad"][3:5, 7].min() > 120
    assert (read["stretch"][0] == 200).all()
    assert (np.diff(read["stretch"][3].astype(int)) > 0).all()


def damage_cut(path):
    path.write_bytes(path.read_bytes()[:60])


def damage_flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def damage_other(path):
    path.write_text("no picture")


def damage_empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_cut, damage_flip, damage_other, damage_empty])
def test_a_damaged_picture_is_named(tmp_path, damage):
    pixels = np.random.default_rng(0).integers(256, size=(20, 20), dtype=np.uint8)
    damage(saved(tmp_path / "bad.png", pixels))
    with pytest.raises(UserError, match="bad.png: not an intact picture"):
        read_picture(tmp_path / "bad.png", GREY)


def test_a_truncated_jpeg_is_named(tmp_path):
    path = saved(tmp_path / "bad.jpg", np.random.default_rng(0).integers(256, size=(64, 64), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="bad.jpg: not an intact picture"):
        read_picture(path, GREY)


def test_a_claim_of_gigabytes_is_refused_before_decoding(tmp_path):
    Image.new("1", (9000, 9000)).save(tmp_path / "huge.png")
    with pytest.raises(UserError, match=r"huge.png.*9000×9000 pixels"):
        read_picture(tmp_path / "huge.png", GREY)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_an_animated_picture_is_refused(tmp_path, suffix):
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 128, 255)]
    frames[0].save(tmp_path / f"moving{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match=f"moving{suffix}.*it has 3 frames"):
        read_picture(tmp_path / f"moving{suffix}", GREY)
    frames[1].save(tmp_path / f"still{suffix}")
    assert (read_picture(tmp_path / f"still{suffix}", GREY) == 128).all()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("name", ["x.jpg", "x.PNG", "x.tif"])
def test_the_format_is_what_the_content_says(tmp_path, form, name):
    Image.new("L", (8, 8), 90).save(tmp_path / name, form)
    assert (read_picture(tmp_path / name, GREY) == 90).all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>", r"it begins with b'<!DOCTYPE html><'"),
        (b"version https://git-lfs.github.com/spec/v1", r"it begins with b'version https://"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "it begins with .*ftypavif"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it begins with b'%!PS"),
        (b"", "it is empty"),
    ],
)
def test_other_content_is_said_what_it_begins_with(tmp_path, content, said):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(UserError, match=f"x.jpg: not an intact picture of a format that is read .{said}.*Remove it"):
        read_picture(tmp_path / "x.jpg", GREY)


def test_colours_for_printing_and_palettes_are_read(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8)
    cmyk = Image.fromarray(np.dstack([255 - pixels, np.zeros((8, 8), np.uint8)]), "CMYK")
    cmyk.save(tmp_path / "c.tif")
    assert np.array_equal(read_picture(tmp_path / "c.tif", COLOUR), pixels.transpose(2, 0, 1))
    indexed = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 2)
    indexed.putpalette([200, 0, 0, 0, 0, 200])
    indexed.save(tmp_path / "p.png", transparency=1)
    read = read_picture(tmp_path / "p.png", COLOUR)
    assert (read[:, :, 0] == [[200], [0], [0]]).all()
    assert (read[:, :, 1] == 255).all()  # transparent, on white


def test_a_transparent_shade_of_16_bits_lies_on_white(tmp_path):
    deep = np.full((8, 8), 30000, dtype=np.uint16)
    deep[:, :4] = 65535 // 3
    Image.fromarray(deep).save(tmp_path / "t.png", transparency=30000)
    read = read_picture(tmp_path / "t.png", GREY)[0]
    assert (read[:, :4] == 85).all()
    assert (read[:, 4:] == 255).all()


def test_no_fifo_device_or_endless_file_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(30 * 2**30)
    saved(tmp_path / "good.png", np.zeros((8, 8), dtype=np.uint8))
    names = ("fifo", "zero", "sparse", "good", "absent")
    with pytest.raises(UserError) as caught:
        list(read_pictures([tmp_path / f"{name}.png" for name in names], GREY))
    assert [re.split("[/.]", problem.split(":")[0])[-2] for problem in caught.value.problems] == [
        "fifo",
        "zero",
        "sparse",
        "absent",
    ]


@pytest.mark.parametrize(
    ("deep", "said"),
    [
        (np.full((8, 8), 0.5, dtype=np.float32), "its pixels are floating-point numbers.*Save it in 8 or 16 bits$"),
        (np.full((8, 8), 70000, dtype=np.int32), "its pixels go from 70000 to 70000.*Save it in 8 or 16 bits$"),
        (np.full((8, 8), -1, dtype=np.int32), "its pixels go from -1 to -1.*Save it in 8 or 16 bits$"),
    ],
)
def test_pixels_of_a_range_that_is_unknown_are_refused(tmp_path, deep, said):
    with pytest.raises(UserError, match=f"f.tif: {said}"):
        read_picture(saved(tmp_path / "f.tif", deep), GREY)


def test_a_file_of_another_format_is_answered_with_what_is_read(tmp_path):
    (tmp_path / "p.heic").write_bytes(b"no picture to Pillow")
    with pytest.raises(UserError, match=r"p.heic: not of a format that is read \(.jpg, .*Save it as PNG or JPEG$"):
        read_picture(tmp_path / "p.heic", GREY)


def test_a_picture_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_picture(tmp_path / "none.png", GREY)
