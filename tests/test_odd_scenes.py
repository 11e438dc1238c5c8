# SPDX-License-Identifier: Apache-2.0
"""Odd scenes: of each kind one, drawn with a seed; all of them with GS_FULL=1, or by scripts/odd_scenes.py."""

import os
import random

import odd_folders  # noqa: F401  # enter their sets
import odd_pictures  # noqa: F401
import odd_programs  # noqa: F401
import odd_records
import pytest
from odd_corpus import REFERENCES, SETS, OddSet, attempt

SEED = 0
KINDS = sorted({odd.kind for odd in SETS.values()})
KEYS = list(SETS)
SAMPLE = [random.Random(SEED).choice([key for key in KEYS if SETS[key].kind == kind]) for kind in KINDS]


@pytest.fixture(scope="module")
def sound_psnr():
    """PSNR of a sound set by its name, each trained once."""
    expected = {}

    def of(name):
        if name not in expected:
            outcome = attempt(REFERENCES[name], None)
            assert not outcome.fault, outcome
            expected[name] = outcome.psnr
        return expected[name]

    return of


def test_there_are_enough_of_them():
    assert len(SETS) >= 60
    assert all(odd.code or odd.like in REFERENCES for odd in SETS.values())


@pytest.mark.parametrize("key", KEYS if os.environ.get("GS_FULL") else SAMPLE)
def test_an_odd_scene_is_trained_as_a_sound_one_or_refused_with_a_word(key, sound_psnr):
    odd = SETS[key]
    outcome = attempt(odd, None if odd.code else sound_psnr(odd.like))
    assert not outcome.fault, (outcome.fault, outcome.messages)


@pytest.mark.parametrize("mistake", [{"scale": 1.02}, {"shift": 1.5}])
def test_a_wrong_reading_is_seen(mistake, sound_psnr):
    """A focal length that is two percent off, a principal point by a pixel and a half: the check of the scene passes
    them, the decibels do not.
    """
    outcome = attempt(OddSet("mutant", str(mistake), odd_records.lens(**mistake)), sound_psnr("sound"))
    assert outcome.code == 0 and "dB from sound" in outcome.fault, outcome
