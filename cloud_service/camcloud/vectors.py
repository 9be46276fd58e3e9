"""Nearest appearance codes by inner product.

A code is int8 (128,), a unit vector times 127; faiss keeps exactly those bytes (scalar quantizer
``8bit_direct_signed``), so products are exact integers and an index of a million codes is 128 MB.

The index is a cache of the store: :class:`FaissVectors` says how far it goes (``last_id``) and
whoever owns the store feeds it the rest, or everything after a :meth:`~Vectors.reset`. Losing its
file costs a rebuild, never data.
"""

import json
import logging
import threading
import zlib
from pathlib import Path
from typing import Final, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from camsdk.errors import InvalidInput

I8 = NDArray[np.int8]
I64 = NDArray[np.int64]

CODE_SIZE: Final = 128
"""Bytes of one code."""

_LOG = logging.getLogger(__name__)


class Vectors(Protocol):
    """An index over codes. Ids grow; each is added once."""

    @property
    def last_id(self) -> int:
        """Largest id in the index, 0 when it is empty."""
        ...

    def __len__(self) -> int:
        """How many codes it holds."""
        ...

    def add(self, ids: I64, codes: I8) -> None:
        """Adds codes; ids that are not above ``last_id`` are already there and skipped.

        Args:
            ids: int64 (n,), ascending, from 1.
            codes: int8 (n, 128).

        Raises:
            InvalidInput: The shapes do not fit, or the ids do not ascend.
        """
        ...

    def search(self, codes: I8, limit: int, allowed: I64 | None = None) -> tuple[I64, I64]:
        """The ``limit`` codes with the largest inner product, best first.

        Args:
            codes: int8 (q, 128), what to look for.
            limit: At least 1.
            allowed: int64 (m,), the ids to look among; ``None`` means all.

        Returns:
            Ids, int64 (q, k), and inner products, int64 (q, k), where k <= ``limit`` is how many
            there are. Equal products come in any order.

        Raises:
            InvalidInput: The shape does not fit, or ``limit`` is below 1.
        """
        ...

    def reset(self) -> None:
        """Forgets everything."""
        ...

    def save(self) -> None:
        """Makes the index survive a restart, where it can."""
        ...


def _check_new(ids: I64, codes: I8, last_id: int) -> tuple[I64, I8]:
    if codes.dtype != np.int8 or codes.shape != (ids.shape[0], CODE_SIZE) or ids.ndim != 1:
        raise InvalidInput(f"codes have shape {codes.shape} for {ids.shape} ids, not (n, 128) int8")
    if ids.size and (ids[0] < 1 or (np.diff(ids) <= 0).any()):
        raise InvalidInput("ids of codes ascend from 1")
    is_new = ids > last_id
    return ids[is_new], codes[is_new]


def _check_query(codes: I8, limit: int) -> None:
    if codes.dtype != np.int8 or codes.ndim != 2 or codes.shape[1] != CODE_SIZE:
        raise InvalidInput(f"query codes have shape {codes.shape}, not (q, 128) int8")
    if limit < 1:
        raise InvalidInput(f"a search for {limit} codes makes no sense", "ask for at least 1")


class ExactVectors:
    """In memory, by brute force in numpy: for tests, and what faiss is checked against."""

    def __init__(self) -> None:
        self._ids: I64 = np.zeros(0, np.int64)
        self._codes: I8 = np.zeros((0, CODE_SIZE), np.int8)

    @property
    def last_id(self) -> int:
        """See :attr:`Vectors.last_id`."""
        return int(self._ids[-1]) if self._ids.size else 0

    def __len__(self) -> int:
        return int(self._ids.size)

    def add(self, ids: I64, codes: I8) -> None:
        """See :meth:`Vectors.add`."""
        ids, codes = _check_new(ids, codes, self.last_id)
        self._ids = np.concatenate([self._ids, ids])
        self._codes = np.concatenate([self._codes, codes])

    def search(self, codes: I8, limit: int, allowed: I64 | None = None) -> tuple[I64, I64]:
        """See :meth:`Vectors.search`."""
        _check_query(codes, limit)
        rows = np.arange(self._ids.size)
        if allowed is not None:
            rows = rows[np.isin(self._ids, allowed)]
        products = codes.astype(np.int64) @ self._codes[rows].astype(np.int64).T
        order = np.argsort(-products, axis=1, kind="stable")[:, :limit]
        return self._ids[rows][order], np.take_along_axis(products, order, axis=1)

    def reset(self) -> None:
        """See :meth:`Vectors.reset`."""
        self._ids, self._codes = self._ids[:0], self._codes[:0]

    def save(self) -> None:
        """Nothing to do: it lives in memory."""


class FaissVectors:
    """A flat faiss index, saved to a folder; safe to use from several threads.

    Args:
        folder: Made if missing. A file in it that is damaged or of another layout is set aside.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "appearance.faiss"
        self._state_path = folder / "appearance.json"
        self._lock = threading.Lock()  # faiss allows no search during an add
        self._saved_id = 0
        self._index, self._last_id = self._load()

    @property
    def last_id(self) -> int:
        """See :attr:`Vectors.last_id`."""
        return self._last_id

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, ids: I64, codes: I8) -> None:
        """See :meth:`Vectors.add`."""
        ids, codes = _check_new(ids, codes, self._last_id)
        if not ids.size:
            return
        with self._lock:
            self._index.add_with_ids(codes.astype(np.float32), ids)
            self._last_id = int(ids[-1])

    def search(self, codes: I8, limit: int, allowed: I64 | None = None) -> tuple[I64, I64]:
        """See :meth:`Vectors.search`."""
        _check_query(codes, limit)
        with self._lock:
            limit = min(limit, len(self) if allowed is None else allowed.size)
            if not limit:
                return np.zeros((len(codes), 0), np.int64), np.zeros((len(codes), 0), np.int64)
            parameters = None
            if allowed is not None:
                chosen = faiss.IDSelectorBatch(np.ascontiguousarray(allowed, np.int64))
                parameters = faiss.SearchParameters()
                parameters.sel = chosen
            products, ids = self._index.search(codes.astype(np.float32), limit, params=parameters)
        # Ids that are allowed but not in the index leave unfilled places (-1) at the end.
        found = int((ids >= 0).sum(axis=1).min())
        return ids[:, :found].astype(np.int64), np.rint(products[:, :found]).astype(np.int64)

    def reset(self) -> None:
        """See :meth:`Vectors.reset`."""
        with self._lock:
            self._index, self._last_id, self._saved_id = _new_index(), 0, 0

    def save(self) -> None:
        """Writes the index beside its place and renames it; a crash leaves the old one.

        A disk that takes no index costs a rebuild, and is only logged.
        """
        with self._lock:
            if self._saved_id == self._last_id:
                return
            data = faiss.serialize_index(self._index).tobytes()
            last_id, count = self._last_id, len(self)
        state = {"last_id": last_id, "count": count, "crc32": zlib.crc32(data)}
        # The state goes first: an index that does not fit it is rebuilt.
        try:
            _replace(self._state_path, json.dumps(state).encode())
            _replace(self._path, data)
        except OSError as error:
            _LOG.error("the vector index cannot be saved: %s", error)
        else:
            self._saved_id = last_id

    def _load(self) -> tuple[faiss.Index, int]:
        try:
            state = json.loads(self._state_path.read_bytes())
            data = self._path.read_bytes()
            if zlib.crc32(data) != state["crc32"]:
                raise ValueError("the index is not the one that its state describes")
            index = faiss.deserialize_index(np.frombuffer(data, np.uint8))
            last_id = int(state["last_id"])
            if index.d != CODE_SIZE or index.ntotal != state["count"]:
                raise ValueError("the index has another size than its state says")
        except FileNotFoundError:
            return _new_index(), 0
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            _LOG.warning("the vector index is unusable and will be rebuilt: %s", error)
            return _new_index(), 0
        self._saved_id = last_id
        return index, last_id


def _new_index() -> faiss.Index:
    kind = faiss.ScalarQuantizer.QT_8bit_direct_signed
    quantizer = faiss.IndexScalarQuantizer(CODE_SIZE, kind, faiss.METRIC_INNER_PRODUCT)
    return faiss.IndexIDMap2(quantizer)


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_suffix(path.suffix + ".tmp")
    draft.write_bytes(data)
    draft.replace(path)
