"""Trees of image files as people have them."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from vitals.errors import UserError, one_line
from vitals.runs.array_cache import cached, key_of, made_of_files
from vitals.runs.class_folders import list_files
from vitals.runs.image_set import ImageSet, ImageSplits
from vitals.runs.memory import require_memory

Image.init()
# Not those that start Ghostscript, unpack whatever they hold, or only name what they hold.
FORMATS = tuple({*Image.OPEN} - {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})
ENDINGS = {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}


def read_tree(
    root: Path, image_size: int | None, batch_size: int | None, skip_unreadable: bool, mapped: bool | None
) -> ImageSplits:
    """The images of a tree, decoded the first time and then cached; the arguments are `ImageData`'s.

    Raises:
        UserError: if a file cannot be decoded or has another size than the first, or memory is too small.
    """
    tree = list_files(root, ENDINGS)
    files, labels = zip(*(sample for members in tree.files.values() for sample in members), strict=True)
    images = (_decode(file, None) for file in files)
    first = next((image.shape for image in images if not isinstance(image, str)), (3, 1, 1))
    shape = (3, image_size, image_size) if image_size else first
    batch = min(batch_size or len(files), len(files))
    require_memory(
        3 * 4 * math.prod(shape) * batch,  # as float32: cropped, normalised, and past a first layer
        f"a batch of {batch:,} images of {shape[2]}×{shape[1]} pixels",
        "set a smaller data.image_size or data.batch_size",
    )

    def judge(bad: dict[str, str], read: int) -> None:
        if bad and (not skip_unreadable or len(bad) == len(files)):
            file, reason = next(iter(bad.items()))
            among = "" if read == len(files) else f" that were read so far, and there are {len(files):,}"
            raise UserError(
                f"{file} is not a readable image ({reason}), one of {len(bad):,} of {read:,}{among}: "
                f"mend or delete them, or set data.skip_unreadable=true to do without them."
            )

    decode = partial(made_of_files, files, partial(_decode, size=image_size, shape=shape), shape, judge)
    source = f"{root.absolute()} {image_size}"
    pixels, facts, mapped = cached(source, key_of(files, image_size), decode, mapped)
    note, bad = tree.note, facts["unreadable"]
    judge(bad, len(files))
    if bad:
        note += f"{', ' if note else f'noticed in {root}: '}unreadable files passed over ({len(bad):,})"
    whole = ImageSet(pixels, torch.tensor(labels), tree.classes, mapped=mapped)
    parts, start = {}, 0
    for split, members in tree.files.items():
        places = [start + place for place, (file, _) in enumerate(members) if file not in bad]
        parts[split], start = whole.subset(torch.tensor(places)), start + len(members)
    return ImageSplits(**parts, note=note)


def _decode(file: str, size: int | None, shape: tuple[int, ...] | None = None) -> np.ndarray | str:
    """The pixels of one file, uint8, 3×H×W, which must be `shape`; or why it cannot be read."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > 2**27:  # of which a file of some kilobytes can have more
                return f"its {image.width}×{image.height} pixels are too many"
            pixels = _in_bytes(ImageOps.exif_transpose(image)).convert("RGB")
    except UnidentifiedImageError:
        return "it is empty, or in no format that Pillow knows"
    except Exception as error:  # whatever a damaged file makes of a decoder
        return one_line(error)
    if size is not None and pixels.size != (size, size):
        pixels = pixels.resize((size, size), Image.Resampling.BICUBIC)
    if shape and pixels.size != (shape[2], shape[1]):
        raise UserError(
            f"{file} is {pixels.width}×{pixels.height} pixels, and others are {shape[2]}×{shape[1]}: "
            f"set data.image_size={min(shape[1:])}, say, to resize them all."
        )
    return np.asarray(pixels).transpose(2, 0, 1)


def _in_bytes(image: Image.Image) -> Image.Image:
    """An image of 16 bits a pixel scaled to 8, which Pillow would cut off; one with a palette without it."""
    if image.mode == "P":
        return image.convert("RGBA")  # at once to RGB, a transparent colour is a warning
    if image.mode[0] not in "IF":
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError("its pixels have neither 8 nor 16 bits")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
