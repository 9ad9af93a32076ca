"""Files of torch.save: every protocol and both formats, checksums, bombs, hostile pickles."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from repvgg_deploy.checkpoint.load import load_checkpoint
from repvgg_deploy.errors import UserError

from .helpers import training_state

KINDS = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32),
    *(torch.int16, torch.int8, torch.uint8, torch.bool, torch.uint16, torch.float8_e4m3fn),
)


def many_kinds() -> dict[str, Tensor]:
    """Types, views, shared memory, parameters, no dimension, no element."""
    base = torch.arange(60.0).reshape(3, 4, 5)
    marked = torch.ones(2)
    marked.note = "an attribute"  # type: ignore[attr-defined]
    noted = nn.Parameter(torch.ones(3))
    noted.note = "an attribute"  # type: ignore[attr-defined]
    return {
        **{str(kind): torch.tensor([0, 1, 1]).to(kind) for kind in KINDS},
        "whole": base,
        "view": base[1:, ::2, 1:3],
        "turned": base.permute(2, 0, 1),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 2),
        "parameter": nn.Parameter(torch.ones(2)),
        "marked": marked,
        "noted": noted,
        "tied": base,
    }


def save(path: Path, content: Any, protocol: int = 2, zipped: bool = True) -> Path:
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_every_protocol_and_kind_of_tensor(protocol: int, zipped: bool, tmp_path: Path) -> None:
    state = many_kinds()
    content = {"state_dict": state, "optimizer": {"state": {0: state["whole"]}, "lr": 0.1}}
    read = load_checkpoint(save(tmp_path / "x.pth", content, protocol, zipped)).state
    assert list(read) == list(state)
    for key, tensor in state.items():
        assert (read[key].dtype, read[key].stride()) == (tensor.dtype, tensor.stride()), key
        assert torch.equal(read[key].float(), tensor.float()), key
    assert read["tied"].data_ptr() == read["whole"].data_ptr()


def test_numbers_of_numpy_beside_the_tensors(tmp_path: Path) -> None:
    content = {"state_dict": training_state(), "best": np.float64(0.7), "seen": np.arange(3)}
    assert load_checkpoint(save(tmp_path / "x.pth", content)).wrapper == "state_dict"


@pytest.mark.parametrize("zipped", [True, False])
def test_the_other_byte_order(zipped: bool, tmp_path: Path) -> None:
    path, state = tmp_path / "x.pth", {"a": torch.arange(3.0), "b": torch.tensor([1, 2])}
    save(path, state, zipped=zipped)
    if zipped:
        rewrite(path, turned)
    else:
        whole = path.read_bytes().replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89")
        for tensor, kind in ((state["a"], "f"), (state["b"], "q")):
            values = tensor.tolist()
            ours, theirs = (struct.pack(f"{o}{len(values)}{kind}", *values) for o in "<>")
            assert whole.count(ours) == 1
            whole = whole.replace(ours, theirs)
        path.write_bytes(whole)
    read = load_checkpoint(path).state
    assert all(torch.equal(read[key], state[key]) for key in state)


def turned(name: str, data: bytes) -> bytes:
    if name.endswith("byteorder"):
        return b"big"
    size = {"0": 4, "1": 8}.get(name.rpartition("/data/")[2])
    return data if size is None else np.frombuffer(data, f"u{size}").byteswap().tobytes()


def rewrite(
    path: Path,
    change: Callable[[str, bytes], bytes],
    compression: int = zipfile.ZIP_STORED,
) -> None:
    """The same zip with other contents, its checksums right."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, change(name, data))


def test_a_file_saved_without_checksums(tmp_path: Path) -> None:
    path, state = tmp_path / "x.pth", training_state()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, path)
    finally:
        torch.serialization.set_crc32_options(True)
    read = load_checkpoint(path).state
    assert all(torch.equal(read[key], state[key]) for key in state)


def test_a_file_that_was_packed_again(tmp_path: Path) -> None:
    path, state = save(tmp_path / "x.pth", training_state()), training_state()
    rewrite(path, lambda name, data: data, zipfile.ZIP_DEFLATED)
    read = load_checkpoint(path).state
    assert all(torch.equal(read[key], state[key]) for key in state)


def test_every_flipped_bit_of_a_tensor_is_found(tmp_path: Path) -> None:
    path, state = tmp_path / "x.pth", training_state()
    save(path, state)
    whole = path.read_bytes()
    data_of = {key: tensor.numpy().tobytes() for key, tensor in state.items()}
    found = [data for data in data_of.values() if whole.count(data) == 1]
    assert len(found) > 20
    for number, data in enumerate(found[:20]):
        place = whole.find(data)
        damaged = bytearray(whole)
        damaged[place + number % len(data)] ^= 1 << number % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"its record x/data/\d+ .*checksum"):
            load_checkpoint(path)


def test_what_is_not_used_is_not_read(tmp_path: Path) -> None:
    """The optimizer's state may be twice the weights."""
    path, state = tmp_path / "x.pth", training_state()
    save(path, {"optimizer": {"state": {0: torch.arange(1000.0)}}, "state_dict": state})
    data = torch.arange(1000.0).numpy().tobytes()
    path.write_bytes(path.read_bytes().replace(data, bytes(len(data))))
    assert load_checkpoint(path).state.keys() == state.keys()


NONE = b"N"


def text(value: str) -> bytes:
    """A string in a pickle."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def hostile(path: Path, value: bytes) -> None:
    """A checkpoint whose pickle makes a dict of one value."""
    save(path, {"a.bias": torch.ones(4), "b.bias": torch.zeros(0)})
    index = b"\x80\x02}" + text("a.bias") + value + b"s."
    rewrite(path, lambda name, data: index if name.endswith("data.pkl") else data)


def storage(key: str, count: int) -> bytes:
    """A reference to a storage of floats."""
    kind = b"(" + text("storage") + b"ctorch\nFloatStorage\n"
    return kind + text(key) + text("cpu") + b"J" + struct.pack("<i", count) + b"tQ"


def test_no_attribute_of_what_a_file_declares_is_set(tmp_path: Path) -> None:
    """Else torch makes the storage larger, by whatever was in that memory before."""
    longer = NONE + b"}" + text("count") + b"J" + struct.pack("<i", 1000) + b"s\x86b"
    view = b"K\x00M\xe8\x03\x85K\x01\x85\x89}"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage("1", 0) + longer + view + b"tR"
    hostile(tmp_path / "x.pth", tensor)
    with pytest.raises(UserError, match=r"damaged .*attributes"):
        load_checkpoint(tmp_path / "x.pth")


def test_nothing_is_imported(tmp_path: Path) -> None:
    """torch imports some of its modules when they are asked for."""
    hostile(tmp_path / "x.pth", b"ctorch\n_inductor\n")
    code = (
        "import sys; from pathlib import Path\n"
        "from repvgg_deploy.checkpoint.load import load_checkpoint\n"
        "try: load_checkpoint(Path(sys.argv[1]))\n"
        "except Exception as error: print(error, 'torch._inductor' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x.pth")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "(torch._inductor)" in said
    assert said.endswith(" False\n")


def test_a_long_name_is_cut(tmp_path: Path) -> None:
    hostile(tmp_path / "x.pth", b"c" + b"m" * 1_000_000 + b"\nsystem\n")
    with pytest.raises(UserError, match=r"\(mmm+\)") as error:
        load_checkpoint(tmp_path / "x.pth")
    assert len(str(error.value)) < 2000


def test_two_records_of_one_name(tmp_path: Path) -> None:
    """torch.load takes the first, zipfile the last."""
    path = save(tmp_path / "x.pth", {"a.bias": torch.zeros(4)})
    with zipfile.ZipFile(path, "a") as archive:
        name = next(name for name in archive.namelist() if name.endswith("data/0"))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(name, torch.ones(4).numpy().tobytes())
    with pytest.raises(UserError, match=r"damaged .*two records of one name"):
        load_checkpoint(path)


def test_an_encrypted_zip(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", {"a.bias": torch.zeros(4)})
    whole = bytearray(path.read_bytes())
    for magic, at in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        start = whole.find(magic)
        while start >= 0:
            whole[start + at] |= 1
            start = whole.find(magic, start + 1)
    path.write_bytes(whole)
    with pytest.raises(UserError, match="encrypted with a password"):
        load_checkpoint(path)


def test_empty_arrays_in_the_old_protocols(tmp_path: Path) -> None:
    content = {"state_dict": training_state(), "seen": np.zeros((0, 3)), "raw": b""}
    assert load_checkpoint(save(tmp_path / "x.pth", content)).wrapper == "state_dict"


#: Peak growth of memory that reading a file may have, far below what each bomb holds.
ROOM = 90_000_000
READ = """
import json, re, resource, sys
from pathlib import Path
from repvgg_deploy.checkpoint.load import load_checkpoint
from repvgg_deploy.errors import UserError
from repvgg_deploy.data.arrays import open_arrays
from repvgg_deploy.equivalence.graph_inputs import read_inputs
if room := int(sys.argv[1]):
    used = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + room, used + room))
said = []
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in map(Path, sys.argv[2:]):
    read = {"images": open_arrays, "inputs": read_inputs}.get(path.stem, load_checkpoint)
    try:
        read(path)
    except UserError as error:
        said.append(str(error))
    else:
        said.append(f"{path}: was read")
print(json.dumps([said, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024]))
"""


def read_alone(paths: list[Path], room: int = 0) -> tuple[list[str], int]:
    """The refusals of files in a process of their own, and by how much its memory grew at most.

    ``room``: the process may take this much, if not 0.
    """
    command = [sys.executable, "-c", READ, str(room), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    said, grown = json.loads(done.stdout)
    return said, grown


def deflated(path: Path, size: int) -> None:
    """A checkpoint of zeros, as small as zip makes it."""
    state = {"conv.weight": torch.zeros(size // 4)}
    save(path, state)
    rewrite(path, lambda name, data: data, zipfile.ZIP_DEFLATED)


def lying(path: Path, size: int) -> None:
    """A pickle that declares more than its record holds."""
    save(path, {"conv.weight": torch.zeros(1000)})
    old, new = b"M\xe8\x03", b"J" + struct.pack("<i", size // 4)
    rewrite(path, lambda name, data: data.replace(old, new) if name.endswith("pkl") else data)


def longer_record(path: Path, size: int) -> None:
    """A record that holds more than the pickle declares."""
    save(path, {"conv.weight": torch.zeros(1000)})
    rewrite(
        path,
        lambda name, data: bytes(size) if name.endswith("data/0") else data,
        zipfile.ZIP_DEFLATED,
    )


def memo(path: Path, size: int) -> None:
    """The pickle machine in C makes a table as long as the number."""
    index = b"\x80\x02}r" + struct.pack("<I", size) + b"."
    save(path, {})
    rewrite(path, lambda name, data: index if name.endswith("pkl") else data)


def many_views(path: Path, size: int) -> None:
    """One storage under many names, each of which would be written out."""
    whole = torch.zeros(1_000_000)
    save(path, {f"{number}.bias": whole for number in range(size // 4_000_000)})


def many_views_shifted(path: Path, size: int) -> None:
    whole = torch.zeros(1_000_000)
    save(path, {f"{number}.bias": whole[number:] for number in range(size // 4_000_000)})


def overlapping(path: Path, size: int) -> None:
    """Many entries of the directory for the same bytes."""
    count = 40
    save(path, {f"{number}.bias": torch.zeros(size // count // 4) for number in range(count)})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            if not name.rpartition("data/")[2].isdecimal() or name.endswith("data/0"):
                archive.writestr(name, data)
        (first,) = [info for info in archive.infolist() if info.filename.endswith("data/0")]
        for number in range(1, count):
            info = zipfile.ZipInfo(first.filename.removesuffix("0") + str(number))
            for field in ("CRC", "compress_size", "file_size", "header_offset"):
                setattr(info, field, getattr(first, field))
            archive.filelist.append(info)


def legacy(path: Path, size: int) -> None:
    save(path, {"conv.weight": torch.zeros(1000)}, zipped=False)
    old, new = b"M\xe8\x03", b"J" + struct.pack("<i", size // 4)
    path.write_bytes(path.read_bytes().replace(old, new))


def number_pickle(path: Path, size: int) -> None:
    """bytearray(n), which makes n zeros."""
    path.write_bytes(
        b"\x80\x04\x8c\x08builtins\x8c\tbytearray\x93J" + struct.pack("<i", size) + b"\x85R."
    )


def zeros_by_opcode(path: Path, size: int) -> None:
    """The opcode for a bytearray makes the zeros before it reads the bytes."""
    path.write_bytes(b"\x80\x05\x96" + struct.pack("<Q", size) + b".")


def endless_bytes(path: Path, size: int) -> None:
    """More than any memory, by a number in the file."""
    path.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", size << 20) + b".")


def many_objects(path: Path, size: int) -> None:
    """One byte for each empty list, which is 64 in memory, and next to none when deflated."""
    save(path, {})
    index = b"\x80\x02](" + b"]" * (size // 8) + b"e."
    rewrite(
        path,
        lambda name, data: index if name.endswith("data.pkl") else data,
        zipfile.ZIP_DEFLATED,
    )


def nested_key(path: Path, size: int) -> None:
    """The name of a storage is a list of one list many times over, and so on: long as text."""
    nested = b"]q\x00(" + text("A" * 100) * 10 + b"e"
    for level in range(1, 6):
        nested += b"0]q" + bytes([level]) + b"(" + (b"h" + bytes([level - 1])) * 10 + b"e"
    hostile(path, b"(" + text("storage") + b"ctorch\nFloatStorage\n" + nested + NONE * 2 + b"tQ")


BOMBS: dict[str, tuple[Callable[[Path, int], None], str]] = {
    "deflated": (deflated, "would inflate from .* to .* more than 20 times"),
    "lying": (lying, "truncated or damaged .*needed"),
    "longer record": (longer_record, "would inflate"),
    "memo": (memo, "no state dict found"),
    "many views": (many_views, "share"),
    "many views, shifted": (many_views_shifted, "share"),
    "overlapping": (overlapping, "is damaged: its directory"),
    "legacy": (legacy, "truncated or damaged"),
    "number": (number_pickle, "truncated or damaged .*makes bytes"),
    "zeros by opcode": (zeros_by_opcode, "truncated or damaged .*too early"),
    "endless bytes": (endless_bytes, "truncated or damaged .*too early"),
    "many objects": (
        many_objects,
        r"its record x/data\.pkl would inflate from 12\.\d kB to 12\.5 MB",
    ),
    "nested key": (nested_key, "truncated or damaged .*not described"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_decompression_bomb_is_refused(kind: str, tmp_path: Path) -> None:
    make, sentence = BOMBS[kind]
    path = tmp_path / "x.pth"
    make(path, 100_000_000)
    with pytest.raises(UserError, match=sentence):
        load_checkpoint(path)


linux = pytest.mark.skipif(sys.platform != "linux", reason="measures and limits as Linux does")


@linux
def test_no_bomb_takes_memory(tmp_path: Path) -> None:
    bombs = {**BOMBS, "deflated": (lambda path, size: deflated(path, 200_000_000), "")}
    paths = [tmp_path / f"{kind}.pth" for kind in bombs]
    for path, (make, _) in zip(paths, bombs.values(), strict=True):
        make(path, 100_000_000)
    paths += [tmp_path / "images.npz", tmp_path / "inputs.npz"]
    np.savez_compressed(paths[-1], x=np.zeros((25, 1, 2000, 1000), np.float32))
    paths[-2].write_bytes(paths[-1].read_bytes())
    said, grown = read_alone(paths)
    for path, sentence in zip(paths, said, strict=True):
        assert sentence.startswith(f"{path}: ")
        assert "was read" not in sentence
    assert all("would inflate from " in sentence for sentence in said[-2:])
    assert grown < ROOM


@linux
def test_out_of_memory_is_told_as_such(tmp_path: Path) -> None:
    zeros = torch.zeros(25_000_000)
    names = ("zip.pth", "legacy.pth", "safe.safetensors", "images.npz", "inputs.npz")
    paths = [tmp_path / name for name in names]
    save(paths[0], {"a": zeros})
    save(paths[1], {"a": zeros}, zipped=False)
    save_file({"a": zeros}, paths[2])
    np.savez(paths[3], x=zeros.numpy().reshape(-1, 1, 100, 100))
    paths[4].write_bytes(paths[3].read_bytes())
    said, _ = read_alone(paths, 60_000_000)
    for path, sentence in zip(paths, said, strict=True):
        assert sentence.startswith(f"{path}: does not fit into the memory of this machine (the ")
        assert "100.0 MB" in sentence
