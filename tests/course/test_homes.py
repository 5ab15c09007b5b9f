"""Homes: private, owned by the right user, and never a way to change files elsewhere."""

from __future__ import annotations

import os
import stat

import pytest

from distlab.course.homes import FIRST_UID, INSTRUCTOR_UID, HomeError, give, prepare_home, uid_for

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to other users")


def test_uids_are_apart_from_accounts_and_from_each_other():
    if os.geteuid() == 0:
        assert [uid_for(3, False), uid_for(4, False)] == [FIRST_UID + 3, FIRST_UID + 4]
        assert uid_for(3, True) == uid_for(4, True) == INSTRUCTOR_UID
    else:
        assert uid_for(3, False) == uid_for(4, True) == os.geteuid()


def test_a_home_is_private_and_can_be_prepared_again(tmp_path):
    home = tmp_path / "homes/alice"
    uid = uid_for(1, False)
    for _ in range(2):
        prepare_home(home, uid, 1)
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert home.stat().st_uid == uid


def test_a_link_or_a_file_in_a_homes_place_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "alice").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "bob").touch()
    for name in ("alice", "bob"):
        with pytest.raises(HomeError, match="is not a folder"):
            prepare_home(tmp_path / name, uid_for(1, False), 1)


@root_only
def test_a_home_of_another_user_is_refused(tmp_path):
    prepare_home(tmp_path / "alice", uid_for(1, False), 1)
    with pytest.raises(HomeError, match=f"belongs to uid {FIRST_UID + 1}, not to {FIRST_UID + 2}.*chown -Rh"):
        prepare_home(tmp_path / "alice", uid_for(2, False), 2)
    assert (tmp_path / "alice").stat().st_uid == FIRST_UID + 1


@root_only
def test_a_learner_who_becomes_an_instructor_keeps_the_home(tmp_path):
    home = tmp_path / "alice"
    prepare_home(home, uid_for(1, False), 1)
    (home / "notes").mkdir()
    (home / "notes/a").touch()
    os.chown(home / "notes/a", FIRST_UID + 1, FIRST_UID + 1)
    for instructor in (True, False):
        uid = uid_for(1, instructor)
        prepare_home(home, uid, 1)
        assert {path.stat().st_uid for path in (home, home / "notes", home / "notes/a")} == {uid}


@root_only
def test_giving_a_folder_follows_no_link(tmp_path):
    outside = tmp_path / "outside"
    (outside / "below").mkdir(parents=True)
    (outside / "file").touch()
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "to-folder").symlink_to(outside)
    (folder / "to-file").symlink_to(outside / "file")
    give(folder, FIRST_UID)
    assert {path.lstat().st_uid for path in (folder, *folder.iterdir())} == {FIRST_UID}
    assert {path.stat().st_uid for path in (outside, outside / "below", outside / "file")} == {0}
