# SPDX-License-Identifier: Apache-2.0
"""A scene in parts that are trained by themselves, and the models of the parts as one again."""
