# SPDX-License-Identifier: Apache-2.0
"""Memory that photos are read into, again and again."""

from __future__ import annotations

import threading
import weakref

import numpy as np


class Buffers:
    """Memory for photos, used again once nobody holds what was in it. `most` bytes stay."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._slots: list[tuple[bytearray, weakref.ref[np.ndarray]]] = []
        self._lock = threading.Lock()

    def take(self, count: int) -> np.ndarray:
        """[count] uint8, with anything in it."""
        with self._lock:
            for i, (slot, held) in enumerate(self._slots):
                if held() is None and len(slot) >= count:
                    return self._handed(i, slot, count)
            free = [i for i, (_, held) in enumerate(self._slots) if held() is None]
            for i in reversed(free):  # too small
                del self._slots[i]
            if sum(len(slot) for slot, _ in self._slots) + count > self.most:
                return np.empty(count, np.uint8)  # goes when it is no longer held
            self._slots.append((bytearray(count), weakref.ref(np.empty(0))))
            return self._handed(len(self._slots) - 1, self._slots[-1][0], count)

    def _handed(self, i: int, slot: bytearray, count: int) -> np.ndarray:
        array = np.frombuffer(slot, np.uint8)  # what is cut from it holds it, not only the slot
        self._slots[i] = slot, weakref.ref(array)
        return array[:count]
