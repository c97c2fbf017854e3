"""What the official release of Omniglot holds (Lake et al. 2015, github.com/brendenlake/omniglot)."""

from collections.abc import Mapping
from dataclasses import dataclass

BACKGROUND, EVALUATION = "images_background", "images_evaluation"


@dataclass(frozen=True)
class Release:
    """What must be found before any of it is used, and how it is split.

    Attributes:
        parts: the number of characters of each alphabet, for each of the two parts.
        drawings: of each character.
        random_sizes: characters in train, val and test of the random split.
        val_alphabets: the background alphabets held out for validation in the official split.
    """

    parts: Mapping[str, Mapping[str, int]]
    drawings: int
    random_sizes: tuple[int, int, int]
    val_alphabets: tuple[str, ...]


OFFICIAL = Release(
    parts={
        BACKGROUND: {
            "Alphabet_of_the_Magi": 20,
            "Anglo-Saxon_Futhorc": 29,
            "Arcadian": 26,
            "Armenian": 41,
            "Asomtavruli_(Georgian)": 40,
            "Balinese": 24,
            "Bengali": 46,
            "Blackfoot_(Canadian_Aboriginal_Syllabics)": 14,
            "Braille": 26,
            "Burmese_(Myanmar)": 34,
            "Cyrillic": 33,
            "Early_Aramaic": 22,
            "Futurama": 26,
            "Grantha": 43,
            "Greek": 24,
            "Gujarati": 48,
            "Hebrew": 22,
            "Inuktitut_(Canadian_Aboriginal_Syllabics)": 16,
            "Japanese_(hiragana)": 52,
            "Japanese_(katakana)": 47,
            "Korean": 40,
            "Latin": 26,
            "Malay_(Jawi_-_Arabic)": 40,
            "Mkhedruli_(Georgian)": 41,
            "N_Ko": 33,
            "Ojibwe_(Canadian_Aboriginal_Syllabics)": 14,
            "Sanskrit": 42,
            "Syriac_(Estrangelo)": 23,
            "Tagalog": 17,
            "Tifinagh": 55,
        },
        EVALUATION: {
            "Angelic": 20,
            "Atemayar_Qelisayer": 26,
            "Atlantean": 26,
            "Aurek-Besh": 26,
            "Avesta": 26,
            "Ge_ez": 26,
            "Glagolitic": 45,
            "Gurmukhi": 45,
            "Kannada": 41,
            "Keble": 26,
            "Malayalam": 47,
            "Manipuri": 40,
            "Mongolian": 30,
            "Old_Church_Slavonic_(Cyrillic)": 45,
            "Oriya": 46,
            "Sylheti": 28,
            "Syriac_(Serto)": 23,
            "Tengwar": 25,
            "Tibetan": 42,
            "ULOG": 26,
        },
    },
    drawings=20,
    random_sizes=(1100, 100, 423),
    # the five with the fewest characters, so that training keeps the most
    val_alphabets=(
        "Alphabet_of_the_Magi",
        "Blackfoot_(Canadian_Aboriginal_Syllabics)",
        "Inuktitut_(Canadian_Aboriginal_Syllabics)",
        "Ojibwe_(Canadian_Aboriginal_Syllabics)",
        "Tagalog",
    ),
)
