"""Regions of shared memory: what is refused, what is read and written, and how long an object stays open."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.errors import AlreadyExists, InvalidArgument, NotFound, TooLarge, Unsupported, VintnerError
from vintner.shared_memory import DISABLED, Regions
from vintner.tensor_bytes import encode_raw
from vintner.tensor_parameters import SharedInputs, class_count, shared_part, store
from vintner.types import DTYPES, Tensor

SIZE = 64
CONTENT = bytes(range(SIZE))
Make = Callable[..., str]


@pytest.fixture(scope="module")
def make() -> Iterator[Make]:
    """Makes objects, and removes them."""
    made: list[Path] = []

    def make_object(content: bytes = CONTENT) -> str:
        made.append(Path("/dev/shm", f"vintner-test-{uuid.uuid4().hex}"))
        made[-1].write_bytes(content)
        return f"/{made[-1].name}"

    yield make_object
    for path in made:
        path.unlink(missing_ok=True)


def path_of(key: str) -> Path:
    return Path("/dev/shm", key.lstrip("/"))


def registered(key: str, offset: int = 0, size: int = SIZE, **options: int) -> Regions:
    regions = Regions(allowed=True, **options)
    regions.register("r", key, offset, size)
    return regions


def descriptors_of(key: str) -> int:
    """How often this process has the object open."""
    links = [f"/proc/self/fd/{entry}" for entry in os.listdir("/proc/self/fd")]
    return sum(os.readlink(link).startswith(str(path_of(key))) for link in links if os.path.islink(link))


def test_where_it_is_not_allowed_only_the_status_answers(make: Make) -> None:
    regions = Regions()
    for call in (lambda: regions.register("r", make(), 0, 1), regions.unregister, lambda: regions.find("r")):
        with pytest.raises(Unsupported) as caught:
            call()
        assert caught.value.message == DISABLED
    assert regions.status() == []


@pytest.mark.parametrize(
    "key", ["", "/", "///", ".", "..", "/..", "a/b", "/../etc/passwd", "../shm/x", "a\0b", "k" * 256]
)
def test_a_key_that_could_be_elsewhere_is_refused(key: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid key"):
        Regions(allowed=True).register("r", key, 0, 1)


def test_tritons_own_keys_are_refused() -> None:
    for slashes in ("", "/", "//"):
        with pytest.raises(InvalidArgument, match="reserved"):
            Regions(allowed=True).register("r", f"{slashes}triton_python_backend_shm_region_1", 0, 1)


def test_what_is_no_object_is_refused(make: Make, tmp_path: Path) -> None:
    names = [make() for _ in range(4)]
    for key in names:
        path_of(key).unlink()
    path_of(names[0]).symlink_to(tmp_path / "file")
    (tmp_path / "file").write_bytes(CONTENT)
    os.mkfifo(path_of(names[1]))
    path_of(names[2]).mkdir()
    try:
        for key in names:
            with pytest.raises(InvalidArgument, match="failed to register shared memory region 'r'"):
                Regions(allowed=True).register("r", key, 0, 1)
            assert descriptors_of(key) == 0
    finally:
        path_of(names[2]).rmdir()


@pytest.mark.parametrize(
    ("offset", "size", "text"),
    [
        (0, SIZE + 1, "offset \\+ byte_size is 65, but '/vintner-test-\\w+' has 64 bytes"),
        (SIZE, 1, "invalid args"),
        (0, 0, "byte_size of at least 1"),
        (0, -1, "byte_size of at least 1"),
        (-1, 2, "offset of at least 0"),
        (2**63 - 1, 1, "Integer overflow detected"),
        (2**64 - 1, 2**64 - 1, "Integer overflow detected"),
    ],
)
def test_a_region_beyond_its_object_is_refused(make: Make, offset: int, size: int, text: str) -> None:
    key = make()
    with pytest.raises(InvalidArgument, match=text):
        registered(key, offset, size)
    assert descriptors_of(key) == 0


def test_a_name_is_given_once_until_it_is_unregistered(make: Make) -> None:
    key = make()
    regions = registered(key)
    with pytest.raises(AlreadyExists, match="shared memory region 'r' already in manager"):
        regions.register("r", make(), 0, 1)
    assert [(r.name, r.key, r.offset, r.size) for r in regions.status("r")] == [("r", key, 0, SIZE)]
    regions.unregister("r")
    regions.unregister("r")
    with pytest.raises(NotFound, match="Unable to find shared memory region: 'r'"):
        regions.find("r")
    with pytest.raises(NotFound, match="Unable to find system shared memory region: 'r'"):
        regions.status("r")
    regions.register("r", key, 1, 2)
    assert regions.find("r").size == 2


def test_a_region_without_a_name_is_refused(make: Make) -> None:
    with pytest.raises(InvalidArgument, match="expected a name"):
        Regions(allowed=True).register("", make(), 0, 1)


def test_so_many_regions_and_no_more(make: Make) -> None:
    key = make()
    regions = registered(key, most=2)
    regions.register("s", key, 0, 1)
    with pytest.raises(InvalidArgument, match="there are 2 regions already"):
        regions.register("t", key, 0, 1)
    regions.unregister()
    assert regions.status() == []
    regions.register("t", key, 0, 1)


def test_a_region_in_use_stays_open_after_it_was_unregistered(make: Make) -> None:
    key = make()
    regions = registered(key)
    part = regions.find("r").part(0, 4)
    regions.unregister("r")
    path_of(key).unlink()
    assert descriptors_of(key) == 1
    assert bytes(part.read()) == CONTENT[:4]
    del part
    assert descriptors_of(key) == 0


@pytest.fixture(scope="module")
def key(make: Make) -> str:
    return make()


@given(
    st.integers(0, SIZE - 1),
    st.integers(1, SIZE),
    st.integers(-3, SIZE + 3) | st.integers(-(2**70), 2**70),
    st.integers(-3, SIZE + 3) | st.integers(-(2**70), 2**70),
)
def test_a_part_is_read_if_and_only_if_it_is_within_the_region(
    key: str, start: int, length: int, offset: int, size: int
) -> None:
    length = min(length, SIZE - start)
    region = registered(key, start, length).find("r")
    try:
        part = region.part(offset, size)
    except InvalidArgument:
        assert offset < 0 or size < 0 or offset + size > length
    else:
        assert bytes(part.read()) == CONTENT[start : start + length][offset : offset + size]
        assert 0 <= offset <= offset + size <= length


def test_an_object_that_becomes_shorter_is_an_error_and_not_the_end(make: Make) -> None:
    key = make()
    region = registered(key, 8, 32).find("r")
    os.truncate(path_of(key), 20)
    assert bytes(region.part(0, 12).read()) == CONTENT[8:20]
    for offset in (0, 11, 12, 31):
        with pytest.raises(InvalidArgument, match=f"the object '{key}' was truncated after it was registered"):
            region.part(offset, 32 - offset).read()
        with pytest.raises(InvalidArgument, match="truncated"):
            region.part(offset, 32 - offset).write(memoryview(bytes(32 - offset)))
    assert path_of(key).read_bytes() == CONTENT[:20]


def test_what_was_read_stays_as_it_was(make: Make) -> None:
    key = make()
    tensor = SharedInputs(registered(key)).read("x", "UINT8", (4,), parameters(size=4))
    with path_of(key).open("r+b") as file:
        file.write(b"\xff" * 4)
    assert tensor.array.tolist() == [0, 1, 2, 3]


def parameters(region: object = "r", size: object = SIZE, **others: object) -> dict[str, object]:
    return {"shared_memory_region": region, "shared_memory_byte_size": size, **others}


@pytest.mark.parametrize("datatype", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (), (1,)])
def test_every_datatype_comes_out_as_it_was_stored(make: Make, datatype: str, shape: tuple[int, ...]) -> None:
    count = int(np.prod(shape))
    values = np.array([b"x" * n for n in range(count)], np.object_) if datatype == "BYTES" else np.arange(count) % 2
    tensor = Tensor(datatype, values.astype(DTYPES[datatype]).reshape(shape))
    regions = registered(make(bytes(256)), 3, 200)
    told = store("y", tensor, regions.find("r").part(5, 195))
    size = len(encode_raw(tensor))
    assert told == {"shared_memory_region": "r", "shared_memory_offset": 5, "shared_memory_byte_size": size}
    read = SharedInputs(regions).read("x", datatype, shape, told)
    assert read.array.dtype == DTYPES[datatype]
    assert read.array.tolist() == tensor.array.tolist()


def test_an_output_that_does_not_fit_is_refused_and_not_begun(make: Make) -> None:
    key = make()
    part = registered(key).find("r").part(0, 7)
    with pytest.raises(
        InvalidArgument, match="output 'y' \\(7 bytes\\) should be at least 8 bytes to hold the results"
    ):
        store("y", Tensor("FP32", np.zeros(2, np.float32)), part)
    assert path_of(key).read_bytes() == CONTENT


def test_strings_whose_lengths_lead_out_of_the_part_are_refused(make: Make) -> None:
    regions = registered(make(b"\xff\xff\xff\x7fab" + bytes(8)), 0, 14)
    for shape in ((1,), (2,), (3,)):
        with pytest.raises(InvalidArgument, match="string elements for inference input 'x'"):
            SharedInputs(regions).read("x", "BYTES", shape, parameters(size=6))


def test_a_byte_that_is_no_boolean_becomes_one(make: Make) -> None:
    read = SharedInputs(registered(make())).read("x", "BOOL", (3,), parameters(size=3))
    assert read.array.view(np.uint8).tolist() == [0, 1, 1]


def test_the_inputs_of_a_request_are_bounded_together(make: Make) -> None:
    inputs = SharedInputs(registered(make(), largest=10))
    inputs.read("x", "UINT8", (6,), parameters(size=6))
    inputs.read("y", "UINT8", (4,), parameters(size=4))
    with pytest.raises(TooLarge, match="more than 10 bytes together"):
        inputs.read("z", "UINT8", (1,), parameters(size=1))


@pytest.mark.parametrize(
    ("given_parameters", "error", "text"),
    [
        (parameters(region="s"), NotFound, "Unable to find shared memory region: 's'"),
        (parameters(region=""), InvalidArgument, "must be the name of a shared memory region"),
        (parameters(region=3), InvalidArgument, "must be the name of a shared memory region"),
        ({"shared_memory_byte_size": 4}, InvalidArgument, "must be the name of a shared memory region"),
        ({"shared_memory_region": "r"}, InvalidArgument, "has no 'shared_memory_byte_size'"),
        (parameters(size="4"), InvalidArgument, "'shared_memory_byte_size' of input 'x' must be an integer"),
        (parameters(size=True), InvalidArgument, "'shared_memory_byte_size' of input 'x' must be an integer"),
        (parameters(size=4.0), InvalidArgument, "'shared_memory_byte_size' of input 'x' must be an integer"),
        (parameters(size=-1), InvalidArgument, "'shared_memory_byte_size' of input 'x' must be an integer"),
        (parameters(shared_memory_offset=None), InvalidArgument, "'shared_memory_offset' of input 'x' must be"),
        (parameters(shared_memory_offset=2**64), InvalidArgument, "Integer overflow detected"),
        (parameters(shared_memory_offset=65), InvalidArgument, "Invalid offset for shared memory region"),
        (parameters(shared_memory_offset=1), InvalidArgument, "Invalid offset \\+ byte size for shared memory region"),
        (parameters(size=3), InvalidArgument, "input byte size mismatch for input 'x'. Expected 4, got 3"),
    ],
)
def test_parameters_that_are_no_place_are_refused(
    make: Make, given_parameters: dict[str, object], error: type[VintnerError], text: str
) -> None:
    with pytest.raises(error, match=text):
        SharedInputs(registered(make())).read("x", "FP32", (1,), given_parameters)


def test_the_count_of_classes_is_bounded(make: Make) -> None:
    assert class_count("y", {"classification": 1_000_000}) == 1_000_000
    for count in (0, -1, True, "3", 3.0, None):
        with pytest.raises(InvalidArgument, match="'classification' of output 'y' must be an integer"):
            class_count("y", {"classification": count})
    with pytest.raises(InvalidArgument, match="classification output tensor too large"):
        class_count("y", {"classification": 1_000_001})
    with pytest.raises(InvalidArgument, match="Output can't set both 'shared_memory_region' and 'classification'"):
        class_count("y", {"classification": 3, **parameters()})
    assert shared_part("output 'y'", parameters(), registered(make())).size == SIZE
