"""What a user wants the classes to be: named, ignored, merged. Checked against what the masks hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from protoseg.data.index import BACKGROUND, ClassTable, DataIndex, default_colors, in_order, table_from_names
from protoseg.data.masks import Color


@dataclass(frozen=True)
class ClassRules:
    """Changes to the class table of a data set.

    Args:
        names: of the classes, instead of those that the data set brings.
        ids: mask value of each named class; 0, 1, ... when left out.
        colors: (R, G, B) of each named class, in colour masks and in pictures.
        ignore: names of classes that count as not labelled; in annotation files, "background" is what no shape covers.
        merge: name -> names of the classes that it is made of.
        background: what becomes of the class "background": `class` (it is one like any other), `ignore`, or the name of
            another class that it belongs to.
    """

    names: Sequence[str] | None = None
    ids: Sequence[int] | None = None
    colors: Sequence[Sequence[int]] | None = None
    ignore: Sequence[str] = ()
    merge: Mapping[str, Sequence[str]] = field(default_factory=dict)
    background: str = "class"

    def ordered(self, index: DataIndex) -> DataIndex:
        """A data set of annotation files with its classes in the order of `names`; any other as it is.

        Raises:
            ValueError: see `table_of`.
        """
        if self.names is None or not index.names_classes:
            return index
        table = self.table_of(index)
        return index if table is None else in_order(index, table.names, table.colors)

    def table_of(self, index: DataIndex) -> ClassTable | None:
        """The class table of a data set under the user's names.

        Annotation files name their classes, so there the names are matched, and never put in place of others.

        Raises:
            ValueError: see `named`; names that are not those of annotation files, or ids, which such files do not have.
        """
        table, given = self.named(index.classes), index.classes
        if table is None or given is None or self.names is None or not index.names_classes:
            return table
        there = ", ".join(given.names)
        if self.ids is not None:
            raise ValueError(f"classes.ids numbers mask values, but these annotation files name their classes: {there}")
        if other := next((name for name in self.names if name not in given.names), None):
            raise ValueError(
                f"classes.names lists {other!r}, which is none of the classes in the annotation files: {there}; to rename one, "
                "use --classes.merge '{new: [old]}'"
            )
        unnamed = [BACKGROUND] if self.background == "ignore" else []  # it is no class in the end, so it needs no place
        if left_out := [name for name in given.names if name not in (*self.names, *unnamed)]:
            raise ValueError(
                f"classes.names leaves out {', '.join(left_out)} of the annotation files; list all, and those not to be "
                "learned in classes.ignore too (or --classes.background ignore)"
            )
        places = [given.names.index(name) for name in self.names]
        colors = table.colors if self.colors else tuple(given.colors[i] for i in places)
        names = table.names
        if left := [given.names.index(name) for name in unnamed if name in given.names and name not in self.names]:
            places, names = [*left, *places], (*unnamed, *names)
            colors = (given.colors[left[0]], *colors)
        return ClassTable(names, tuple(given.values[i] for i in places), colors, given.ignored)

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
        table = table_from_names(self.names, rgb if self.colors else None, numbers=ids)
        return table if self.colors else replace(table, colors=tuple(rgb))

    def apply(self, table: ClassTable, *, strict: bool = True) -> ClassTable:
        """Ignore and merge.

        Args:
            table: of the masks.
            strict: stop where a name is none of its classes; False passes over it.

        Raises:
            ValueError: a name that is no class, or one that two rules claim.
        """
        target: dict[str, str | None] = {}  # class -> what becomes of it, None = ignored
        merge, ignore = self._with_background(table, strict=strict)
        merged = [(part, new) for new, parts in merge.items() for part in parts]
        for name, new in [*((name, None) for name in ignore), *merged]:
            rule = "classes.ignore" if new is None else f"classes.merge.{new}"
            if name not in table.names and strict:
                raise ValueError(f"{rule} names {name!r}, which is no class; the classes are {', '.join(table.names)}")
            if name in target:
                raise ValueError(f"{rule} names {name!r}, which another rule names too")
            target[name] = new
        if clash := next((new for new in merge if new in table.names and new not in target), None):
            raise ValueError(f"classes.merge.{clash} makes a class that there is already; list {clash!r} among its parts")

        values: dict[str, tuple[int, ...]] = {}
        colors: dict[str, Color] = {}
        by_rule: tuple[int, ...] = ()
        for name, own, color in zip(table.names, table.values, table.colors, strict=True):
            new = target.get(name, name)
            if new is None:
                by_rule += own
            else:
                values[new] = values.get(new, ()) + own
                colors.setdefault(new, color)
        return ClassTable(tuple(values), tuple(values.values()), tuple(colors.values()), table.ignored + by_rule, by_rule)

    def _with_background(self, table: ClassTable, *, strict: bool) -> tuple[dict[str, Sequence[str]], list[str]]:
        """`merge` and `ignore` with what the rule for the background adds to them."""
        merge, ignore = dict(self.merge), list(self.ignore)
        if self.background == "class" or (BACKGROUND not in table.names and not strict):
            return merge, ignore
        if BACKGROUND not in table.names:
            raise ValueError(
                f"classes.background is {self.background!r}, but no class is called 'background': the classes are "
                f"{', '.join(table.names)}; use classes.ignore or classes.merge with the name of the one that is meant"
            )
        if self.background == "ignore":
            return merge, [*ignore, BACKGROUND]
        if self.background not in (*table.names, *merge):
            raise ValueError(
                f"classes.background is {self.background!r}; it takes class, ignore, or one of the classes "
                f"{', '.join(name for name in table.names if name != BACKGROUND)}"
            )
        parts = merge.get(self.background, [self.background])
        return merge | {self.background: [*parts, BACKGROUND]}, ignore
