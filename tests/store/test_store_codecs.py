import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from p2pkit.store.codecs import CODECS, choose_map_codec, decode, encode
from p2pkit.store.npy import LARGEST_HEADER, NpyError, npy_header, parse_npy

INTEGERS = ("|u1", "<u2", "<u4", "<u8", "<i2", "<i4")
NUMBERS = (*INTEGERS, "<f2", "<f4", "<f8", "|b1")
COMPRESSED = tuple(name for name in CODECS if name != "none")
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)


def payload(array: np.ndarray, codec: str) -> memoryview:
    return memoryview(b"".join(encode(array, codec)))


@st.composite
def arrays_and_codecs(draw: st.DrawFn) -> tuple[np.ndarray, str]:
    codec = draw(st.sampled_from(list(CODECS)))
    dtype = draw(st.sampled_from(INTEGERS if CODECS[codec].integers_only else NUMBERS))
    return draw(hnp.arrays(np.dtype(dtype), SHAPES)), codec


@settings(deadline=None, max_examples=150)
@given(arrays_and_codecs())
def test_decode_undoes_encode_to_the_bit(case: tuple[np.ndarray, str]):
    array, codec = case
    decoded = decode(payload(array, codec), codec)
    assert decoded.dtype == array.dtype
    assert decoded.shape == array.shape
    assert decoded.tobytes() == array.tobytes()


@pytest.mark.parametrize("codec", list(CODECS))
def test_payload_is_what_numpy_loads(codec: str, tmp_path):
    array = np.arange(1000, dtype=np.uint16).reshape(10, 100)
    file = tmp_path / "payload.npy"
    file.write_bytes(payload(array, codec))
    loaded = np.load(file, allow_pickle=False)
    if codec == "none":
        np.testing.assert_array_equal(loaded, array)
    else:
        assert loaded.dtype == np.uint8
        assert loaded.tobytes().startswith(npy_header("<u2", (10, 100)))


def test_strided_array_is_stored_in_c_order():
    array = np.arange(24, dtype=np.float32).reshape(4, 6).T[::2]
    np.testing.assert_array_equal(decode(payload(array, "none"), "none"), array)


@pytest.mark.parametrize("codec", COMPRESSED)
def test_compressed_size_must_match_the_header(codec: str):
    data = b"".join(encode(np.arange(100, dtype=np.uint32), codec))
    for shape in ((99,), (101,), (100, 1000, 1000)):
        inner = data[len(npy_header("|u1", (len(data),))) + len(npy_header("<u4", (100,))) :]
        header = npy_header("<u4", shape)
        forged = npy_header("|u1", (len(header) + len(inner),)) + header + inner
        with pytest.raises(NpyError):
            decode(memoryview(forged), codec)


@pytest.mark.parametrize("codec", COMPRESSED)
@settings(deadline=None, max_examples=100)
@given(position=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.integers(0, 200))
def test_damaged_payload_raises_npy_error_or_keeps_its_size(
    codec: str, position: int, bit: int, cut: int
):
    array = np.repeat(np.arange(50, dtype=np.uint16), 7)
    data = bytearray(payload(array, codec))
    data[position % len(data)] ^= 1 << bit
    data = data[: len(data) - cut]
    try:
        decoded = decode(memoryview(data), codec)
    except NpyError:
        return
    assert decoded.nbytes <= 1 << 20


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY\x02\x00" + bytes(100),
        npy_header("<f4", (3,)).replace(b"'<f4'", b"'|O' ") + bytes(12),
        npy_header("<f4", (3,)).replace(b"False", b"True ") + bytes(12),
        npy_header("<f4", (3,)).replace(b"<f4", b">f4") + bytes(12),
        npy_header("<f4", (3,)).replace(b"<f4", b"|f4") + bytes(12),
        npy_header("<f4", (3,)) + bytes(11),
        npy_header("<f4", (3,)) + bytes(13),
        npy_header("<f4", (1 << 40,)),
        npy_header("<f4", (1 << 40, 0, 1 << 40)) + bytes(4),
        b"\x93NUMPY\x01\x00" + (LARGEST_HEADER + 60).to_bytes(2, "little") + bytes(9000),
    ],
)
def test_hostile_npy_is_refused(data: bytes):
    with pytest.raises(NpyError):
        parse_npy(memoryview(data))


def test_object_array_is_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(NpyError, match="header"):
        parse_npy(memoryview((tmp_path / "objects.npy").read_bytes()))


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes):
    with pytest.raises(NpyError):
        parse_npy(memoryview(b"\x93NUMPY\x01\x00" + data))


def test_map_codec_is_zstd_for_sparse_maps_only():
    random = np.random.default_rng(0)
    dense = [random.normal(size=(8, 8, 32)).astype(np.float16) for _ in range(4)]
    assert choose_map_codec(dense) == "none"
    assert choose_map_codec([np.where(values > 0.8, values, 0) for values in dense]) == "zstd"
    assert choose_map_codec([]) == "none"


def test_map_codec_probe_is_bounded():
    def endless():
        while True:
            yield np.zeros((8, 8, 8), np.float16)

    assert choose_map_codec(endless()) == "zstd"
