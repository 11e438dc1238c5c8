// SPDX-License-Identifier: Apache-2.0
// Every threshold of the renderer, with its reason. tests/test_constants.py holds the Python reference to these.
#pragma once
#include "compat.h"

namespace gs_const {
GS_CONSTANT float kNearPlane = 0.01f;         // camera-space z below which a Gaussian is culled (as gsplat)
GS_CONSTANT float kLowPass = 0.3f;            // px^2 added to the 2D covariance's diagonal (EWA low-pass, 3DGS)
GS_CONSTANT float kAlphaMin = 1.0f / 255.0f;  // fainter contributions cannot change an 8-bit pixel
GS_CONSTANT float kAlphaMax = 0.999f;         // keeps 1 - alpha invertible in the backward pass
GS_CONSTANT float kTransmittanceMin = 1e-4f;  // a pixel ends before its transmittance would fall to this
GS_CONSTANT float kMaxExtent = 3.33f;         // standard deviations; exp(-3.33^2/2) < 1/255, so nothing visible is cut
GS_CONSTANT float kJacobianMargin = 0.3f;     // x/z is clamped this share of half the image beyond its border (EWA)
GS_CONSTANT float kLog2AlphaMin = -7.99435344f;     // log2(1/255)
GS_CONSTANT float kLog2AlphaMax = -0.00144342f;     // log2(0.999)
GS_CONSTANT float kLog2E = 1.44269504f;
GS_CONSTANT float kLn2 = 0.69314718f;
GS_CONSTANT int kTile = 16;                   // pixels on a tile's side
GS_CONSTANT int kBlock = 4;                   // pixels on a block's side: 16 lanes of SIMD
GS_CONSTANT float kSsimC1 = 0.01f * 0.01f;    // (K1 L)^2, Wang et al. 2004, data range L = 1
GS_CONSTANT float kSsimC2 = 0.03f * 0.03f;    // (K2 L)^2
GS_CONSTANT float kSsimSigma = 1.5f;          // px, Gaussian window of 11 taps
GS_CONSTANT float kAdamBeta1 = 0.9f;
GS_CONSTANT float kAdamBeta2 = 0.999f;
GS_CONSTANT float kAdamEps = 1e-15f;          // 3DGS: gradients are far below Adam's usual 1e-8
GS_CONSTANT float kNoiseSteepness = 100.0f;   // MCMC noise gate: sigmoid(-100 (opacity - 0.005))
GS_CONSTANT float kNoiseOpacity = 0.005f;
}  // namespace gs_const
