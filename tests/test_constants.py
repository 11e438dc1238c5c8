# SPDX-License-Identifier: Apache-2.0
"""The thresholds of csrc/constants.h, which every native backend uses, are those of the Python reference."""

import re
from math import log2
from pathlib import Path

import pytest

from gsplat_train import losses
from gsplat_train.backends import python, python_rasterize

HEADER = Path(__file__).parents[1] / "csrc" / "constants.h"
EXPECTED = {
    "kNearPlane": python.NEAR_PLANE,
    "kLowPass": python.LOW_PASS,
    "kAlphaMin": python_rasterize.ALPHA_MIN,
    "kAlphaMax": python_rasterize.ALPHA_MAX,
    "kTransmittanceMin": python_rasterize.TRANSMITTANCE_MIN,
    "kMaxExtent": python.MAX_EXTENT,
    "kJacobianMargin": python.JACOBIAN_MARGIN,
    "kTile": python_rasterize.TILE,
    "kLog2AlphaMin": log2(python_rasterize.ALPHA_MIN),
    "kLog2AlphaMax": log2(python_rasterize.ALPHA_MAX),
    "kSsimC1": losses.SSIM_C1,
    "kSsimC2": losses.SSIM_C2,
    "kSsimSigma": losses.SSIM_SIGMA,
    "kAdamBeta1": python.ADAM_BETA1,
    "kAdamBeta2": python.ADAM_BETA2,
    "kAdamEps": python.ADAM_EPS,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_header_and_reference_agree(name):
    values = dict(re.findall(r"(?:float|int) (k\w+) = ([^;]+);", HEADER.read_text()))
    factors = [float(factor.strip().rstrip("f")) for factor in re.split(r"[*/]", values[name])]
    value = factors[0]
    for operator, factor in zip(re.findall(r"[*/]", values[name]), factors[1:], strict=True):
        value = value * factor if operator == "*" else value / factor
    assert value == pytest.approx(EXPECTED[name], rel=3e-6)
