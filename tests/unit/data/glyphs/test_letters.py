import itertools
import unicodedata

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from metasgd.data.glyphs.letters import SCRIPTS, TYPEFACES, font_folder, full_size_mask_of, mask_of


def rendered(code, typeface, size=40):
    """A letter as Pillow draws text, cropped and reduced to 16×16 in grey: no code of ours."""
    image = Image.new("L", (4 * size, 4 * size))
    font = ImageFont.truetype(str(font_folder() / typeface), size)
    ImageDraw.Draw(image).text((size, size), chr(code), fill=255, font=font)
    box = image.getbbox()
    assert box is not None, f"U+{code:04X} is blank in {typeface}"
    side = max(box[2] - box[0], box[3] - box[1])
    square = Image.new("L", (side, side))
    square.paste(image.crop(box), ((side - box[2] + box[0]) // 2, (side - box[3] + box[1]) // 2))
    return np.asarray(square.resize((16, 16), Image.Resampling.BOX), dtype=float)


def test_enough_letters_in_every_split(found):
    counts = {split: sum(SCRIPTS[x.script] == split for x in found) for split in ("train", "val", "test")}
    assert sum(counts.values()) >= 1000
    assert counts["train"] >= 900
    assert counts["val"] >= 100
    assert counts["test"] >= 500


def test_every_class_is_a_letter_of_a_known_script(found):
    assert len({x.code for x in found}) == len(found)
    assert len({x.name for x in found}) == len(found)
    for x in found:
        assert unicodedata.category(chr(x.code))[0] == "L"
        assert unicodedata.name(chr(x.code)).startswith(x.script)
        assert set(x.typefaces) <= set(TYPEFACES)


def test_no_letter_is_the_box_of_a_missing_one(found):
    for typeface in TYPEFACES:
        missing = rendered(0xFFFF, typeface)
        own = [x for x in found if typeface in x.typefaces]
        assert not [x.name for x in own[::7] if np.array_equal(rendered(x.code, typeface), missing)]


def test_no_two_classes_look_the_same_across_the_splits(found):
    """By another rendering and another measure: nearest neighbours between training's letters and the test's."""
    typeface = TYPEFACES[0]
    looks = {
        split: np.array(
            [
                rendered(x.code, typeface).ravel()
                for x in found
                if SCRIPTS[x.script] == split and typeface in x.typefaces
            ]
        )
        for split in ("train", "val", "test")
    }
    for a, b in itertools.combinations(looks, 2):
        norms = np.linalg.norm(looks[a], axis=1)[:, None] * np.linalg.norm(looks[b], axis=1)
        assert (looks[a] @ looks[b].T / norms).max() < 0.98  # the same letter in another place of its line has 0.99


@pytest.mark.parametrize(("one", "other"), [("A", "Α"), ("A", "А"), ("x", "ˣ"), ("o", "о")])
def test_letters_of_one_look_are_one_class(found, one, other):
    codes = {x.code for x in found}
    assert not {ord(one), ord(other)} <= codes


@pytest.mark.parametrize("letter", "AaBbgGRrßщЖλΩ")
def test_letters_of_their_own_look_stay(found, letter):
    assert ord(letter) in {x.code for x in found}


def test_masks_are_cropped_to_their_ink_and_of_full_size():
    for letter, typeface in itertools.product("AgΩˣ", TYPEFACES[::5]):
        small, large = mask_of(ord(letter), typeface), full_size_mask_of(ord(letter), typeface)
        for mask in (small, large):
            assert mask.max() <= 1
            assert all(edge.any() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
        assert 56 <= max(large.shape) <= 72


def test_a_space_is_blank():
    assert mask_of(ord(" "), TYPEFACES[0]).size == 0
