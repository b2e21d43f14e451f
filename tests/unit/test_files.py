"""Files are what their first bytes say, bounded, and part of a request's identity; nothing shows what is in them."""

from __future__ import annotations

import copy
import os
import pickle
import struct
import zlib

import pytest
from pydantic import ValidationError

from ractogateway import ChatConfig, RactoFile
from ractogateway._kit.request import identify, snapshot
from ractogateway.cache import fingerprint
from ractogateway.errors import InvalidTypeError, InvalidValueError

CANARY = "CANARY"


def png(note: bytes = b"") -> bytes:
    """A whole PNG of one grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    body = [chunk(b"IHDR", header), chunk(b"tEXt", b"note\0" + note), chunk(b"IDAT", zlib.compress(b"\0\x80"))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body) + chunk(b"IEND", b"")


KINDS = {
    "image/png": png(),
    "image/jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "image/gif": b"GIF89a\x01\0\x01\0",
    "image/webp": b"RIFF\x24\0\0\0WEBPVP8 ",
    "application/pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "text/plain": "Grüße, 世界!\n".encode(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_bytes_say_what_a_file_is(kind, tmp_path):
    lying = tmp_path / "a.exe"
    lying.write_bytes(KINDS[kind])
    for file in (RactoFile.from_path(lying), RactoFile.from_path(str(lying)), RactoFile.from_bytes(KINDS[kind])):
        assert (file.media_type, file.data) == (kind, KINDS[kind])
    assert RactoFile.from_path(lying).name == "a.exe"


@pytest.mark.parametrize(
    "data", [b"", b" \n", b"MZ\x90\0\x03", b"\x00\x01", b"\xff\xfe" + "Hi".encode("utf-16-le"), b"RIFF\x24\0\0\0WAVE"]
)
def test_what_no_provider_reads_is_refused(data, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for make in (lambda: RactoFile.from_bytes(data, name="a.png"), lambda: RactoFile.from_path(path)):
        with pytest.raises(InvalidValueError, match="a file must"):
            make()


def test_sizes_are_bounded_before_anything_is_read(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(10 * 2**40)  # sparse: it takes no room, and reading it would take hours
    with pytest.raises(
        InvalidValueError, match=r"may take 20971520 bytes \(max_bytes\), this one takes 10995116277760"
    ):
        RactoFile.from_path(path)
    assert RactoFile.from_bytes(b"abc", max_bytes=3).text == "abc"
    for data in (b"abcd", bytearray(b"abcd"), memoryview(b"abcd")):
        with pytest.raises(InvalidValueError, match="max_bytes"):
            RactoFile.from_bytes(data, max_bytes=3)


def test_a_path_must_lead_to_a_regular_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(InvalidValueError, match="regular file"):
            RactoFile.from_path(path)
    with pytest.raises(FileNotFoundError):
        RactoFile.from_path(tmp_path / "nothing")


@pytest.mark.parametrize(
    "make",
    [
        lambda: RactoFile.from_path(7),
        lambda: RactoFile.from_bytes("text"),
        lambda: RactoFile.from_bytes(b"a", name=7),
        lambda: RactoFile.from_bytes(b"a", max_bytes=1.5),
        lambda: RactoFile("text"),
        lambda: ChatConfig(user_message="q", attachments=["a.png"]),
        lambda: ChatConfig(user_message="q", attachments=RactoFile(b"a")),
    ],
)
def test_wrong_types_are_refused(make):
    with pytest.raises(InvalidTypeError):
        make()


@pytest.mark.parametrize("name", ["", "a\nb", "\ud800", "a" * 256])
def test_wrong_names_are_refused(name):
    with pytest.raises(InvalidValueError, match="name must"):
        RactoFile(b"a", name)


def test_a_text_has_no_byte_order_mark_and_an_image_no_text():
    assert RactoFile(b"\xef\xbb\xbfabc").text == "abc"
    with pytest.raises(InvalidValueError, match="image/png has no text"):
        _ = RactoFile(png()).text


def test_nothing_shows_what_is_in_a_file():
    file = RactoFile(CANARY.encode(), f"{CANARY}.txt")
    config = ChatConfig(user_message="q", attachments=[file])
    shown = f"{file!r} {file!s} {config!r} {[file]}"
    assert CANARY not in shown
    assert "RactoFile(text/plain, <6 bytes>)" in shown
    with pytest.raises((InvalidTypeError, ValidationError)) as e:
        ChatConfig(user_message="q", attachments=[file], tools=7)
    assert CANARY not in str(e.value)


def test_a_file_is_a_value():
    file = RactoFile(png(), "a.png")
    assert copy.deepcopy(file) is file
    assert pickle.loads(pickle.dumps(file)) == file == RactoFile(png(), "a.png") != RactoFile(png(), "b.png")
    assert len({file, RactoFile(png(), "a.png")}) == 1
    with pytest.raises(AttributeError):
        file.data = b""


def digest(*attachments: object) -> bytes:
    config = snapshot(ChatConfig(user_message="q", attachments=list(attachments)))
    identity = identify(config, model="m", system_prompt="")
    return fingerprint(*identity.fields, identity.context)


def test_every_byte_counts_in_a_request_and_so_does_a_name_that_is_sent():
    same = [RactoFile(png(), "a.png"), RactoFile(png(), "b.png"), RactoFile(bytearray_of(png()))]
    assert len({digest(file) for file in same}) == 1, "no provider is told the name of an image"
    apart = [
        RactoFile(png(b"1")),
        RactoFile(png(b"2")),
        RactoFile(KINDS["application/pdf"]),
        RactoFile(KINDS["application/pdf"], "a.pdf"),
        RactoFile(b"a"),
        RactoFile(b"a", "a.txt"),
        RactoFile(b"b"),
        {"type": "text", "text": "a"},
    ]
    assert len({digest(file) for file in apart}) == len(apart)
    assert digest(apart[0], apart[1]) != digest(apart[1], apart[0])


def bytearray_of(data: bytes) -> bytes:
    return RactoFile.from_bytes(bytearray(data)).data


def test_a_part_for_a_history():
    assert RactoFile(b"abc", "a.txt").to_part() == {"type": "text", "text": "abc"}
    image = RactoFile(KINDS["image/gif"]).to_part()
    assert image == {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODlhAQABAA=="}}
    document = RactoFile(KINDS["application/pdf"]).to_part()
    assert document["file"]["filename"] == "file.pdf"
    assert document["file"]["file_data"].startswith("data:application/pdf;base64,JVBERi0xLjcK")
