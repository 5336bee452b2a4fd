"""A pickle of torch, gone through before anything is made of it: what it would call, and how large its tensors would be."""

from __future__ import annotations

import math
import pickletools
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import IO, Any, NamedTuple

import torch

_BYTES = {
    **{"BoolStorage": 1, "ByteStorage": 1, "CharStorage": 1, "ShortStorage": 2, "HalfStorage": 2, "BFloat16Storage": 2},
    **{"IntStorage": 4, "FloatStorage": 4, "LongStorage": 8, "DoubleStorage": 8, "ComplexFloatStorage": 8},
    "ComplexDoubleStorage": 16,
}
"""Of each number."""
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_HARMLESS = {"torch Size", "torch device", "__builtin__ complex", "builtins complex"}
_TENSORS = {f"torch._utils {name}" for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")}
_OF_TENSORS = {f"torch._utils {name}" for name in ("_rebuild_parameter", "_rebuild_parameter_with_state")}
_DICT, _OTHER = object(), object()
"""What stands for a dictionary with an order, and for everything else that is made."""


class _Name(str):
    """Of a class or a function."""


class _Storage(NamedTuple):
    bytes: int
    of_one: int  # bytes of a number


class TooLargeError(RuntimeError):
    """A file would make more of itself than it holds."""

    def __init__(self) -> None:
        super().__init__("it describes tensors that are larger than the file; load it where it comes from and save it again")


class TorchPickles:
    """The pickles of one file.

    torch reads them with an unpickler that calls a few dozen functions and no others, but some of these make whatever size of
    memory they are told. Weights and checkpoints need none of those.

    Args:
        size: of the file in bytes.
        records: bytes of each record of numbers, by its key; None in files of before zip archives, which say it themselves.
    """

    def __init__(self, size: int, records: Mapping[str, int] | None) -> None:
        self.size, self.records = size, records
        self._said: dict[str, int] = {}  # bytes of each storage

    def check(self, file: IO[bytes]) -> None:
        """Go through a pickle, to its end.

        Raises:
            TooLargeError: a tensor is larger than the file, or than the record that it says to be of.
            UnpicklingError: it calls something else than what tensors and plain values need.
            Exception: it is no pickle, in one of many ways.
        """
        stack, below, memo = list[Any](), list[list[Any]](), dict[Any, Any]()
        for operation, argument, _ in pickletools.genops(file):
            name = operation.name
            if name in _VALUES:
                stack.append(argument)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name in {"EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"}:
                stack.append(_OTHER)
            elif name == "GLOBAL":
                stack.append(_Name(argument))
            elif name in {"BINPUT", "LONG_BINPUT"}:
                memo[argument] = stack[-1]
            elif name in {"BINGET", "LONG_BINGET"}:
                stack.append(memo[argument])
            elif name == "MARK":
                below.append(stack)
                stack = []
            elif name == "TUPLE":
                whole = tuple(stack)
                stack = [*below.pop(), whole]
            elif name in {"TUPLE1", "TUPLE2", "TUPLE3"}:
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            elif name in {"APPENDS", "SETITEMS"}:
                _check_keys(stack[::2] if name == "SETITEMS" else ())
                stack = below.pop()
            elif name == "SETITEM":
                _check_keys(stack[-2:-1])
                del stack[-2:]
            elif name == "APPEND":
                stack.pop()
            elif name == "BUILD":  # which gives a tensor another size
                stack.pop()
                if stack[-1] is not _DICT:
                    raise UnpicklingError("it fills something else than a dictionary")
            elif name in {"REDUCE", "NEWOBJ"}:
                arguments = stack.pop()
                stack[-1] = self._call(stack[-1], arguments)
            elif name == "BINPERSID":
                stack[-1] = self._storage(stack[-1])
            elif name not in {"PROTO", "STOP"}:
                raise UnpicklingError(f"torch pickles nothing with {name}")

    def _call(self, name: Any, arguments: tuple[Any, ...]) -> object:
        if not isinstance(name, _Name):
            raise UnpicklingError("it calls what has no name")
        if name in _TENSORS:
            return self._tensor(*arguments)
        if name == "torch._tensor _rebuild_from_type_v2":
            function, _, inner, _ = arguments
            return self._call(function, inner)
        if name == "collections OrderedDict":
            return _DICT
        if name in _HARMLESS | _OF_TENSORS or (name == "_codecs encode" and arguments[1:] == ("latin1",)):  # how bytes are kept
            return _OTHER
        raise UnpicklingError(f"it calls {name.replace(' ', '.')}")

    def _storage(self, told: Any) -> _Storage:
        kind, name, key, _, count, *_ = told
        if kind != "storage" or not isinstance(name, _Name) or not isinstance(key, str) or not isinstance(count, int):
            raise UnpicklingError("it asks for something else than numbers")
        of_one = 1 if name == "torch.storage UntypedStorage" else _BYTES[name.removeprefix("torch ")]
        size = count * of_one
        self._said[key] = max(size, self._said.get(key, 0))
        there = self.size if self.records is None else self.records[key]
        if not 0 <= size <= there or sum(self._said.values()) > self.size:
            raise TooLargeError
        return _Storage(size, of_one)

    def _tensor(self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> object:
        of_one = storage.of_one
        if len(rest) > 2 and isinstance(rest[2], _Name):  # kinds of numbers without a storage of their own name theirs
            of_one = getattr(torch, rest[2].removeprefix("torch ")).itemsize
        if not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
            raise UnpicklingError("the shape of a tensor is none")
        count = math.prod(size)
        last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
        # A tensor that repeats its numbers is larger than they are; no network has one that is larger than all of it.
        if count and ((last + 1) * of_one > storage.bytes or count * of_one > self.size):
            raise TooLargeError
        return _OTHER


def _check_keys(keys: Any) -> None:
    """Stop at what is no plain key: the hash of a hundred thousand tuples in one another ends the process."""
    for key in keys:
        for part in key if isinstance(key, tuple) else (key,):
            if part is not None and not isinstance(part, (str, int, float)):
                raise UnpicklingError("the key of a dictionary is no plain value")
