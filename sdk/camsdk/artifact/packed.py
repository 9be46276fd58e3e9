"""The packed model, a ``.camq`` file: an ONNX file at about the entropy of its weights.

Unpacking gives back the identical bytes of the ONNX file, so nothing else has to know the format.
The file is cut at its large constant tensors; what remains is the skeleton.

    offset  size  content
    0       8     magic ``CAMQMDL1``
    8       8     size of the ONNX file, little endian as all numbers here
    16      32    its SHA-256
    48      4     n, number of sections
    52      8 n   size of each section as it is, and as it is stored: equal, or else zstd
    52 + 8n ...   the sections as stored, nothing between them

    section       content
    directory     one row of nine uint32 a tensor, see ``Cut``
    skeleton      the ONNX file without the tensors' data
    row groups    uint8: which of its tables each row of a grouped tensor is coded with
    tables        uint16 (tables, 256): frequencies of symbols (``camsdk.artifact.entropy``)
    masks         rANS words: for each block of a masked tensor whether anything in it is not 0
    codes         rANS words: bytes of the coded tensors, blocks of zeros left out
    item sizes    uint8: one for each plain section
    plain ...     data of all tensors of one type, first bytes of all items first (byte shuffle)

Empty filters, dead inputs and block sparsity cost a mask bit a block, or less; a code costs the
entropy of its tensor's codes.

A file is hostile until its hash fits: every size is compared with the size of the ONNX file, and
that with ``max_bytes``, before anything is allocated.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from camsdk.artifact import entropy
from camsdk.errors import DataCorrupted, ResourceExhausted

MAGIC: Final = b"CAMQMDL1"
SUFFIX: Final = ".camq"
HEAD: Final = struct.Struct("<8sQ32sI")
SECTION_SIZE: Final = struct.Struct("<II")
FIXED_SECTIONS: Final = 7
MAX_SECTIONS: Final = 32
MAX_CUTS: Final = 1 << 16
MAX_TABLES: Final = 1024
CODED: Final = 0
"""Stream of the tensors that are entropy coded; 1 is the first plain section."""

_COLUMNS: Final = 9
_ITEM_SIZES: Final = (1, 2, 4, 8)

U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]


@dataclass(frozen=True)
class Cut:
    """One tensor of the directory.

    Attributes:
        gap: Bytes of skeleton between the tensor before, or the start, and this one.
        size: Of its data, bytes.
        stream: ``CODED``, or the plain section, counted from 1.
        rows: That ``size`` divides into; its filters. The rest are for coded tensors only.
        block_rows, block_columns: Size of the mask's blocks; 1 x 1 is no mask.
        mask_table: Of the mask's bits.
        first_table: Of its bytes; a row of group g has the table ``first_table + g``.
        groups: 1, or how many groups its rows have in the section ``row groups``.
    """

    gap: int
    size: int
    stream: int
    rows: int = 1
    block_rows: int = 1
    block_columns: int = 1
    mask_table: int = 0
    first_table: int = 0
    groups: int = 1

    @property
    def columns(self) -> int:
        """Bytes a row."""
        return self.size // self.rows

    @property
    def is_masked(self) -> bool:
        """Whether it has a mask."""
        return self.block_rows * self.block_columns > 1

    @property
    def mask_shape(self) -> tuple[int, int]:
        """Blocks down and across; the last ones may be cut."""
        return -(-self.rows // self.block_rows), -(-self.columns // self.block_columns)


def is_packed(data: bytes) -> bool:
    """Whether the bytes begin as a packed model."""
    return data.startswith(MAGIC)


def unpack(data: bytes, *, max_bytes: int) -> bytes:
    """The ONNX file that was packed, byte for byte.

    Args:
        data: The packed model; of any origin.
        max_bytes: Largest ONNX file to accept. Up to about ten times that is used while unpacking.

    Raises:
        DataCorrupted: Not a packed model, cut, changed, or inconsistent in itself.
        ResourceExhausted: The ONNX file would have more than ``max_bytes``.
    """
    if len(data) < HEAD.size or not is_packed(data):
        raise DataCorrupted("this is not a packed model", "give a .camq file")
    _, size, digest, count = HEAD.unpack_from(data)
    if size > max_bytes:
        raise ResourceExhausted(f"the unpacked model would have {size} bytes, over {max_bytes}")
    sections = _read_sections(data, count, size)
    cuts = _read_directory(sections[0], size, len(sections))
    if len(sections[1]) != size - sum(cut.size for cut in cuts):
        raise DataCorrupted("the packed model's tensors do not fill its gaps")
    result = _join(sections[1], cuts, _read_tensors(sections, cuts))
    if hashlib.sha256(result).digest() != digest:
        raise DataCorrupted("the unpacked model does not have the sha256 that was stated")
    return result


def block_cover(mask: NDArray[np.bool_], cut: Cut) -> NDArray[np.bool_]:
    """For each byte of a tensor whether its block is kept.

    Args:
        mask: ``cut.mask_shape``.

    Returns:
        (rows, columns).
    """
    tall = np.repeat(mask, cut.block_rows, axis=0)[: cut.rows]
    return np.repeat(tall, cut.block_columns, axis=1)[:, : cut.columns]


def _read_sections(data: bytes, count: int, limit: int) -> list[bytes]:
    """All sections, decompressed."""
    position = HEAD.size + count * SECTION_SIZE.size
    if not FIXED_SECTIONS <= count <= MAX_SECTIONS or position > len(data):
        raise DataCorrupted(f"a packed model cannot have {count} sections")
    sizes = list(SECTION_SIZE.iter_unpack(data[HEAD.size : position]))
    if position + sum(stored for _, stored in sizes) != len(data):
        raise DataCorrupted("the packed model is cut, or has bytes too many")
    bounds = [MAX_CUTS * _COLUMNS * 4, limit, limit, MAX_TABLES * 512, *[2 * limit + 64] * 2]
    bounds += [MAX_SECTIONS] + [limit] * (count - FIXED_SECTIONS)
    if sum(size for size, _ in (sizes[1], *sizes[FIXED_SECTIONS:])) > limit:
        raise DataCorrupted("the packed model's sections are larger than the model")
    sections = []
    for (size, stored), bound in zip(sizes, bounds, strict=True):
        if size > bound:
            raise DataCorrupted(f"a section of the packed model states {size} bytes, over {bound}")
        sections.append(_decompress(data[position : position + stored], size))
        position += stored
    return sections


def _decompress(stored: bytes, size: int) -> bytes:
    if len(stored) == size:
        return stored
    try:
        # The frame's own size is what the decompressor allocates, whatever limit it is given.
        if zstandard.frame_content_size(stored) != size:
            raise DataCorrupted("a section of the packed model has another size than stated")
        return zstandard.ZstdDecompressor().decompress(stored, size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DataCorrupted(f"a section of the packed model does not decompress: {error}") from None


def _read_directory(section: bytes, limit: int, sections: int) -> list[Cut]:
    if len(section) % (_COLUMNS * 4):
        raise DataCorrupted("the packed model's directory is cut")
    rows = np.frombuffer(section, "<u4").reshape(-1, _COLUMNS)
    cuts = [Cut(*row) for row in rows.tolist()]
    for cut in cuts:
        is_sound = (
            cut.stream <= sections - FIXED_SECTIONS
            and min(cut.size, cut.rows, cut.block_rows, cut.block_columns, cut.groups) >= 1
            and cut.size % cut.rows == 0
            and cut.block_rows <= cut.rows
            and cut.block_columns <= cut.columns
            and cut.groups <= 256
            and cut.first_table + cut.groups <= MAX_TABLES
        )
        if not is_sound:
            raise DataCorrupted("the packed model's directory has an impossible row")
    if sum(cut.gap + cut.size for cut in cuts) > limit:
        raise DataCorrupted("the packed model's tensors are larger than the model")
    return cuts


def _read_tensors(sections: list[bytes], cuts: list[Cut]) -> list[bytes]:
    """Data of each tensor in the order of the directory."""
    item_sizes, plain_sections = sections[6], sections[FIXED_SECTIONS:]
    if len(item_sizes) != len(plain_sections):
        raise DataCorrupted("the packed model has no item size for each plain section")
    plain = [_unshuffle(*pair) for pair in zip(plain_sections, item_sizes, strict=True)]
    coded = _decode_codes(sections, [cut for cut in cuts if cut.stream == CODED])
    streams = [coded, *plain]
    positions = [0] * len(streams)
    tensors = []
    for cut in cuts:
        begin = positions[cut.stream]
        positions[cut.stream] += cut.size
        tensors.append(streams[cut.stream][begin : begin + cut.size])
    if positions != [len(stream) for stream in streams]:
        raise DataCorrupted("the packed model's tensors do not use up its data")
    return tensors


def _unshuffle(section: bytes, item_size: int) -> bytes:
    if item_size not in _ITEM_SIZES or len(section) % item_size:
        raise DataCorrupted("a plain section of the packed model has an impossible item size")
    return np.frombuffer(section, np.uint8).reshape(item_size, -1).T.tobytes()


def _decode_codes(sections: list[bytes], cuts: list[Cut]) -> bytes:
    """Data of all coded tensors, one after the other."""
    tables = _as_words(sections[3])
    if tables.size % 256:
        raise DataCorrupted("the packed model's tables are cut")
    tables = tables.reshape(-1, 256)
    last = max((max(cut.mask_table, cut.first_table + cut.groups - 1) for cut in cuts), default=-1)
    if last >= len(tables):
        raise DataCorrupted("the packed model lacks a table")
    masks = _decode_masks(_as_words(sections[4]), tables, cuts)
    groups = np.frombuffer(sections[2], np.uint8)
    kept, ids = [], []
    for cut, mask in zip(cuts, masks, strict=True):
        kept.append(block_cover(mask, cut).ravel())
        group, groups = _take_groups(groups, cut)
        rows = np.repeat(cut.first_table + group.astype(np.uint16), cut.columns)
        ids.append(rows[kept[-1]])
    if len(groups):
        raise DataCorrupted("the packed model has row groups too many")
    everything = np.concatenate([*kept, np.zeros(0, bool)])
    codes = np.zeros(len(everything), np.uint8)
    table_ids = np.concatenate([*ids, np.zeros(0, np.uint16)])
    codes[everything] = entropy.decode(_as_words(sections[5]), tables, table_ids)
    return codes.tobytes()


def _decode_masks(words: U16, tables: U16, cuts: list[Cut]) -> list[NDArray[np.bool_]]:
    """The mask of each tensor; all true where it has none."""
    shapes = [cut.mask_shape for cut in cuts]
    counts = [h * w if cut.is_masked else 0 for cut, (h, w) in zip(cuts, shapes, strict=True)]
    ids = np.repeat(np.array([cut.mask_table for cut in cuts], np.uint16), counts)
    bits = entropy.decode(words, tables, ids)
    if bits.size and int(bits.max()) > 1:
        raise DataCorrupted("a mask of the packed model holds something else than bits")
    parts = np.split(bits.astype(bool), np.cumsum(counts)[:-1]) if cuts else []
    return [
        part.reshape(shape) if cut.is_masked else np.ones(shape, bool)
        for part, shape, cut in zip(parts, shapes, cuts, strict=True)
    ]


def _take_groups(groups: U8, cut: Cut) -> tuple[U8, U8]:
    """Group of each row of this tensor, and what is left for the others."""
    if cut.groups == 1:
        return np.zeros(cut.rows, np.uint8), groups
    mine = groups[: cut.rows]
    if len(mine) != cut.rows or (len(mine) and int(mine.max()) >= cut.groups):
        raise DataCorrupted("the packed model's row groups do not fit its tensors")
    return mine, groups[cut.rows :]


def _as_words(section: bytes) -> U16:
    if len(section) % 2:
        raise DataCorrupted("a section of the packed model has half a word")
    return np.frombuffer(section, "<u2").astype(np.uint16, copy=False)


def _join(skeleton: bytes, cuts: list[Cut], tensors: list[bytes]) -> bytes:
    pieces, position = [], 0
    for cut, tensor in zip(cuts, tensors, strict=True):
        pieces += [skeleton[position : position + cut.gap], tensor]
        position += cut.gap
    return b"".join([*pieces, skeleton[position:]])
