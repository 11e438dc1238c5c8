# SPDX-License-Identifier: Apache-2.0
"""Each row of the README's table of what can be loaded has tests that hold it."""

import ast
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
HELD_BY = {  # the first cell of a row: file and test
    "COLMAP model": [
        ("test_places", "test_models_and_photos_are_found_where_they_are"),
        ("test_places", "test_of_several_models_the_largest_sound_one_is_taken"),
        ("test_places", "test_rigs_and_frames_do_no_harm"),
    ],
    "photos of a model": [
        ("test_places", "test_the_folder_with_the_names_wins_over_its_neighbours"),
        ("test_places", "test_a_name_finds_its_file_among_others"),
        ("test_places", "test_photos_are_matched"),
    ],
    "lenses": [
        ("test_colmap", "test_camera_models"),
        ("test_lenses", "test_a_photo_cast_through_a_lens_comes_back_straight"),
        ("test_lenses", "test_a_panorama_becomes_six_views_of_one_group"),
    ],
    "`transforms.json` of nerfstudio": [
        ("test_transforms", "test_nerfstudio_with_its_points"),
        ("test_transforms", "test_nerfstudios_own_split"),
        ("test_transforms", "test_masks_that_the_file_names"),
        ("test_transforms", "test_lenses"),
    ],
    "`transforms.json` of instant-ngp": [
        ("test_transforms", "test_a_lens_for_each_frame_beats_the_top"),
        ("test_transforms", "test_paths_as_people_write_them"),
    ],
    "`transforms_train.json` of Blender": [("test_transforms", "test_blenders_split_is_kept")],
    "Metashape's `cameras.xml`": [
        ("test_metashape", "test_cameras_photos_and_points"),
        ("test_metashape", "test_labels_without_extension_and_drawn_points"),
    ],
    "RealityCapture's camera parameters (CSV)": [("test_realitycapture", "test_cameras_photos_and_points")],
    "LLFF's `poses_bounds.npy`": [
        ("test_llff", "test_points_lie_inside_the_views_and_bounds_in_the_photos_colours")
    ],
    "points": [
        ("test_check_report", "test_points_to_start_from"),
        ("test_colmap", "test_a_model_without_points_gets_drawn_ones"),
        ("test_check", "test_points_without_colours_take_the_photos"),
    ],
    "pictures": [
        ("test_images", "test_every_kind_of_picture_becomes_rgb"),
        ("test_messages", "test_photos_of_other_kinds_are_photos"),
        ("test_colmap", "test_several_cameras_each_fitted_to_its_files"),
    ],
    "see-through pictures (RGBA)": [("test_alpha", "test_the_commands_lay_photos_over_the_background")],
    "masks": [("test_masks", "test_masks_are_found"), ("test_masks", "test_a_mask_for_each_camera")],
    "held-out names": [("test_held_out", "test_the_file_says_what_is_held_out")],
    "a part of a scene": [("test_partition", "test_the_parts_are_scenes")],
    "map coordinates, any unit": [
        ("test_units", "test_a_moved_scene_scores_the_same"),
        ("test_units", "test_what_is_exported_of_a_run_loses_what_its_format_does"),
    ],
    "photos or a video alone": [
        ("test_prepare", "test_training_on_photos_finds_their_cameras_first"),
        ("test_prepare", "test_training_on_a_video"),
    ],
}


@cache
def functions_of(file: str) -> set[str]:
    tree = ast.parse((TESTS / f"{file}.py").read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def rows() -> list[str]:
    """The first cells of the table."""
    text = (TESTS.parent / "README.md").read_text("utf-8")
    table = text.partition("What can be loaded")[2].partition("| --- | --- |\n")[2].partition("\n\n")[0]
    return [line.split("|")[1].strip() for line in table.splitlines()]


def test_every_row_of_the_table_has_a_test() -> None:
    assert len(rows()) > 10 and sorted(rows()) == sorted(HELD_BY)


def test_the_functions_of_the_rows_are_there() -> None:
    missing = [
        f"{file}::{name}"
        for held in HELD_BY.values()
        for file, name in held
        if name not in functions_of(file)
    ]
    assert not missing


def test_every_reader_has_a_row() -> None:
    from gsplat_train import registry

    files = {"colmap": "COLMAP", "transforms": "transforms.json", "metashape": "Metashape",
             "realitycapture": "RealityCapture", "llff": "LLFF"}  # fmt: skip
    assert set(files) == set(registry.READERS) - registry.MADE
    assert all(any(word in row for row in rows()) for word in files.values())
