"""Files for a model to read: what they are is told by their first bytes, never by their names."""

from __future__ import annotations

import os
import stat
from base64 import b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema
from pydantic_core.core_schema import is_instance_schema

from ractogateway._checks import check_id, check_tokens
from ractogateway.errors import InvalidTypeError, InvalidValueError

__all__ = ["MAX_FILE_BYTES", "RactoFile"]

MAX_FILE_BYTES = 20 * 2**20
"""The default bound. Google takes 20 MB in one request, Anthropic 32 MB, OpenAI 50 MB; base64 adds a third."""

PDF = "application/pdf"
TEXT = "text/plain"

_BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", PDF),
)
_WEBP = (b"RIFF", b"WEBP")
_LONGEST_NAME = 255


@dataclass(frozen=True, repr=False)
class RactoFile:
    """An image (PNG, JPEG, GIF or WebP), a PDF, or a text in UTF-8, to go into `ChatConfig.attachments`.

    Made by `from_path` or `from_bytes`. It cannot be changed, so one may be used in many requests at once. Its bytes
    and the name that a provider is told (of a PDF or a text, never of an image) are part of what a cache knows a
    request by. Neither its content nor its name is in its ``repr``. Which kinds a model reads is the provider's to say:
    Google's take no GIF.

    Attributes:
        data: The bytes.
        name: What the file is called, without a directory; None where it has no name.
        media_type: ``image/png``, ``image/jpeg``, ``image/gif``, ``image/webp``, ``application/pdf`` or ``text/plain``.
    """

    data: bytes
    name: str | None = None
    media_type: str = field(init=False)
    _digest: bytes = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.data, bytes):
            raise InvalidTypeError(f"data must be bytes, not {type(self.data).__name__}")
        if self.name is not None:
            _check_name(self.name)
        object.__setattr__(self, "media_type", _media_type(self.data))
        # Now, where a thread may do it; not in the event loop that sends it.
        object.__setattr__(self, "_digest", sha256(self.data).digest())

    @classmethod
    def from_path(cls, path: str | os.PathLike[str], *, max_bytes: int = MAX_FILE_BYTES) -> Self:
        """The file at ``path``, read now; in async code, call this in a thread (`anyio.to_thread.run_sync`).

        Args:
            path: A regular file. Its last part is the ``name``.
            max_bytes: The largest size to take. Nothing is read of a larger file.

        Raises:
            OSError: It cannot be read: there is none, or not for this user.
            InvalidTypeError: ``path`` is no path.
            InvalidValueError: It is no regular file, empty, too large, or of a kind that no provider reads.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise InvalidTypeError(f"path must be a str or a path, not {type(path).__name__}")
        check_tokens("max_bytes", max_bytes)
        place = Path(path)
        found = place.stat()
        if not stat.S_ISREG(found.st_mode):  # asked first: opening a pipe would wait for somebody to write into it
            raise InvalidValueError("path must name a regular file")
        _check_size(found.st_size, max_bytes)
        with place.open("rb") as file:
            data = file.read(max_bytes + 1)  # which may have grown meanwhile
        return cls.from_bytes(data, name=place.name, max_bytes=max_bytes)

    @classmethod
    def from_bytes(
        cls, data: bytes | bytearray | memoryview, *, name: str | None = None, max_bytes: int = MAX_FILE_BYTES
    ) -> Self:
        """A file from its bytes.

        Raises:
            InvalidTypeError: ``data`` is not bytes, or ``name`` no str.
            InvalidValueError: The bytes are empty, too many, or of a kind that no provider reads.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise InvalidTypeError(f"data must be bytes, not {type(data).__name__}")
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        _check_size(size, check_tokens("max_bytes", max_bytes))
        return cls(bytes(data), name)

    @property
    def is_image(self) -> bool:
        """Whether this is an image."""
        return self.media_type.startswith("image/")

    @property
    def is_text(self) -> bool:
        """Whether this is a text."""
        return self.media_type == TEXT

    @property
    def text(self) -> str:
        """The characters of a text, without a byte order mark.

        Raises:
            InvalidValueError: This is an image or a PDF.
        """
        if not self.is_text:
            raise InvalidValueError(f"a file of type {self.media_type} has no text")
        return self.data.decode("utf-8-sig")

    @property
    def base64(self) -> str:
        """The bytes in base64."""
        return b64encode(self.data).decode("ascii")

    def to_part(self) -> dict[str, Any]:
        """This file as a content part of Chat Completions, for a message of `ChatConfig.history`.

        All kits take these parts. In `ChatConfig.attachments`, the file itself is more: each kit sends it in its
        provider's best form.
        """
        if self.is_text:
            return {"type": "text", "text": self.text}
        address = f"data:{self.media_type};base64,{self.base64}"
        if self.is_image:
            return {"type": "image_url", "image_url": {"url": address}}
        # The protocol wants a name with each file.
        return {"type": "file", "file": {"filename": self.name or "file.pdf", "file_data": address}}

    def to_identity(self) -> list[Any]:
        """What a cache knows this file by. A list, which no content part is that somebody wrote by hand."""
        return [self.media_type, None if self.is_image else self.name, self._digest]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """An instance, and nothing that could be made into one: a content part is a mapping, too."""
        return is_instance_schema(cls)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # nothing in it can change

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.media_type}, <{len(self.data)} bytes>)"


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise InvalidValueError(f"a file may take {most} bytes (max_bytes), this one takes {size}")


def _check_name(name: object) -> None:
    if len(check_id("name", name)) > _LONGEST_NAME:
        raise InvalidValueError(f"name must have at most {_LONGEST_NAME} characters, not {len(str(name))}")
    if not str(name).isprintable():
        raise InvalidValueError("name must not hold characters that cannot be printed")


def _media_type(data: bytes) -> str:
    for beginning, media_type in _BEGINNINGS:
        if data.startswith(beginning):
            return media_type
    if (data[:4], data[8:12]) == _WEBP:
        return "image/webp"
    if not data.strip():
        raise InvalidValueError("a file must not be empty or blank")
    if not _is_text(data):
        raise InvalidValueError("a file must be a PNG, JPEG, GIF or WebP image, a PDF, or a text in UTF-8")
    return TEXT


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in data
