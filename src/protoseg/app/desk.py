"""What the page asks for, as bytes: one image read, one look taken, some of either remembered."""

from __future__ import annotations

import io
import json
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from protoseg.app.gallery import Entry, Gallery, left_out_note
from protoseg.app.look import MAPS, SIDE, Shown, colored, cropped, look, shares, smaller
from protoseg.app.models import Loaded, Models
from protoseg.app.recent import Recent
from protoseg.atlas.pictures import Box, jpeg, png
from protoseg.atlas.views import DISAGREEMENT
from protoseg.data.images import ImageArray, kind_of
from protoseg.data.io import IMAGE_SUFFIXES, UInt8Array, UnreadableImageError, write_mask
from protoseg.engine.evaluate import read_labeled
from protoseg.engine.pictures import mask_palette, overlay

Download = Literal["mask", "overlay", "confidence"]
DOWNLOADS: tuple[Download, ...] = get_args(Download)
THUMB = 112
"""Pixels of the longer side of the small pictures in the list."""
MOST_NEAR = 1 << 22
"""Pixels of the largest part of an image that is shown pixel by pixel: a screen of them, and what lies around it."""
_MOST_IMAGES, _MOST_LOOKS, _MOST_THUMBS = 256 << 20, 512 << 20, 32 << 20  # bytes that are remembered
_WAIT = 0.2  # seconds between two looks at whether somebody still waits


class File(NamedTuple):
    """Attributes: what the browser may call it; its type; its bytes."""

    name: str
    kind: str
    content: bytes


class Bytes(bytes):
    @property
    def nbytes(self) -> int:
        return len(self)


class Kept(NamedTuple):
    """Attributes: what a model says of an image; what the reader should know beside it."""

    shown: Shown
    notes: list[str]

    @property
    def nbytes(self) -> int:
        return self.shown.nbytes


class Desk:
    """Answers what the page asks. Any thread may ask; the network looks at one image at a time.

    Args:
        models, gallery: to choose from.
    """

    def __init__(self, models: Models, gallery: Gallery) -> None:
        self.models, self.gallery = models, gallery
        self._images: Recent[ImageArray] = Recent(_MOST_IMAGES)
        self._colored: Recent[UInt8Array] = Recent(_MOST_IMAGES)
        self._looks: Recent[Kept] = Recent(_MOST_LOOKS)
        self._thumbs: Recent[Bytes] = Recent(_MOST_THUMBS)
        self._session = secrets.token_hex(4)
        self._looking = threading.Lock()
        self._done: tuple[tuple[int, str], int, int] | None = None

    def state(self) -> dict[str, Any]:
        """What can be chosen."""
        shelf = self.gallery.shelf
        return {
            "session": self._session,  # a browser keeps pictures, and f0 is another image the next time
            "models": [choice.name for choice in self.models.choices],
            "folder": str(shelf.root) if shelf else "",
            "note": left_out_note(shelf) if shelf else "",
            "images": [_listed(entry) for entry in self.gallery.entries()],
            "suffixes": sorted(IMAGE_SUFFIXES),
            "most_bytes": self.gallery.most_bytes,
            "most_near": MOST_NEAR,
        }

    def upload(self, name: str, size: int, read: Callable[[int], bytes]) -> dict[str, str]:
        """Keep a file: see `Gallery.add`."""
        return _listed(self.gallery.add(name, size, read))

    def thumb(self, id: str) -> bytes:
        """A small JPEG."""
        kept = self._thumbs.get(id)
        if kept is None:
            # Not by `_image`: a list of small pictures would drive the image that is looked at out of the memory.
            kept = Bytes(jpeg(smaller(colored(self.gallery.read(self.gallery.find(id))), longest=THUMB)))
            self._thumbs.put(id, kept)
        return kept

    def picture(self, id: str, bands: tuple[int, int, int] | None = None) -> bytes:
        """The image as the page shows it, a JPEG."""
        return jpeg(smaller(self._rgb(self.gallery.find(id), bands)))

    def part(self, id: str, box: Box, bands: tuple[int, int, int] | None = None) -> bytes:
        """The pixels of a part of the image, a PNG."""
        rgb = self._rgb(self.gallery.find(id), bands)
        return png(cropped(rgb, _checked(box, rgb)))

    def look(self, number: int, id: str, between: Callable[[], None] = lambda: None) -> bytes:
        """What a model says of an image: four bytes with the length of a JSON text, that text, and the planes of `MAPS`.

        Args:
            number: of the model.
            id: of the image.
            between: called now and then; what it raises ends the work.
        """
        entry, start = self.gallery.find(id), time.perf_counter()
        loaded = self.models.get(number)
        image = self._image(entry)
        shown, notes = self._kept(number, loaded, entry, image, between)
        maps = shown.picture()
        rows, columns = maps["label"].shape
        classes = loaded.model.classes
        said = {
            "size": [image.shape[1], image.shape[0]],
            "shown": [columns, rows],
            "channels": image.shape[2],
            "photograph": kind_of(image).is_photograph,
            "classes": [
                {"name": name, "color": color, "share": float(share)}
                for name, color, share in zip(classes.names, classes.colors, shares(shown.label, len(classes)), strict=True)
            ],
            "prototypes": loaded.head.per_class if loaded.head else 0,
            "tones": loaded.tones,
            "disagreement": [{"name": name, "color": color} for name, color in DISAGREEMENT],
            "planes": list(MAPS),
            "seen": str(loaded.model.inference),
            "notes": notes,
            "seconds": round(time.perf_counter() - start, 1),
        }
        text = json.dumps(said).encode()
        return b"".join((len(text).to_bytes(4, "big"), text, *(maps[name].tobytes() for name in MAPS)))

    def near(self, number: int, id: str, box: Box, between: Callable[[], None] = lambda: None) -> bytes:
        """The planes of `MAPS` of every pixel in a part of an image that has been looked at."""
        entry, loaded = self.gallery.find(id), self.models.get(number)
        image = self._image(entry)
        _checked(box, image)
        maps = self._kept(number, loaded, entry, image, between).shown.part(box)
        return b"".join(maps[name].tobytes() for name in MAPS)

    def progress(self, number: int, id: str) -> dict[str, int]:
        """How many pieces of an image have been seen, of how many; nothing where the network looks at another one."""
        current = self._done
        return {"done": current[1], "of": current[2]} if current and current[0] == (number, id) else {}

    def download(self, number: int, id: str, what: Download) -> File:
        """The mask, the overlay or the confidence at the size of the image, as `protoseg predict` writes them."""
        entry, loaded = self.gallery.find(id), self.models.get(number)
        image = self._image(entry)
        shown = self._kept(number, loaded, entry, image).shown
        classes, stem = loaded.model.classes, entry.sample.name.rsplit("/", 1)[-1]
        file = io.BytesIO()
        if what == "mask":
            write_mask(file, classes.decode(shown.label), mask_palette(classes))
            return File(f"{stem}.png", "image/png", file.getvalue())
        if what == "confidence":
            Image.fromarray(shown.confidence).save(file, format="PNG")
            return File(f"{stem}.confidence.png", "image/png", file.getvalue())
        Image.fromarray(overlay(self._rgb(entry, None), shown.label, classes)).save(file, format="JPEG", quality=92)
        return File(f"{stem}.overlay.jpg", "image/jpeg", file.getvalue())

    def _image(self, entry: Entry) -> ImageArray:
        kept = self._images.get(entry.id)
        if kept is None:
            kept = self.gallery.read(entry)
            self._images.put(entry.id, kept)
        return kept

    def _rgb(self, entry: Entry, bands: tuple[int, int, int] | None) -> UInt8Array:
        """An image for the eye. Of a part alone neither its darkest nor its brightest pixels would be known."""
        key = (entry.id, bands)
        kept = self._colored.get(key)
        if kept is None:
            kept = colored(self._image(entry), bands)
            self._colored.put(key, kept)
        return kept

    def _kept(
        self, number: int, loaded: Loaded, entry: Entry, image: ImageArray, between: Callable[[], None] = lambda: None
    ) -> Kept:
        """What a model says of an image, remembered or looked at now."""
        wanted = loaded.model.normalization.kind
        if kind_of(image) != wanted:
            raise UnreadableImageError(
                f"{entry.name} has {kind_of(image)}, and {loaded.choice.name} has learned from images of {wanted}; choose "
                "another image or model"
            )
        key = (number, entry.id)
        kept = self._looks.get(key)
        if kept is not None:  # a closer look does not wait for the network, which may be at another image
            return kept
        while not self._looking.acquire(timeout=_WAIT):
            between()
        try:
            kept = self._looks.get(key)
            if kept is None:

                def note_and(done: int, of: int) -> None:
                    self._done = (key, done, of)
                    between()

                truth, note = _truth(loaded, entry)
                shown = look(loaded.model, loaded.head, image, truth, between=note_and)
                kept = Kept(shown, [text for text in (loaded.note, note, _in_pieces(shown)) if text])
                self._looks.put(key, kept)
        finally:
            self._done = None
            self._looking.release()
        return kept


def _checked(box: Box, of: ImageArray) -> Box:
    """A part of an image, which must lie inside of it and not be too large."""
    height, width = of.shape[:2]
    inside = box.top + box.height <= height and box.left + box.width <= width
    if not (inside and 0 < box.height * box.width <= MOST_NEAR):
        raise ValueError(
            f"there is no such part of an image of {width} x {height} pixels; at most {MOST_NEAR:,} of them are shown"
        )
    return box


def _in_pieces(shown: Shown) -> str:
    if shown.parts == 1:
        return ""
    return (
        f"the network has seen this image in {shown.parts} overlapping pieces of at most {SIDE:,} pixels a side; "
        "the mask of protoseg predict may differ a little"
    )


def _truth(loaded: Loaded, entry: Entry) -> tuple[UInt8Array | None, str]:
    """The mask of an image, as class ids of the model, or why there is none to show."""
    if loaded.masks is None or entry.sample.mask is None:
        return None, ""
    try:
        _, truth = read_labeled(entry.sample, loaded.masks, loaded.model.normalization)
    except ValueError as error:
        return None, f"its mask is not shown: {error}"
    return np.ascontiguousarray(truth), ""


def _listed(entry: Entry) -> dict[str, str]:
    return {"id": entry.id, "name": entry.name, "role": entry.role}
