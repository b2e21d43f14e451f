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
from ractogateway.redis._cache.answers import SealedAnswers
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
        "010000af0bf2a562dabe2a81e0b0b47a33a5156e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6949f7a77b22636f6e74656e74223a"
        "2250617269732e2050617269732e2050617269732e2050617269732e2050617269732e2050617269732e2050617269732e20"
        "50617269732e2050617269732e2050617269732e20222c22706172736564223a6e756c6c2c2266696e6973685f726561736f"
        "6e223a2273746f70222c226d6f64656c223a226d222c22636163686564223a747275652c2273617665645f7573616765223a"
        "7b2270726f6d70745f746f6b656e73223a392c22636f6d706c6574696f6e5f746f6b656e73223a312c22746f74616c5f746f"
        "6b656e73223a31307d7d"
    ),
    "zlib": (
        "010100af0bf2a562dabe2a81e0b0b47a33a5156e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6c915c407801a58d410e02310c03bf"
        "8272ae101ce92bf84115b581ad6893aac97259eddf375ce0019c6c8f6c79832c6cc40611ee38ab9e4f7f0a041838950a445e"
        "5b0bf0a85c7549935085fd464d8697ba146a1ebbfb8c79f90c6cae1440f14d25ad8a4f82b8c198d287259317b142bc79dd41"
        "23abc25f7a0d6062d87ee0b2ef072cf74b85"
    ),
    "zstd": (
        "010200af0bf2a562dabe2a81e0b0b47a33a5156e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6e7388ad4828b52ffd20ddbd03007288"
        "191980a96d9aa2c93e12e9fbdaa3d50274c2d616c11f9531b05201492240d8dbb781eee9442aadb911eeac89d82eadd22e75"
        "e49e07e4a3149940bee5b1da30686e4fbfa32c36ddaeb6f9775dc65cc5e0a3c77043e8d07b91bc50dd0e08f05958f8bd355b"
        "d71c09040034378f9c0591aa00a6a41206"
    ),
    "encrypted": (
        "010001af0bf2a562dabe2a81e0b0b47a33a5156e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6e01036e657773247db5d90bf6b366de"
        "a14ba64c8e8cc33ac0c362c0871fdb6ce938258a42ee2543d3fe18d373b114a9affefaf948750e97ca2e3c9e93c79c7986c7"
        "701a6208776ad8dfd8a6d6e96f8c8f6604aa8e1722b5db23ee4a1ef4f38f2149a1c14154477717266e0e2d8df3f009cf6844"
        "04743b8d0b671ea7f5c66c44fe98a6475022feb009e20ccf8068099ca9b8285c427f7fb10a8c584d97f6d45b77382d777546"
        "2e61de5af43674031d54a2a2421bc46e0e7ba401e2d796f0d5920e79114f8cf8099bfafef928adc72452c565b5a705a65e9b"
        "1d8324c0656a205aed4eeb1c640b7c722d65fab0f3aa1cd0b6a234c180245ca2b98d4b76b09b2c"
    ),
    "encrypted zstd": (
        "010201af0bf2a562dabe2a81e0b0b47a33a5156e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6e01036e65771b200589d420c76beffe"
        "7ebfb2c61f43f62f907f2f520eecd9818395a531c81d624686a9cc5a546ff7d5597cb9fa9eac00888b8f1c735d79816244ac"
        "802a29f0f094e2d63143063b61ec4647ad5793a43f9b53b0b1a027e5175d0207cd67b1c75c3b2f4d5d41a340e548e8512732"
        "9f23d2bd8252e5267969c91199c141ad12eab3bea1be7ce3cfc2a239e7c1c87b7258ba8479ff32bc0a4cdbc884b7"
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


@pytest.mark.parametrize("payload", [b"", b"[]", b"{", b"\xff", b'{"content": 1}', b"null", b'{"content": "x"}'])
def test_what_is_intact_and_no_answer(payload):
    answers = SealedAnswers(envelopes())
    with pytest.raises(BadEnvelope) as caught:
        answers.open(envelopes().seal(payload, FINGERPRINT), FINGERPRINT)
    assert caught.value.flaw is Flaw.UNREADABLE


@pytest.mark.parametrize(
    "odd",
    [
        LLMResponse(content="x", parsed=object()),
        LLMResponse(content="x").model_copy(update={"content": "\ud83d"}),
        LLMResponse(content="x").model_copy(update={"usage": None}),
        LLMResponse(content="x").model_copy(update={"usage": 3}),
        None,
        {"content": "x"},
    ],
    ids=["object", "surrogate", "no usage", "usage", "none", "dict"],
)
def test_what_cannot_be_stored_is_refused_in_our_words(odd):
    with pytest.raises(InvalidTypeError):
        SealedAnswers(envelopes()).seal(odd, FINGERPRINT)


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
