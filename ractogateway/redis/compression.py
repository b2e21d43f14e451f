"""Compression of what Redis keeps: zlib, and Zstandard with its extra. What comes out of it again has an upper bound.

A few bytes can be the compressed form of a few gigabytes. A value that would grow beyond `MAX_EXPANDED_BYTES` was not
written by this library, which leaves larger ones as they are.
"""

from __future__ import annotations

import threading
import zlib
from functools import cache
from typing import Any, Final, Literal

from ractogateway._extras import import_extra
from ractogateway.errors import InvalidValueError, MissingExtraError

Compression = Literal["zlib", "zstd"]

PLAIN: Final = 0
_ZLIB: Final = 1
_ZSTD: Final = 2

MAX_EXPANDED_BYTES = 64 * 1024 * 1024

_ZLIB_LEVEL = 1  # an answer is written once and read often, and reading costs the same at every level
_ZSTD_LEVEL = 3


class CannotExpand(ValueError):
    """Bytes that are not the compressed form of something this library would have compressed."""


class Codec:
    """One way to compress. Safe to share between threads."""

    id: int

    def compress(self, data: bytes) -> bytes:
        """The compressed form, which may be larger than ``data``."""
        raise NotImplementedError

    def expand(self, data: bytes) -> bytes:
        """What was compressed.

        Raises:
            CannotExpand: Not made by `compress`, cut short, with something behind it, or too large.
        """
        raise NotImplementedError


class _Zlib(Codec):
    id = _ZLIB

    def compress(self, data: bytes) -> bytes:
        return zlib.compress(data, level=_ZLIB_LEVEL)

    def expand(self, data: bytes) -> bytes:
        inflater = zlib.decompressobj()
        try:
            # One byte more than allowed, so that what has exactly the allowed size is known to have ended.
            expanded = inflater.decompress(data, MAX_EXPANDED_BYTES + 1)
        except zlib.error:
            raise CannotExpand("not zlib") from None
        if not inflater.eof or inflater.unused_data or len(expanded) > MAX_EXPANDED_BYTES:
            raise CannotExpand("cut short, too large, or with something behind it")
        return expanded


class _Zstd(Codec):
    id = _ZSTD

    def __init__(self) -> None:
        self._library: Any = import_extra("zstandard", extra="zstd", needed_for="compression='zstd'")
        # Making a context takes several times as long as using it, and it serves one thread at a time.
        self._of_thread = threading.local()

    def compress(self, data: bytes) -> bytes:
        compressor = getattr(self._of_thread, "compressor", None)
        if compressor is None:
            compressor = self._of_thread.compressor = self._library.ZstdCompressor(level=_ZSTD_LEVEL)
        compressed: bytes = compressor.compress(data)
        return compressed

    def expand(self, data: bytes) -> bytes:
        expander = getattr(self._of_thread, "expander", None)
        if expander is None:
            expander = self._of_thread.expander = self._library.ZstdDecompressor()
        try:
            # The size that the frame claims is allocated before anything is read, whatever `max_output_size` says.
            size = self._library.frame_content_size(data)  # -1: it claims none, which `compress` always does
            if not 0 <= size <= MAX_EXPANDED_BYTES:
                raise CannotExpand("of a size that is not said, or too large")
            expanded: bytes = expander.decompress(data, allow_extra_data=False)
        except self._library.ZstdError:
            raise CannotExpand("not zstd, cut short, or with something behind it") from None
        return expanded


_zlib = _Zlib()


@cache
def _zstd() -> Codec | None:
    # Asked once: looking for a package that is not there takes longer than reading the entry.
    try:
        return _Zstd()
    except MissingExtraError:
        return None


def codec_called(name: object) -> Codec:
    """The codec to write with.

    Raises:
        InvalidValueError: There is none of this name.
        MissingExtraError: Its library is not installed.
    """
    if name == "zlib":
        return _zlib
    if name == "zstd":
        return _zstd() or _Zstd()
    raise InvalidValueError("compression must be 'zlib' or 'zstd'")


def codec_with(codec_id: int) -> Codec | None:
    """The codec to read with, None where this release knows none of this id.

    Raises:
        MissingExtraError: Its library is not installed.
    """
    if codec_id == _ZLIB:
        return _zlib
    if codec_id == _ZSTD:
        return _zstd() or _Zstd()
    return None
