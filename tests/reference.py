# SPDX-License-Identifier: Apache-2.0
"""The oracle: the renderer once more in float64 NumPy, every Gaussian at every pixel, no tiles, no tricks.

It shares no code with the package, so that a common mistake cannot hide. Its rules were checked against
gsplat 1.5.3 (test_reference.py). Parameters come as a dict of arrays with the names of Gaussians; splats on
the screen as a dict with the names of Projected plus `visible` [N] bool.
"""

import numpy as np

PARAMETERS = ("means", "quats", "log_scales", "logit_opacities", "sh0", "shN")


def rotation(quat):
    """[3, 3] of one wxyz quaternion of any length; the identity for a zero one."""
    w, x, y, z = quat / max(np.linalg.norm(quat), 1e-12)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross  # Rodrigues, in half angles


def sh_basis(direction, degree):
    """[K] real spherical harmonics of a unit vector, m = -l..l, Condon-Shortley phase: closed forms."""
    x, y, z = direction
    bands = [
        [np.sqrt(1 / 4)],
        np.sqrt(3 / 4) * np.array([-y, z, -x]),
        np.sqrt(15 / 4)
        * np.array([x * y, -y * z, (3 * z * z - 1) / np.sqrt(12), -x * z, (x * x - y * y) / 2]),
        np.sqrt(35 / 32) * np.array([-y * (3 * x * x - y * y), 0, 0, 0, 0, 0, -x * (x * x - 3 * y * y)])
        + np.sqrt(105 / 4) * np.array([0, x * y * z, 0, 0, 0, z * (x * x - y * y) / 2, 0])
        + np.sqrt(21 / 32) * (5 * z * z - 1) * np.array([0, 0, -y, 0, -x, 0, 0])
        + np.sqrt(7 / 16) * z * (5 * z * z - 3) * np.array([0, 0, 0, 1, 0, 0, 0]),
    ]
    return np.concatenate(bands[: degree + 1]) / np.sqrt(np.pi)


def project(gaussians, camera, sh_degree, antialiased=False):
    """Each Gaussian as an ellipse on the screen: the rules of the golden vectors' README, one by one."""
    W, t, K = camera.viewmat[:3, :3], camera.viewmat[:3, 3], camera.K
    focal, centre, size = np.diag(K)[:2], K[:2, 2], np.array([camera.width, camera.height])
    n = len(gaussians["means"])
    shapes = {
        "means2d": (n, 2),
        "conics": (n, 3),
        "depths": n,
        "radii": (n, 2),
        "colors": (n, 3),
        "opacities": n,
    }
    out = {name: np.zeros(shape) for name, shape in shapes.items()} | {"visible": np.zeros(n, bool)}
    for i in range(n):
        p = W @ gaussians["means"][i] + t
        if not p[2] >= 0.01:
            continue
        margin = 0.3 * 0.5 * size / focal
        ratio = np.clip(p[:2] / p[2], -centre / focal - margin, (size - centre) / focal + margin)
        J = np.hstack([np.diag(focal / p[2]), (-focal * ratio / p[2])[:, None]])
        M = J @ W @ rotation(gaussians["quats"][i]) @ np.diag(np.exp(gaussians["log_scales"][i]))
        sharp = M @ M.T
        cov = sharp + 0.3 * np.eye(2)
        opacity = 1 / (1 + np.exp(-gaussians["logit_opacities"][i]))
        if antialiased:
            opacity *= np.sqrt(max(0.0, np.linalg.det(sharp) / np.linalg.det(cov)))
        if not opacity >= 1 / 255:
            continue
        mean = focal * p[:2] / p[2] + centre
        radii = np.ceil(min(3.33, np.sqrt(2 * np.log(255 * opacity))) * np.sqrt(np.diag(cov)))
        if (mean + radii <= 0).any() or (mean - radii >= size).any():
            continue
        direction = gaussians["means"][i] + W.T @ t
        sh = np.concatenate([gaussians["sh0"][i], gaussians["shN"][i]])[: (sh_degree + 1) ** 2]
        color = np.maximum(sh_basis(direction / np.linalg.norm(direction), sh_degree) @ sh + 0.5, 0)
        conic = np.linalg.inv(cov)[[0, 0, 1], [0, 1, 1]]
        for name, value in zip(out, (mean, conic, p[2], radii, color, opacity, True), strict=True):
            out[name][i] = value
    return out


def alphas(splats, i, width, height):
    """[H, W] opacity of splat i at each pixel, capped but not yet cut."""
    dx = np.arange(width)[None, :] + 0.5 - splats["means2d"][i, 0]
    dy = np.arange(height)[:, None] + 0.5 - splats["means2d"][i, 1]
    a, b, c = splats["conics"][i]
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    return np.minimum(0.999, splats["opacities"][i] * np.exp(-sigma))


def blend(splats, width, height, background=(0, 0, 0)):
    """image [H, W, 3], alpha [H, W, 1]: front to back, equal depths by index."""
    image, T, going = np.zeros((height, width, 3)), np.ones((height, width)), np.ones((height, width), bool)
    for i in np.argsort(splats["depths"], kind="stable"):
        if splats["visible"][i]:
            alpha = alphas(splats, i, width, height)
            alpha = np.where(alpha >= 1 / 255, alpha, 0)
            going &= T * (1 - alpha) > 1e-4
            weight = np.where(going, alpha * T, 0)
            image += weight[..., None] * splats["colors"][i]
            T = np.where(going, T * (1 - alpha), T)
    return image + T[..., None] * np.asarray(background), 1 - T[..., None]


def render(gaussians, camera, sh_degree=None, background=(0, 0, 0), antialiased=False):
    """image [H, W, 3], alpha [H, W, 1]."""
    if sh_degree is None:
        sh_degree = round((gaussians["shN"].shape[1] + 1) ** 0.5) - 1
    splats = project(gaussians, camera, sh_degree, antialiased)
    return blend(splats, camera.width, camera.height, background)


def central_differences(function, x, step=1e-7):
    """d function / d x, with the shape of the float64 array `x`, for a function of one array to a number."""
    gradient, x = np.zeros(x.shape), x.copy()
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + step
        above = function(x)
        x[index] = kept - step
        gradient[index] = (above - function(x)) / (2 * step)
        x[index] = kept
    return gradient
