"""What a user wants the classes to be: named, ignored, merged. Checked against what the masks hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from protoseg.data.index import ClassTable, default_colors
from protoseg.data.masks import Color, pack
from protoseg.types import IGNORE_INDEX


@dataclass(frozen=True)
class ClassRules:
    """Changes to the class table of a data set.

    Args:
        names: of the classes, instead of those that the data set brings.
        ids: mask value of each named class; 0, 1, ... when left out.
        colors: (R, G, B) of each named class, in colour masks and in pictures.
        ignore: names of classes that count as not labelled; in annotation files, "background" is what no shape covers.
        merge: name -> names of the classes that it is made of.
    """

    names: Sequence[str] | None = None
    ids: Sequence[int] | None = None
    colors: Sequence[Sequence[int]] | None = None
    ignore: Sequence[str] = ()
    merge: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def named(self, given: ClassTable | None) -> ClassTable | None:
        """The table that the names make; the given one where there are none.

        Raises:
            ValueError: ids or colours without names, or another number of them; a number out of range.
        """
        if self.names is None:
            if self.ids is not None or self.colors is not None:
                raise ValueError("classes.ids and classes.colors belong to classes.names; give those too")
            return given
        ids = list(range(len(self.names))) if self.ids is None else list(self.ids)
        colors = [tuple(color) for color in self.colors or default_colors(len(self.names))]
        if not len(self.names) == len(ids) == len(colors):
            raise ValueError(
                f"classes.names has {len(self.names)} entries, classes.ids {len(ids)} and classes.colors {len(colors)}; "
                "they must be as many"
            )
        if any(len(color) != 3 or not all(0 <= part < 256 for part in color) for color in colors):
            raise ValueError("classes.colors takes three numbers from 0 to 255 for each class")
        if len(set(ids)) < len(ids) or not all(0 <= i < 1 << 16 for i in ids):
            raise ValueError(f"classes.ids is {ids}; it takes different numbers from 0 to 65535")
        rgb = [(color[0], color[1], color[2]) for color in colors]
        in_masks = [(i, pack(color)) if self.colors else (i,) for i, color in zip(ids, rgb, strict=True)]
        ignored = () if IGNORE_INDEX in ids else (IGNORE_INDEX,)
        return ClassTable(tuple(self.names), tuple(in_masks), tuple(rgb), ignored)

    def apply(self, table: ClassTable, *, strict: bool = True) -> ClassTable:
        """Ignore and merge.

        Args:
            table: of the masks.
            strict: stop where a name is none of its classes; False passes over it.

        Raises:
            ValueError: a name that is no class, or one that two rules claim.
        """
        target: dict[str, str | None] = {}  # class -> what becomes of it, None = ignored
        merged = [(part, new) for new, parts in self.merge.items() for part in parts]
        for name, new in [*((name, None) for name in self.ignore), *merged]:
            rule = "classes.ignore" if new is None else f"classes.merge.{new}"
            if name not in table.names and strict:
                raise ValueError(f"{rule} names {name!r}, which is no class; the classes are {', '.join(table.names)}")
            if name in target:
                raise ValueError(f"{rule} names {name!r}, which another rule names too")
            target[name] = new
        if clash := next((new for new in self.merge if new in table.names and new not in target), None):
            raise ValueError(f"classes.merge.{clash} makes a class that there is already; list {clash!r} among its parts")

        values: dict[str, tuple[int, ...]] = {}
        colors: dict[str, Color] = {}
        ignored = table.ignored
        for name, own, color in zip(table.names, table.values, table.colors, strict=True):
            new = target.get(name, name)
            if new is None:
                ignored += own
            else:
                values[new] = values.get(new, ()) + own
                colors.setdefault(new, color)
        return ClassTable(tuple(values), tuple(values.values()), tuple(colors.values()), ignored)
