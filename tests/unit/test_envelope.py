"""What opens an entry of the cache and what does not; and that entries written by this release stay readable."""

from __future__ import annotations

import os
import random
import zlib
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest
import zstandard

from ractogateway.errors import InvalidTypeError, InvalidValueError, MissingExtraError
from ractogateway.messages import LLMResponse, Usage
from ractogateway.redis import AsyncRedisExactCache, Encryption, RedisExactCache, compression
from ractogateway.redis.answers import SealedAnswers
from ractogateway.redis.compression import MAX_EXPANDED_BYTES, CannotExpand, codec_called
from ractogateway.redis.envelope import BadEnvelope, Envelopes, Flaw

FINGERPRINT, OTHER = sha256(b"a request").digest(), sha256(b"another").digest()
HERE, ELSEWHERE = b"n" * 16, b"m" * 16
KEYS = Encryption({"old": b"o" * 32, "new": b"n" * 32}, current="new")
TEXT = b'{"content":"' + b"Paris is the capital of France. " * 40 + b'"}'
HEAD_BYTES = 35


def key_of(fingerprint: bytes) -> bytes:
    return b"prefix:e:" + fingerprint


def envelopes(namespace=HERE, key_of=key_of, above=10**9, codec="zlib", encryption=None) -> Envelopes:
    return Envelopes(namespace, key_of, compress_above_bytes=above, codec=codec_called(codec), encryption=encryption)


VARIANTS = {
    "plain": envelopes(),
    "zlib": envelopes(above=0),
    "zstd": envelopes(above=0, codec="zstd"),
    "encrypted": envelopes(encryption=KEYS),
    "encrypted zlib": envelopes(above=0, encryption=KEYS),
    "encrypted zstd": envelopes(above=0, codec="zstd", encryption=KEYS),
}


@pytest.fixture(params=VARIANTS)
def variant(request) -> Envelopes:
    return VARIANTS[request.param]


def flaw_of(variant: Envelopes, value: bytes, fingerprint: bytes = FINGERPRINT) -> Flaw:
    with pytest.raises(BadEnvelope) as caught:
        variant.unseal(value, fingerprint)
    return caught.value.flaw


# --- what opens ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"x", TEXT, os.urandom(5_000)], ids=["empty", "short", "text", "noise"])
def test_what_was_sealed_opens(variant, payload):
    assert variant.unseal(variant.seal(payload, FINGERPRINT), FINGERPRINT) == payload


def test_whatever_writes_each_reads_all_others():
    for keys in (None, KEYS):
        family = [
            envelopes(above=above, codec=codec, encryption=keys) for above in (0, 10**9) for codec in ("zlib", "zstd")
        ]
        for writer in family:
            assert {reader.unseal(writer.seal(TEXT, FINGERPRINT), FINGERPRINT) for reader in family} == {TEXT}


def test_compression_is_used_where_it_pays():
    for codec in ("zlib", "zstd"):
        assert len(envelopes(above=len(TEXT), codec=codec).seal(TEXT, FINGERPRINT)) > len(TEXT)
        assert len(envelopes(above=len(TEXT) - 1, codec=codec).seal(TEXT, FINGERPRINT)) < len(TEXT) / 5
        noise = os.urandom(3_000)
        assert len(envelopes(above=0, codec=codec).seal(noise, FINGERPRINT)) == len(noise) + HEAD_BYTES + 4


def test_many_threads_share_one():
    for name in ("zstd", "encrypted zstd"):
        variant = VARIANTS[name]

        def work(seed: int, variant: Envelopes = variant) -> bool:
            rng = random.Random(seed)
            payloads = [bytes(rng.choices(b"abc", k=rng.randrange(5_000))) for _ in range(200)]
            return all(variant.unseal(variant.seal(each, FINGERPRINT), FINGERPRINT) == each for each in payloads)

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(work, range(8)))


# --- frozen samples: these bytes are in somebody's Redis -------------------------------------------------------------

SAMPLES = {
    "plain": (
        "010000af0bf2a562dabe2a81e0b0b47a33a5156e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6eced061327b22636f6e74656e74223a"
        "2250617269732e2050617269732e2050617269732e2050617269732e2050617269732e2050617269732e2050617269732e20"
        "50617269732e2050617269732e2050617269732e20222c22746f6f6c5f63616c6c73223a5b5d2c2266696e6973685f726561"
        "736f6e223a2273746f70222c227573616765223a7b2270726f6d70745f746f6b656e73223a392c22636f6d706c6574696f6e"
        "5f746f6b656e73223a312c22746f74616c5f746f6b656e73223a31302c226361636865645f746f6b656e73223a302c227265"
        "61736f6e696e675f746f6b656e73223a307d2c226d6f64656c223a226d227d"
    ),
    "zlib": (
        "010100af0bf2a562dabe2a81e0b0b47a33a5156e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6e23a241dd7801a58e410ac2400c45af"
        "22590fa24be714ee4586d0c6767026192671557af74684f600ae3e3c7ef2fe0283b0111b44b863cf7a3efd1910c0444a1ab0"
        "1485f878067865ce3aa74ea8c22e5293e6b58fe2441017685d6ab364f226f6935bf051b515b22cbcd3ebf7af6139c0c57b38"
        "cc34eec8c94f92793ae01aa0ca48c5cd15d60df87e52b3"
    ),
    "zstd": (
        "010200af0bf2a562dabe2a81e0b0b47a33a5156e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6e44db8d2428b52ffd20f2dd03007288"
        "19197069dbdca3f869915668335c2dabd702809ffc239a41a00a43cbd5ef298d55b7e550742b8c440e9e5b91b0b76f025dd4"
        "9996da731bdc5913b16d7aa94dd6957b1ec889dbd736ffaecb98894118293adc0c853ba784c7a4ddbe1d10609420e1f7d66c"
        "dd73250600387ba0780c9be5d0dcfce42c4e4a2a76"
    ),
    "encrypted": (
        "010001af0bf2a562dabe2a81e0b0b47a33a5156e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6e01036e657762ede767239dbca02547"
        "96c9bb450c0a6ee4bffa292e54e08ccb016a98bb197a2e8168a3a053ed89afc88866e3d0ffae66cfe552727030f4f680807f"
        "f02ccd3578d85d0714b9bd70b0e16cf766f890e90395d53ba270d0b09e759755c52ac0f9390536f7e2eefee33ad22f223481"
        "aae2e84870428b14436d066bbb6ce46173ee707aa6ac101fdadfb6476904a6eb669221dd7239f98f75ddaedd0948be765d56"
        "a106fe696b48844c85c2069c55219f7c5e96cb2dd22edb607a54eea36c47d81d8cb79e003dc24159d9727d40276eb6e69758"
        "b4ab88c1d8cd94570a76a6d113474eb01f9e7f754f2abd16aeba21eeb08d706ddebb1059b3510504a643674a876f72502e59"
        "31ee0d18030f4bf9c86a"
    ),
    "encrypted zstd": (
        "010201af0bf2a562dabe2a81e0b0b47a33a5156e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6e01036e657797e87b84cbe7a4a6bdee"
        "07ce912adb7aa0847e816af88b37f322a7e379d37dfc1e330dd3998a7db835accc6f7f033b08f1694e1c46a7e0b5ca1f0dd5"
        "67c5767014ce235e792b423324928e1e7480fc65b9ef9064d7e4102ce000a428009f8714ae31fbc7270185e1ddbefa035a16"
        "9deb617102998cbac17e4a0279bb3fee3f064efc6b9b576268bfb0b5811b984043d3efa116aaad4159872d77d3c00ff622e0"
    ),
}
SAMPLE = LLMResponse(
    content="Paris. " * 10, usage=Usage(prompt_tokens=9, completion_tokens=1, total_tokens=10), model="m"
)


@pytest.mark.parametrize("name", SAMPLES)
def test_entries_of_this_format_stay_readable(name):
    """If this fails, the format has changed, and its version must change too."""
    answer = SealedAnswers(VARIANTS[name]).open(bytes.fromhex(SAMPLES[name]), FINGERPRINT)
    assert (answer.content, answer.model, answer.saved_usage) == (SAMPLE.content, SAMPLE.model, SAMPLE.usage)


def test_the_form_is_the_one_described():
    owner = FINGERPRINT[:16] + HERE
    checksum = zlib.crc32(b"\1\0\0" + owner + TEXT).to_bytes(4, "big")
    assert envelopes().seal(TEXT, FINGERPRINT) == b"\1\0\0" + owner + checksum + TEXT
    packed = envelopes(above=0).seal(TEXT, FINGERPRINT)
    assert (packed[:HEAD_BYTES], zlib.decompress(packed[HEAD_BYTES + 4 :])) == (b"\1\1\0" + owner, TEXT)
    packed = envelopes(above=0, codec="zstd").seal(TEXT, FINGERPRINT)
    assert (packed[:HEAD_BYTES], zstandard.decompress(packed[HEAD_BYTES + 4 :])) == (b"\1\2\0" + owner, TEXT)
    sealed = envelopes(encryption=KEYS).seal(TEXT, FINGERPRINT)
    associated = b"\1\0\1" + owner + key_of(FINGERPRINT)
    assert KEYS.decrypt(sealed[HEAD_BYTES:], associated=associated) == TEXT


# --- what does not open ----------------------------------------------------------------------------------------------


def test_an_entry_of_another_request(variant):
    assert flaw_of(variant, variant.seal(TEXT, OTHER)) is Flaw.FOREIGN


def test_an_entry_of_another_namespace(variant):
    stranger = envelopes(ELSEWHERE, encryption=variant._encryption)
    assert flaw_of(variant, stranger.seal(TEXT, FINGERPRINT)) is Flaw.FOREIGN


def test_no_entry_opens_after_any_change(variant):
    sealed = variant.seal(TEXT, FINGERPRINT)
    changed = [sealed[:at] + bytes((sealed[at] ^ 1 << at % 8,)) + sealed[at + 1 :] for at in range(len(sealed))]
    torn = [sealed[:size] for size in range(len(sealed))]
    joined = [sealed + b"\0", sealed + sealed, b"\0" + sealed, sealed[1:], bytes(len(sealed)), b"\xff" * len(sealed)]
    seen = {flaw_of(variant, value) for value in (*changed, *torn, *joined)}
    assert {Flaw.TORN, Flaw.FOREIGN, Flaw.UNKNOWN_FORMAT} <= seen


def test_a_codec_that_is_not_there_anymore_does_not_open_as_plain_text():
    packed = envelopes(above=0).seal(TEXT, FINGERPRINT)
    assert flaw_of(envelopes(), with_payload(TEXT, 7)) is Flaw.UNKNOWN_FORMAT
    assert flaw_of(envelopes(), packed[:2] + b"\x07" + packed[3:]) is Flaw.UNKNOWN_FORMAT
    assert flaw_of(envelopes(), b"\x02" + packed[1:]) is Flaw.UNKNOWN_FORMAT
    assert flaw_of(envelopes(), b"") is Flaw.TORN


def test_with_keys_nothing_in_plain_text_opens_and_without_them_nothing_encrypted():
    assert flaw_of(VARIANTS["encrypted"], VARIANTS["plain"].seal(TEXT, FINGERPRINT)) is Flaw.UNDECIPHERABLE
    assert flaw_of(VARIANTS["plain"], VARIANTS["encrypted"].seal(TEXT, FINGERPRINT)) is Flaw.UNDECIPHERABLE


def test_keys_that_are_gone_or_others():
    sealed = VARIANTS["encrypted"].seal(TEXT, FINGERPRINT)
    for keys in ({"old": b"o" * 32}, {"new": b"x" * 32}):
        reader = envelopes(encryption=Encryption(keys, current=next(iter(keys))))
        assert flaw_of(reader, sealed) is Flaw.UNDECIPHERABLE


def test_an_encrypted_entry_under_another_key_name():
    moved = envelopes(key_of=lambda fingerprint: b"elsewhere:" + fingerprint, encryption=KEYS)
    assert flaw_of(VARIANTS["encrypted"], moved.seal(TEXT, FINGERPRINT)) is Flaw.UNDECIPHERABLE


def test_the_head_of_an_encrypted_entry_is_authenticated():
    sealed = VARIANTS["encrypted zlib"].seal(TEXT, FINGERPRINT)
    assert flaw_of(VARIANTS["encrypted"], sealed[:1] + b"\0" + sealed[2:]) is Flaw.UNDECIPHERABLE


def with_payload(payload: bytes, codec_id: int) -> bytes:
    """A value whose checksum is right, whatever the codec says of the payload."""
    head = bytes((1, codec_id, 0)) + FINGERPRINT[:16] + HERE
    return head + zlib.crc32(head + payload).to_bytes(4, "big") + payload


@pytest.mark.parametrize("codec", ["zlib", "zstd"])
def test_what_expands_too_far_does_not_open(codec):
    packer, reader = codec_called(codec), envelopes()
    largest = packer.compress(bytes(MAX_EXPANDED_BYTES))
    assert len(largest) < MAX_EXPANDED_BYTES / 100
    assert len(reader.unseal(with_payload(largest, packer.id), FINGERPRINT)) == MAX_EXPANDED_BYTES
    beyond = packer.compress(bytes(MAX_EXPANDED_BYTES + 1))
    assert flaw_of(reader, with_payload(beyond, packer.id)) is Flaw.TORN


def test_a_size_that_is_claimed_is_not_believed():
    """Zstandard allocates what the head of a frame says: 4 GB here, in 14 bytes."""
    honest = zstandard.ZstdCompressor().compress(b"x")
    magic, body = honest[:4], honest[6:]
    claims = magic + b"\xe0" + (2**32).to_bytes(8, "little") + body
    assert zstandard.frame_content_size(claims) == 2**32
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 100)
    for payload in (claims, silent, b"", honest[:-1], honest + b"x", honest + honest, b"not zstd"):
        with pytest.raises(CannotExpand):
            codec_called("zstd").expand(payload)
    deflated = zlib.compress(b"x" * 100)
    for payload in (b"", deflated[:-1], deflated + b"x", deflated + deflated, b"not zlib"):
        with pytest.raises(CannotExpand):
            codec_called("zlib").expand(payload)


def test_a_large_payload_is_left_as_it_is():
    payload = bytes(MAX_EXPANDED_BYTES + 1)
    sealed = envelopes(above=0).seal(payload, FINGERPRINT)
    assert len(sealed) > len(payload)
    assert envelopes().unseal(sealed, FINGERPRINT) == payload


@pytest.mark.parametrize("payload", [b"", b"[]", b"{", b"\xff", b'{"content": 1}', b'{"usage": null}', b"null"])
def test_what_is_intact_and_no_answer(payload):
    answers = SealedAnswers(envelopes())
    with pytest.raises(BadEnvelope) as caught:
        answers.open(envelopes().seal(payload, FINGERPRINT), FINGERPRINT)
    assert caught.value.flaw is Flaw.UNREADABLE


def test_no_flaw_shows_what_was_stored(variant):
    secret = b'{"content": ["nobody else may read this"]}'
    for value in (
        variant.seal(secret, FINGERPRINT),
        variant.seal(secret, OTHER),
        variant.seal(secret, FINGERPRINT)[:-1],
    ):
        with pytest.raises(BadEnvelope) as caught:
            SealedAnswers(variant).open(value, FINGERPRINT)
        assert str(caught.value) in set(Flaw)
        assert caught.value.__context__ is None or "nobody" not in str(caught.value.__context__)


# --- codecs by name ---------------------------------------------------------------------------------------------------


@pytest.fixture
def without_zstandard(monkeypatch):
    def absent(*_args, **_named):
        raise MissingExtraError("zstandard is not here")

    monkeypatch.setattr(compression, "import_extra", absent)
    compression._zstd.cache_clear()
    yield
    compression._zstd.cache_clear()


@pytest.mark.usefixtures("without_zstandard")
def test_an_entry_by_zstandard_is_a_miss_of_its_own_kind_where_that_is_not_installed():
    sealed = bytes.fromhex(SAMPLES["zstd"])
    assert flaw_of(envelopes(), sealed) is Flaw.MISSING_CODEC
    with pytest.raises(MissingExtraError):
        RedisExactCache(compression="zstd")


@pytest.mark.parametrize("make", [RedisExactCache, AsyncRedisExactCache])
def test_wrong_arguments(make):
    for bad in ("gzip", "", None, 1):
        with pytest.raises(InvalidValueError, match="zstd"):
            make(compression=bad)
    for bad in ({"k": bytes(32)}, bytes(32), "key"):
        with pytest.raises(InvalidTypeError, match="Encryption or None"):
            make(encryption=bad)
