// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace gs {

// A pinhole camera; r is the rotation world -> camera by rows, position its centre; pixel centres are at +0.5.
struct CameraParams {
    float r[9], t[3], position[3];
    float fx, fy, cx, cy;
    int width, height;
};

}  // namespace gs
