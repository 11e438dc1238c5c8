# SPDX-License-Identifier: Apache-2.0
"""Memory that photos are read into, and what is written beside training is copied into, again and again: memory that
is new costs several times as much as what is put there.
"""

from __future__ import annotations

import threading
import weakref

import numpy as np


class Buffers:
    """Memory that is used again once nobody holds what was in it. `most` bytes stay."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._slots: list[tuple[bytearray, weakref.ref[np.ndarray]]] = []
        self._lock = threading.Lock()

    def take(self, count: int) -> np.ndarray:
        """[count] uint8, with anything in it."""
        with self._lock:
            fit = [i for i, (slot, held) in enumerate(self._slots) if held() is None and len(slot) >= count]
            if fit:
                i = min(fit, key=lambda i: len(self._slots[i][0]))
                return self._handed(i, self._slots[i][0], count)
            free = [i for i, (_, held) in enumerate(self._slots) if held() is None]
            for i in reversed(free):  # too small
                del self._slots[i]
            if sum(len(slot) for slot, _ in self._slots) + count > self.most:
                return np.empty(count, np.uint8)  # goes when it is no longer held
            self._slots.append((bytearray(count), weakref.ref(np.empty(0))))
            return self._handed(len(self._slots) - 1, self._slots[-1][0], count)

    def copy(self, array: np.ndarray) -> np.ndarray:
        """The same values, which stay what they are."""
        values = self.take(array.nbytes).view(array.dtype).reshape(array.shape)
        np.copyto(values, array)
        return values

    @property
    def bytes(self) -> int:
        """That stay, in use or not."""
        with self._lock:
            return sum(len(slot) for slot, _ in self._slots)

    def _handed(self, i: int, slot: bytearray, count: int) -> np.ndarray:
        array = np.frombuffer(slot, np.uint8)  # what is cut from it holds it, not only the slot
        self._slots[i] = slot, weakref.ref(array)
        return array[:count]
