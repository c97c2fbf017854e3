"""Feed damaged and invented files to whatever reads files: each must be read, or refused with a message, in time.

    python tests/stress/fuzz.py [--inputs 10000] [--seed 0] [--only images] [--json out.json]

Images, archives, checkpoints and configurations: random bytes, and intact files that were cut, flipped, doubled,
spliced or overwritten in places. Anything but success or the user's error (a traceback in the command line) and
anything that takes longer than LIMIT seconds is a finding: its bytes are printed, and the exit code is 1.
"""

import argparse
import contextlib
import copy
import io
import json
import math
import pickle
import random
import resource
import signal
import struct
import sys
import tempfile
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType

import torch
import yaml
from PIL import Image

from metasgd.cli.main import main as metasgd
from metasgd.data.images.decoding import PictureForm, read_picture
from metasgd.data.images.image_folder import ImageFolder
from metasgd.data.omniglot.archive import Limits, read_images
from metasgd.data.omniglot.files import decode_drawing
from metasgd.errors import UserError
from metasgd.learner.load import load
from metasgd.runs.checkpoint_file import read_checkpoint

ROOT = Path(__file__).parents[2]
LIMIT = 30  # seconds for one input
LONGEST = 20_000  # bytes
MOST_MEMORY = 6 * 2**30  # bytes of this process, beyond which it is a finding
CALLED = "called"
FIT = [
    *("fit", "--config", str(ROOT / "configs" / "sinusoid.yaml"), "--trainer.max_steps", "2"),
    *("--trainer.val_check_interval", "2", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"),
    *("--data.val_tasks", "5", "--model.outer.scheduler", "cosine"),
]
POINTERS = (0x8769, 0x8825, 0xA005, 0x927C, 0x9286)
ODD = "aB9 _-.,;:'\"[]{}()<>$%&#@!?=+~*|\\\t\n\u00e9\u05d0\u4e2d\U0001f600\u202e/"
SHARES = {
    "images": 33,
    "exif": 15,
    "classes": 5,
    "archives": 22,
    "checkpoints": 18,
    "metadata": 3,
    "class_paths": 2,
    "configs": 2,
}
"""Of 100 inputs; a configuration takes a second where the others take a millisecond."""


def images(chance: random.Random, folder: Path) -> Path:
    form, suffix = chance.choice(
        [("PNG", ".png"), ("JPEG", ".jpg"), ("GIF", ".gif"), ("BMP", ".bmp"), ("WEBP", ".webp"), ("TIFF", ".tif")]
    )
    mode = chance.choice(["L", "RGB"] if form == "JPEG" else ["1", "L", "P", "RGB"])
    content = io.BytesIO()
    size = chance.randint(1, 40), chance.randint(1, 40)
    Image.effect_noise(size, 60).convert(mode).save(content, form)
    return written(folder / f"x{suffix}", damaged(content.getvalue(), chance))


def exif(chance: random.Random, folder: Path) -> Path:
    """An intact picture with a block of EXIF whose tags have types, counts and values at random."""
    order = chance.choice("<>")
    tags = sorted(chance.choice([*range(0x100, 0x140), *POINTERS]) for _ in range(chance.randint(0, 12)))
    counts = [0, 1, 2, 5, 2**16, 2**32 - 1]
    entries = [
        struct.pack(f"{order}HHI", tag, chance.randrange(16), chance.choice(counts)) + chance.randbytes(4)
        for tag in tags
    ]
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    block = damaged(start + b"".join(entries) + bytes(4) + chance.randbytes(chance.randint(0, 100)), chance)
    content = io.BytesIO()
    form = chance.choice(["JPEG", "PNG", "WEBP"])
    Image.effect_noise((9, 7), 60).convert("RGB").save(content, form, exif=b"Exif\0\0" + block)
    return written(folder / "x.jpg", content.getvalue())


def classes(chance: random.Random, folder: Path) -> Path:
    """A folder of classes with names of any characters that a file system takes."""
    root = folder / f"classes-{chance.random()}"
    for _ in range(chance.randint(1, 5)):
        name = "".join(chance.choice(ODD) for _ in range(chance.randint(1, 12)))
        place = root / "/".join(part for part in name.split("/") if part not in ("", ".", ".."))
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 3)).save(place / chance.choice(["0.png", "\u00e9.JPEG", "[b].gif", "-0.bmp"]))
    return root


def archives(chance: random.Random, folder: Path) -> Path:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for i in range(chance.randint(0, 5)):
            name = chance.choice(
                [f"a/{i}.png", f"../{i}.png", f"/{i}.png", f"a\\{i}.png", f"{i}.txt", ".png", "a/" * 50 + "x.png"]
            )
            archive.writestr(name, chance.randbytes(chance.randint(0, 500)))
    return written(folder / "x.zip", damaged(content.getvalue(), chance))


def checkpoints(chance: random.Random, folder: Path) -> Path:
    content = io.BytesIO()
    tree = {"state_dict": {"a": torch.zeros(chance.randint(0, 20))}, "global_step": chance.randint(-5, 5)}
    if chance.random() < 0.2:
        pickle.dump(chance.choice([tree["global_step"], [tree] * 3, print, Path()]), content)
    else:
        torch.save(tree, content)
    return written(folder / "x.ckpt", damaged(content.getvalue(), chance))


@cache
def trained() -> dict[str, object]:
    """All that a run of a few steps leaves in its checkpoint."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        if metasgd([*FIT, "--trainer.logger.init_args.save_dir", folder]):
            raise RuntimeError("the run that the checkpoints are altered from cannot be made")
        return torch.load(next(Path(folder).rglob("last.ckpt")), weights_only=True)


def places(value: object, at: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """The places of all values in nested dictionaries and lists."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in pairs:
        yield (*at, key)
        if len(at) < 12:  # which only what contains itself is deeper than
            yield from places(below, (*at, key))


def alter(tree: object, chance: random.Random, values: list[object]) -> None:
    """Take something out of the tree, or put another value in its place or beside it."""
    *way, last = chance.choice(list(places(tree)))
    for key in way:
        tree = tree[key]
    if chance.random() < 0.2:
        del tree[last]
    elif chance.random() < 0.2 and isinstance(tree, dict):
        tree[chance.choice(["x", 3, "step", "state_dict", "optimizer"])] = chance.choice(values)
    else:
        tree[last] = chance.choice(values)


def metadata(chance: random.Random, folder: Path) -> Path:
    """An intact file with other content."""
    content = copy.deepcopy(trained())
    itself: list[object] = []
    itself.append(itself)
    odd = [None, True, -1, 0, 10**9, 10**30, 1.5, math.nan, math.inf, "", "x", b"x", [], {}, [None], {"x": 1}, itself]
    odd += [torch.zeros(()), torch.zeros(7), torch.full((2, 3), math.nan), torch.zeros(2, dtype=torch.complex64)]
    odd += [torch.ones(1).expand(10**9), torch.zeros(3).to_sparse()]
    if chance.random() < 0.5:
        config = yaml.safe_load(content["metasgd_config"])
        for _ in range(chance.randint(1, 2)):
            alter(
                config, chance, [*[o for o in odd if not isinstance(o, torch.Tensor)], "{a: 1, a: 2}", "[[[", "!!x y"]
            )
        content["metasgd_config"] = yaml.safe_dump(config)
        if chance.random() < 0.2:
            bomb = "a: &a [x, x]\n" + "".join(
                f"b{i}: &b{i} [*{'a' if not i else f'b{i - 1}'}, *a]\n" for i in range(60)
            )
            content["metasgd_config"] += chance.choice(
                [bomb, "model: 1", "x: &x [*x]", "x: " + "[" * 5000, "x: !!set {}"]
            )
    else:
        for _ in range(chance.randint(1, 2)):
            alter(content, chance, odd)
    torch.save(content, folder / "x.ckpt")
    return folder / "x.ckpt"


def class_paths(chance: random.Random, folder: Path) -> Path:
    """A checkpoint that names what would leave the file CALLED."""
    content = copy.deepcopy(trained())
    config = yaml.safe_load(content["metasgd_config"])
    command = f"touch {folder / CALLED}"
    calls: list[object] = [
        {"class_path": "os.system", "init_args": {"command": command}},
        {"class_path": "subprocess.Popen", "init_args": {"args": ["sh", "-c", command]}},
        {"class_path": "builtins.exec", "init_args": {"source": f"open({str(folder / CALLED)!r}, 'w')"}},
        {"class_path": "torch.save", "init_args": {"obj": 1, "f": str(folder / CALLED)}},
        {"class_path": "pathlib.Path.touch", "init_args": {"self": str(folder / CALLED)}},
        {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": str(folder), "model": "x", "source": "local"}},
    ]
    for module in ("torch", "torch.utils.cpp_extension", "lightning.pytorch.cli", "torchvision.datasets.utils"):
        calls.append({"class_path": f"{module}.os.system", "init_args": {"command": command}})
    calls += [str(call["class_path"]) for call in calls if isinstance(call, dict)]
    calls += [yaml.safe_dump(call) for call in calls if isinstance(call, dict)]
    alter(config, chance, calls)
    content["metasgd_config"] = yaml.safe_dump(config)
    torch.save(content, folder / "x.ckpt")
    return folder / "x.ckpt"


def configs(chance: random.Random, folder: Path) -> Path:
    text = (ROOT / "configs" / "sinusoid.yaml").read_bytes()
    if chance.random() < 0.3:
        text = chance.choice(
            [
                b"a: &a [x, x]\n" + b"b: [*a, *a]\n" * 20,
                b"[" * 300,
                b"{" * 300,
                b"!!python/object/apply:os.getcwd []\n",
                b"- " * 500,
            ]
        )
    # an intact one, or one that lost only a digit, would train
    return written(folder / "x.yaml", damaged(text, chance) + b"\ntrainer.no_such_option: 1\n")


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content after some accidents, or bytes that never had any meaning."""
    data = bytearray(content)
    for _ in range(chance.randint(0, 3)):
        at = chance.randint(0, len(data))
        length = chance.randint(1, 64)
        match chance.randint(0, 6):
            case 0:
                del data[at:]
            case 1:
                del data[at : at + length]
            case 2 if data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            case 3:
                data[at : at + length] = chance.randbytes(length)
            case 4:
                data[at:at] = data[:length]
            case 5:
                data[at : at + length] = bytes([chance.choice([0, 255])]) * length
            case 6 if chance.random() < 0.3:
                data = bytearray(chance.randbytes(chance.randint(0, 2000)))
    return bytes(data[:LONGEST])


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def read_image(path: Path) -> None:
    with contextlib.suppress(UserError):  # hardly one is a drawing of Omniglot's size
        decode_drawing(path.read_bytes(), str(path), 28)
    read_picture(path, PictureForm(3, 12, 12))


def read_exif(path: Path) -> None:
    try:
        read_picture(path, PictureForm(3, 12, 12))
    except UserError as error:
        raise RuntimeError(f"an intact picture is refused: {error}") from error


def read_classes(path: Path) -> None:
    source = ImageFolder(image_size=4, fractions=(1, 0, 0))
    pool = source.pool("train", path, path.parent / "cache")
    if list(source.contents(path, path.parent)["train"]) != list(pool.names):
        raise RuntimeError(f"the pool has the classes {pool.names}")


def read_archive(path: Path) -> None:
    for _ in read_images(path, limits=Limits(members=1000, member_bytes=10_000, total_bytes=100_000)):
        pass


def read_config(path: Path) -> None:
    ended(["fit", "--config", str(path)], 2)


def ended(arguments: list[str], *codes: int) -> int:
    """The exit code of a command, which must be one of these."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            code = metasgd(arguments)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    if code not in codes or "Traceback" in said.getvalue():
        raise RuntimeError(f"left with {code}: {said.getvalue()[-2000:]}")
    return code


def read_metadata(path: Path) -> None:
    load(path)
    ended([*FIT, "--trainer.max_steps", "4", "--ckpt_path", str(path)], 0, 2)


def read_class_paths(path: Path) -> None:
    try:
        load(path)
    finally:
        if (path.parent / CALLED).exists():
            raise RuntimeError("what the checkpoint names was called")


KINDS: dict[str, tuple[Callable[[random.Random, Path], Path], Callable[[Path], object]]] = {
    "images": (images, read_image),
    "exif": (exif, read_exif),
    "classes": (classes, read_classes),
    "archives": (archives, read_archive),
    "checkpoints": (checkpoints, read_checkpoint),
    "metadata": (metadata, read_metadata),
    "class_paths": (class_paths, read_class_paths),
    "configs": (configs, read_config),
}


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def feed(kind: str, chance: random.Random, folder: Path) -> tuple[str, bytes]:
    """What became of one input, in a word or as a traceback, and the input."""
    make, read = KINDS[kind]
    path = make(chance, folder)
    content = path.read_bytes() if path.is_file() else repr(sorted(path.rglob("*"))).encode()
    try:
        with at_most(LIMIT):
            read(path)
    except UserError:
        return "refused", content
    except Exception:  # what this looks for
        return traceback.format_exc(), content
    return "refused" if kind == "configs" else "read", content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    sys.argv = ["metasgd"]
    shares = SHARES if options.only is None else {options.only: 100}
    found: dict[str, Counter[str]] = {kind: Counter() for kind in shares}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for kind, share in shares.items():
            for i in range(options.inputs * share // 100):
                said, content = feed(kind, random.Random(f"{options.seed} {kind} {i}"), Path(folder))
                found[kind][said if said in ("read", "refused") else "finding"] += 1
                if said not in ("read", "refused"):
                    print(f"{kind} {i}: {content[:300]!r}\n{said}", flush=True)
    for kind, counts in found.items():
        print(f"{kind:12} {sum(counts.values()):6} inputs: {dict(counts)}")
    if options.json:
        options.json.write_text(json.dumps({"seed": options.seed, **found}, indent=2) + "\n")
    sys.exit(any(counts["finding"] for counts in found.values()))


if __name__ == "__main__":
    main()
