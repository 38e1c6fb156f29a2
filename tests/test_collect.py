"""Collecting from an exchange folder in which students put what they like."""

import os
import shutil
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest
from nbgrader.api import Gradebook
from nbgrader.apps.baseapp import NbGrader
from nbgrader.coursedir import CourseDirectory
from nbgrader.exchange import ExchangeError

from autograder import collect, foreign_folder
from autograder.collect import COLLECTING, CourseCollect
from autograder.submission import find, read, receipt
from tests.class_of_students import new_course
from tests.course import hand_in

KEY = "policy_loss"
STAMP = "2026-11-22 10:00:00.000000 UTC"
JUST_BEFORE = "2026-11-22 09:59:59.999999 UTC"
LATER = "2026-11-22 11:00:00.000000 UTC"


class Class:
    """An exchange folder, and a course that collects from it."""

    def __init__(self, folder):
        (folder / "course").mkdir()
        self.course, self.inbound = new_course(folder / "course"), folder / "exchange/tinier_zero/inbound"
        self.submitted = self.course.folder / "submitted"
        self.inbound.mkdir(parents=True)
        self.exchange = folder / "exchange"

    def submit(self, student, name=None):
        """What nbgrader's submit leaves in the exchange."""
        folder = hand_in(self.inbound / "new", student, KEY)
        (folder / "timestamp.txt").write_text(STAMP)
        (folder / "submission_secret.txt").write_text("s3cret")
        return folder.rename(self.inbound / (name or f"{student}+01_policy_loss+{STAMP}+r4nd0m"))

    def collect(self, check_owner=False, update=False, before_duedate=False, assignment="01_policy_loss", **limits):
        app = NbGrader()
        app.coursedir = CourseDirectory(
            parent=app,
            root=str(self.course.folder),
            course_id="tinier_zero",
            assignment_id=assignment,
            submitted_directory="submitted",
            db_url=f"sqlite:///{self.course.db}",
            **limits,
        )
        options = {"check_owner": check_owner, "update": update, "before_duedate": before_duedate}
        CourseCollect(coursedir=app.coursedir, parent=app, root=str(self.exchange), **options).start()
        return find(self.submitted)[0]


def give(folder, uid):
    for path in (folder, *folder.iterdir()):
        os.chown(path, uid, -1)


@pytest.fixture
def students(tmp_path):
    students = Class(tmp_path)
    students.submit("ada")
    return students


def test_a_submission_is_collected_whole(students):
    (students.inbound / f"ada+01_policy_loss+{STAMP}+r4nd0m" / "notes.txt").write_text("x")
    assert students.collect() == [("ada", KEY)]
    assert read(students.submitted, "ada", KEY).problem == ""
    assert receipt(students.submitted, "ada", KEY).timestamp == STAMP
    assert (students.submitted / "ada/01_policy_loss/notes.txt").read_text() == "x"


def test_an_assignment_that_is_not_graded_is_collected_too(students):
    students.submit("bob", f"bob+06_train_gsm8k+{STAMP}+r4nd0m")
    students.collect(assignment="06_train_gsm8k")
    assert (students.submitted / "bob/06_train_gsm8k/policy_loss.ipynb").exists()


def test_what_is_there_already_stays_until_an_update_is_asked_for(students):
    students.collect()
    later = students.submit("ada", f"ada+01_policy_loss+{LATER}+r4nd0m")
    (later / "timestamp.txt").write_text(LATER)
    students.collect()
    assert receipt(students.submitted, "ada", KEY).timestamp == STAMP
    students.collect(update=True)
    assert receipt(students.submitted, "ada", KEY).timestamp == LATER
    kept = students.submitted / "ada/01_policy_loss/of_the_instructor.txt"
    kept.touch()
    students.collect(update=True)  # nothing is newer
    assert kept.exists()


def test_a_link_in_a_submissions_place_stays_and_is_told(students, tmp_path, capsys):
    (students.submitted / "ada").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (students.submitted / "ada/01_policy_loss").symlink_to(tmp_path / "elsewhere")
    students.collect(update=True)
    assert (students.submitted / "ada/01_policy_loss").is_symlink()
    assert "ada/01_policy_loss is a symbolic link" in capsys.readouterr().err


def test_before_the_due_date_takes_the_last_that_was_in_time(students):
    later = students.submit("ada", f"ada+01_policy_loss+{LATER}+r4nd0m")
    (later / "timestamp.txt").write_text(LATER)
    with Gradebook(f"sqlite:///{students.course.db}", "tinier_zero") as book:
        book.update_or_create_assignment("01_policy_loss", duedate="2026-11-22 10:30:00 UTC")
    students.collect()
    assert receipt(students.submitted, "ada", KEY).timestamp == LATER
    students.collect(before_duedate=True)
    assert receipt(students.submitted, "ada", KEY).timestamp == STAMP


def test_a_group_that_grades_together_may_change_all_of_it(students):
    (students.inbound / f"ada+01_policy_loss+{STAMP}+r4nd0m" / "more").mkdir()
    before = os.umask(0o077)
    try:
        students.collect(groupshared=True)
    finally:
        os.umask(before)
    collected = students.submitted / "ada/01_policy_loss"
    assert {path.stat().st_mode & 0o7777 for path in collected.iterdir() if path.is_file()} == {0o660}
    assert {path.stat().st_mode & 0o7777 for path in (collected.parent, collected, collected / "more")} == {0o2770}


def test_links_stay_links(students, tmp_path):
    """nbgrader's own copies what they lead to: here the instructor's notebook with the solution."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private/instructors.ipynb").write_text("the solution")
    folder = students.submit("eve")
    (folder / "policy_loss.ipynb").unlink()
    (folder / "policy_loss.ipynb").symlink_to(tmp_path / "private/instructors.ipynb")
    (folder / "all").symlink_to(tmp_path / "private")
    assert students.collect() == [("ada", KEY), ("eve", KEY)]
    collected = students.submitted / "eve/01_policy_loss"
    assert (collected / "policy_loss.ipynb").is_symlink() and (collected / "all").is_symlink()
    assert "symbolic link" in read(students.submitted, "eve", KEY).problem


@pytest.mark.parametrize("which", ["notebook", "folder"])
def test_a_link_that_takes_a_files_place_while_it_is_copied_is_not_followed(students, tmp_path, monkeypatch, which):
    """Whoever made a folder in the exchange can change it at any moment, also between a look at a file and its copy."""
    folder = students.submit("eve")
    instructors = tmp_path / "private"
    instructors.mkdir()
    (instructors / "policy_loss.ipynb").write_text("the solution")

    def swap():
        if which == "notebook":
            (folder / "policy_loss.ipynb").unlink()
            (folder / "policy_loss.ipynb").symlink_to(instructors / "policy_loss.ipynb")
        else:
            folder.rename(tmp_path / "away")
            folder.symlink_to(instructors)

    def after_the_look(function):
        def swapped(*arguments):
            result = function(*arguments)
            if str(folder) in [str(argument).rstrip("/") for argument in arguments]:
                swap()
            return result

        return swapped

    if which == "notebook":
        patterns = collect.ignore_patterns
        monkeypatch.setattr(collect, "ignore_patterns", lambda *options: after_the_look(patterns(*options)))
    else:
        monkeypatch.setattr(CourseCollect, "_too_large", after_the_look(CourseCollect._too_large))
    students.collect()
    collected = students.submitted / "eve/01_policy_loss/policy_loss.ipynb"
    assert collected.is_symlink() if which == "notebook" else collected.read_text() != "the solution"
    assert read(students.submitted, "ada", KEY).problem == ""


def then(monkeypatch, function, name, swap):
    """Makes os.function go on to swap() when it was asked for this name."""
    original = getattr(os, function)

    def and_then(*arguments, **more):
        result = original(*arguments, **more)
        if name in [os.path.basename(argument) for argument in arguments if isinstance(argument, str | os.PathLike)]:
            swap()
        return result

    monkeypatch.setattr(os, function, and_then)


def test_a_folder_that_takes_a_links_place_is_not_copied_to_where_the_link_leads(students, tmp_path, monkeypatch):
    """Or a student could write where only the instructor may: into a home folder, or another student's submission."""
    folder, home, hers = students.submit("eve"), tmp_path / "instructor", tmp_path / "hers"
    home.mkdir()
    hers.mkdir()
    (hers / "startup.py").write_text("print('runs as the instructor')")
    (folder / "d").symlink_to(home)

    def swap():
        (folder / "d").unlink()
        hers.rename(folder / "d")

    then(monkeypatch, "symlink", "d", swap)
    students.submit("zoe")
    assert students.collect() == [("ada", KEY), ("eve", KEY), ("zoe", KEY)]
    assert (folder / "d/startup.py").exists() and not list(home.iterdir())


@pytest.mark.parametrize("thing", ["pipe", "link"])
def test_what_takes_a_folders_place_is_not_waited_for_nor_followed(students, tmp_path, monkeypatch, capsys, thing):
    folder, private = students.submit("eve"), tmp_path / "private"
    private.mkdir()
    (private / "policy_loss.ipynb").write_text("the solution")
    (folder / "d").mkdir()

    def swap():
        (folder / "d").rmdir()
        (folder / "d").symlink_to(private) if thing == "link" else os.mkfifo(folder / "d")

    then(monkeypatch, "mkdir", "d", swap)
    students.submit("zoe")
    assert students.collect() == [("ada", KEY), ("eve", KEY), ("zoe", KEY)]
    assert "is not collected whole" in capsys.readouterr().err
    assert not list((students.submitted / "eve/01_policy_loss/d").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("change", ["gone", "another's", "link"])
def test_a_folder_that_changes_before_its_turn_takes_no_earlier_ones_place(students, tmp_path, monkeypatch, change):
    """nbgrader deletes what it collected before, and then copies."""
    monkeypatch.setattr(collect, "_owner", lambda uid: "bob" if uid == 54321 else "ada")
    students.collect(check_owner=True)
    folder, sort = students.submit("ada", f"ada+01_policy_loss+{LATER}+r4nd0m"), CourseCollect._sort_by_timestamp
    (folder / "timestamp.txt").write_text(LATER)

    def sorted_and_changed(self, records):
        if change == "another's":
            os.chown(folder, 54321, -1)
        else:
            folder.rename(tmp_path / "away")
        if change == "link":
            folder.symlink_to(tmp_path / "away")
        return sort(self, records)

    monkeypatch.setattr(CourseCollect, "_sort_by_timestamp", sorted_and_changed)
    students.collect(check_owner=True, update=True)
    assert read(students.submitted, "ada", KEY).problem == ""
    assert receipt(students.submitted, "ada", KEY).timestamp == STAMP


def test_nobody_hands_in_under_anothers_name(students, monkeypatch, capsys):
    """Bob's later folder with Ada's name in it, which nbgrader's own would take for her last one."""
    forged = students.submit("ada", f"ada+01_policy_loss+{LATER}+r4nd0m")
    give(forged, 54321)
    monkeypatch.setattr(collect, "_owner", lambda uid: "bob" if uid == 54321 else "ada")
    assert students.collect(check_owner=True) == [("ada", KEY)]
    assert receipt(students.submitted, "ada", KEY).timestamp == STAMP
    said = capsys.readouterr().err
    assert "it belongs to bob" in said and "check_owner = False" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_owner_without_a_name_is_nobody_of_the_class(students, capsys):
    give(students.inbound / f"ada+01_policy_loss+{STAMP}+r4nd0m", 54321)
    assert students.collect(check_owner=True) == []
    assert "user id 54321" in capsys.readouterr().err
    assert students.collect() == [("ada", KEY)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("owner, collected", [(0, True), (54321, False)])
@pytest.mark.parametrize("how", ["hard link", "moved", "in a folder", "a folder"])
def test_what_belongs_to_somebody_else_is_not_collected(students, tmp_path, capsys, owner, collected, how):
    """Whoever may write the folder that a file is in can move it, and link to it, without the right to read it."""
    folder, theirs = students.submit("bob"), tmp_path / "theirs.txt"
    theirs.write_text("their work")
    os.chown(theirs, owner, -1)
    (folder / "more").mkdir()
    place = folder / "notes.txt" if how in ("hard link", "moved") else folder / "more/notes.txt"
    place.hardlink_to(theirs) if how == "hard link" else theirs.rename(place)
    if how == "a folder":
        os.chown(place, 0, -1)
        os.chown(place.parent, owner, -1)
    assert students.collect() == [("ada", KEY), ("bob", KEY)]
    copy = students.submitted / "bob/01_policy_loss" / place.relative_to(folder)
    assert copy.exists() == collected != ("belongs to another account" in capsys.readouterr().err)
    assert read(students.submitted, "bob", KEY).problem == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("name", ["policy_loss.ipynb", "timestamp.txt", "submission_secret.txt"])
def test_a_folder_in_which_somebody_else_wrote_takes_no_submissions_place(students, capsys, name):
    """As one of Ada's that her team may write, moved into the exchange under her name."""
    students.collect()
    later = students.submit("ada", f"ada+01_policy_loss+{LATER}+r4nd0m")
    (later / "policy_loss.ipynb").write_text("{")
    os.chown(later / name, 54321, -1)
    students.collect(update=True)
    assert f"{name} in it belongs to user id 54321" in capsys.readouterr().err
    assert read(students.submitted, "ada", KEY).problem == ""


def test_a_folder_that_is_gone_when_its_turn_comes_stops_nobody(students, monkeypatch):
    folder, sort = students.submit("eve"), CourseCollect._sort_by_timestamp

    def sorted_and_gone(self, records):
        if records[0]["username"] == "eve":
            folder.rename(students.inbound.parent / "gone")
        return sort(self, records)

    monkeypatch.setattr(CourseCollect, "_sort_by_timestamp", sorted_and_gone)
    assert students.collect() == [("ada", KEY)]
    assert read(students.submitted, "ada", KEY).problem == ""


def test_a_folder_whose_size_cannot_be_told_stops_nobody(students, monkeypatch):
    """One that may be listed but not entered: nbgrader asks each file in it for its size. Not so by root."""
    folder, look = students.submit("bob"), collect.extent

    def extent(opened):
        if os.fstat(opened).st_ino == folder.stat().st_ino:
            raise PermissionError(13, "Permission denied", "film.mp4")
        return look(opened)

    monkeypatch.setattr(collect, "extent", extent)
    assert students.collect() == [("ada", KEY), ("bob", KEY)]
    assert read(students.submitted, "ada", KEY).problem == ""


def no_permission(folder):
    (folder / "policy_loss.ipynb").chmod(0)
    folder.chmod(0o500)


def a_pipe(folder):
    os.mkfifo(folder / "pipe")


def a_forged_timestamp(folder):
    (folder / "timestamp.txt").write_text("never")


def a_linked_timestamp(folder):
    (folder / "timestamp.txt").unlink()
    (folder / "timestamp.txt").symlink_to("/dev/zero")


def no_timestamp(folder):
    (folder / "timestamp.txt").unlink()


def a_file_for_a_time_zone(folder):
    """dateutil would open it whenever nbgrader reads the timestamp: it can be a pipe by then, or no time zone."""
    (folder.parent / "zone").write_text("TZif")
    (folder / "timestamp.txt").write_text(f"2026-11-22 10:00:00 {folder.parent / 'zone'}")


def half_a_date(folder):
    """One in months of 31 days."""
    (folder / "timestamp.txt").write_text("31 10:00:00 UTC")


def a_path_of_long_names(folder):
    os.makedirs(folder / "/".join(["d" * 250] * 12))


def a_folder_for_a_timestamp(folder):
    (folder / "timestamp.txt").unlink()
    (folder / "timestamp.txt/x").mkdir(parents=True)


@pytest.mark.parametrize(
    "damage",
    [
        no_permission,
        a_pipe,
        a_forged_timestamp,
        a_linked_timestamp,
        a_file_for_a_time_zone,
        half_a_date,
        a_path_of_long_names,
        no_timestamp,
        a_folder_for_a_timestamp,
    ],
)
def test_a_damaged_submission_is_collected_as_far_as_it_goes(students, damage):
    damage(students.submit("bob"))
    assert students.collect() == [("ada", KEY), ("bob", KEY)]
    found = receipt(students.submitted, "bob", KEY).timestamp  # the folder's name says it too
    assert found == STAMP if damage in (a_pipe, no_permission) else found in (STAMP, JUST_BEFORE)
    assert read(students.submitted, "ada", KEY).problem == ""
    assert read(students.submitted, "bob", KEY).problem == ""  # the tests run as root, who may read everything
    assert students.collect() == [("ada", KEY), ("bob", KEY)]  # and once more


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), OSError(5, "I/O error")])
@pytest.mark.parametrize("older", [False, True])
def test_what_was_not_copied_whole_is_taken_anew(students, monkeypatch, older, error):
    """By collect --update. An older copy stays where it is the collection that ends."""
    if older:
        students.collect()
        later = students.submit("ada", f"ada+01_policy_loss+{LATER}+r4nd0m")
        (later / "timestamp.txt").write_text(LATER)
    with monkeypatch.context() as broken:
        broken.setattr(collect.Copy, "_file", lambda *_: (_ for _ in ()).throw(error))
        if error is KeyboardInterrupt or error.errno == 28:
            with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else ExchangeError):
                students.collect(update=True)
            assert find(students.submitted)[0] == [("ada", KEY)] * older
            assert not older or read(students.submitted, "ada", KEY).problem == ""
        else:
            students.collect(update=True)
            assert receipt(students.submitted, "ada", KEY).timestamp.endswith("59:59.999999 UTC")
    assert [path.name for path in students.submitted.iterdir()] in ([], ["ada"])
    students.collect(update=True)
    assert read(students.submitted, "ada", KEY).problem == ""
    assert receipt(students.submitted, "ada", KEY).timestamp == (LATER if older else STAMP)


def test_a_students_own_timestamp_is_never_left_to_nbgrader(students):
    (students.submit("eve") / "timestamp.txt").write_text("never")
    students.collect()
    assert receipt(students.submitted, "eve", KEY).timestamp == JUST_BEFORE


def test_what_a_killed_collection_has_left_is_not_graded_and_goes_with_the_next(students):
    (students.submitted / f"ada/{COLLECTING}x/+new").mkdir(parents=True)
    assert find(students.submitted) == ([], [])
    students.collect()
    assert [path.name for path in (students.submitted / "ada").iterdir()] == ["01_policy_loss"]


def test_what_a_colleagues_killed_collection_has_left_stops_nobody(students, monkeypatch, capsys):
    """It may be closed to this account."""
    (students.submitted / f"ada/{COLLECTING}x").mkdir(parents=True)
    denied = PermissionError(13, "Permission denied", f"ada/{COLLECTING}x")
    monkeypatch.setattr(collect, "clear", Mock(side_effect=[denied, None]))
    assert students.collect() == [("ada", KEY)]
    assert f"{COLLECTING}x is left by an earlier collect: Permission denied" in capsys.readouterr().err


def test_a_link_by_a_scratch_folders_name_is_not_followed(students, tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private/file").write_text("x")
    (students.submitted / "ada").mkdir(parents=True)
    (students.submitted / f"ada/{COLLECTING}x").symlink_to(tmp_path / "private")
    students.collect()
    assert (tmp_path / "private/file").exists() and not (students.submitted / "ada/file").exists()


def test_a_group_can_clear_what_one_of_them_has_left(students, monkeypatch):
    modes = []
    monkeypatch.setattr(collect, "clear", lambda scratch: modes.append(scratch.stat().st_mode & 0o7777))
    students.collect(groupshared=True)
    assert modes == [0o2770]


def test_an_older_copy_beside_a_newer_never_comes_back(students, monkeypatch):
    """Killed once the newer one was in its place, and again in the deletion of the older."""
    students.collect()
    scratch = students.submitted / f"ada/{COLLECTING}x"
    shutil.copytree(students.submitted / "ada/01_policy_loss", scratch / "01_policy_loss")
    with monkeypatch.context() as killed:
        killed.setattr(collect.shutil, "rmtree", lambda *_, **__: None)
        students.collect()
    (students.submitted / "ada/01_policy_loss").rename(students.exchange / "away")
    for path in students.inbound.iterdir():
        path.rename(students.exchange / path.name)
    assert students.collect() == [] and not scratch.exists()


def test_half_an_older_copy_never_comes_back(students, monkeypatch):
    """What could not be deleted once the newer one was in its place."""
    students.collect()
    students.submit("ada", f"ada+01_policy_loss+{LATER}+r4nd0m")
    monkeypatch.setattr(collect.shutil, "rmtree", lambda *_, **__: None)
    students.collect(update=True)
    (students.submitted / "ada/01_policy_loss").rename(students.exchange / "away")
    students.collect()
    assert receipt(students.submitted, "ada", KEY).timestamp == STAMP  # of the later folder's own timestamp.txt
    assert {path.name for path in students.submitted.glob(f"ada/{COLLECTING}*/*")} == {"+old"}


def test_a_file_in_the_place_of_the_submissions_ends_in_an_error(students, capsys):
    students.submitted.write_text("")
    with pytest.raises(ExchangeError):
        students.collect()
    assert "submitted: Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize("end", [KeyboardInterrupt, OSError(5, "Input/output error"), "killed"])
def test_an_older_copy_comes_back_where_the_newer_does_not_reach_its_place(students, monkeypatch, end):
    students.collect()
    students.submit("ada", f"ada+01_policy_loss+{LATER}+r4nd0m")
    rename = Path.rename
    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", lambda path, to: stop() if path.name == "+new" else rename(path, to))
        if end == "killed":
            broken.setattr(collect, "clear", lambda _: None)

        def stop():
            raise KeyboardInterrupt if end == "killed" else end

        with suppress(KeyboardInterrupt):
            students.collect(update=True)
    if end == "killed":
        (students.submitted / "bob").write_text("no folder")
        assert not (students.submitted / "ada/01_policy_loss").exists()
        for path in students.inbound.iterdir():
            path.rename(students.exchange / path.name)
        students.collect()
    assert [path.name for path in (students.submitted / "ada").iterdir()] == ["01_policy_loss"]
    assert receipt(students.submitted, "ada", KEY).timestamp == STAMP
    assert read(students.submitted, "ada", KEY).problem == ""


@pytest.mark.parametrize("state", ["before", "after"])
def test_a_full_disk_costs_those_that_do_not_fit_and_ends_in_an_error(students, monkeypatch, capsys, state):
    students.submit("bob")
    what, name = (collect.tempfile, "mkdtemp") if state == "before" else (collect.Copy, "folder")
    works = getattr(what, name)

    def full_for_ada(*given, **named):
        if any("ada" in str(value) for value in named.values()) or state == "after" and not calls:
            calls.append(given)
            raise OSError(28, "No space left on device")
        return works(*given, **named)

    calls = []
    monkeypatch.setattr(what, name, full_for_ada)
    with pytest.raises(ExchangeError):
        students.collect()
    said = capsys.readouterr().err
    assert "submitted: No space left on device. Not all is collected" in said and said.count("Not collected: '") == 1
    assert len(find(students.submitted)[0]) == 1


def test_a_link_by_the_timestamps_name_in_other_letters_is_not_followed(students, tmp_path, monkeypatch):
    """On a disk that takes small and large letters for the same."""
    grades, symlink = tmp_path / "grades", os.symlink
    grades.write_text("")
    (students.submit("eve") / "TimeStamp.txt").symlink_to(grades)
    monkeypatch.setattr(os, "symlink", lambda to, name, dir_fd: symlink(to, name.lower(), dir_fd=dir_fd))
    students.collect()
    assert grades.read_text() == "" and receipt(students.submitted, "eve", KEY).timestamp


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_copy_has_the_group_of_its_students_folder(students):
    (students.submitted / "ada").mkdir(parents=True)
    os.chown(students.submitted / "ada", -1, 54321)
    (students.submitted / "ada").chmod(0o2770)
    students.collect(groupshared=True)
    assert (students.submitted / "ada/01_policy_loss/policy_loss.ipynb").stat().st_gid == 54321


def test_without_secrets_the_later_hand_in_is_collected_too(students):
    """As from a client that writes none."""
    students.collect()
    later = students.submit("ada", f"ada+01_policy_loss+{LATER}+r4nd0m")
    (later / "timestamp.txt").write_text(LATER)
    (later / "submission_secret.txt").unlink()
    students.collect(update=True)
    assert receipt(students.submitted, "ada", KEY).timestamp == "2026-11-22 10:59:59.999999 UTC"


def test_a_folder_that_is_being_handed_in_is_taken_anew(students):
    """nbgrader's submit copies the folder, and then writes the time and the secret."""
    folder = students.submit("eve")
    secret = (folder / "submission_secret.txt").read_text()
    (folder / "submission_secret.txt").unlink()
    students.collect()
    (folder / "submission_secret.txt").write_text(secret)
    students.collect(update=True)
    assert receipt(students.submitted, "eve", KEY).secret == secret
    assert receipt(students.submitted, "eve", KEY).timestamp == STAMP


@pytest.mark.parametrize("before", [(), ("timestamp.txt", "submission_secret.txt")], ids=["first", "second"])
def test_a_folder_whose_handing_in_ends_while_it_is_collected_is_taken_anew(students, monkeypatch, before):
    """The second time, the student's own folder has the receipt of the first time in it, and submit copies that too."""
    folder, copy_file = students.submit("eve"), collect.Copy._file
    texts = {path.name: path.read_text() for path in folder.iterdir()}
    for path in folder.iterdir():
        path.unlink()
    for name in ("a.txt", *before):
        (folder / name).write_text("2026-11-20 10:00:00 UTC")

    def handed_in_meanwhile(self, name, *arguments):
        copy_file(self, name, *arguments)
        if name == "a.txt":
            for name, text in texts.items():
                (folder / name).write_text(text)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(collect.Copy, "_file", handed_in_meanwhile)
        students.collect()
    assert "not there" in read(students.submitted, "eve", KEY).problem
    students.collect(update=True)
    assert read(students.submitted, "eve", KEY).problem == ""
    assert receipt(students.submitted, "eve", KEY).timestamp == STAMP


def test_an_older_copy_stays_while_the_newer_is_handed_in(students, capsys):
    students.collect()
    later = students.submit("ada", f"ada+01_policy_loss+{LATER}+r4nd0m")
    for name in ("policy_loss.ipynb", "timestamp.txt", "submission_secret.txt"):
        (later / name).unlink()
    students.collect(update=True)
    assert "ada 01_policy_loss has no receipt yet" in capsys.readouterr().err
    assert read(students.submitted, "ada", KEY).problem == ""
    assert receipt(students.submitted, "ada", KEY).timestamp == STAMP


def test_work_that_came_another_way_stays(students, capsys):
    """As a notebook sent by mail: it may be newer than what the exchange has, and nobody has it a second time."""
    students.collect()
    collected = students.submitted / "ada/01_policy_loss"
    (collected / "timestamp.txt").unlink()
    (collected / "policy_loss.ipynb").write_text("from the mail")
    students.submit("bob")
    assert students.collect(update=True) == [("ada", KEY), ("bob", KEY)]
    assert (collected / "policy_loss.ipynb").read_text() == "from the mail"
    assert "has no timestamp.txt, so it came another way and stays" in capsys.readouterr().err


def test_of_two_collections_at_once_one_waits(students, capsys):
    """Or one would delete what the other is copying."""
    students.submitted.mkdir()
    with collect.one_at_a_time(students.submitted, pytest.fail):
        second = threading.Thread(target=students.collect, daemon=True)
        second.start()
        second.join(1)
        assert second.is_alive() and find(students.submitted)[0] == []
        assert "Another collect is at work" in capsys.readouterr().err
    second.join(30)
    assert find(students.submitted)[0] == [("ada", KEY)]


def test_a_folder_that_cannot_be_locked_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(9, "Bad file descriptor")))
    told = []
    with collect.one_at_a_time(tmp_path, told.append):
        pass
    assert "cannot be locked (Bad file descriptor)" in told[0]


def test_of_many_names_that_are_no_submissions_a_hundred_are_told(students, monkeypatch, capsys):
    monkeypatch.setattr(collect, "MAX_TOLD", 2)
    for number in range(5):
        (students.inbound / f"eve+01_policy_loss+{number}").touch()
    assert students.collect() == [("ada", KEY)]
    said = capsys.readouterr().err
    assert said.count("Not collected: '") == 2 and "Not collected: 3 more of " in said


def test_what_cannot_be_replaced_stays_and_stops_nobody(students, monkeypatch, capsys):
    """As a folder that another instructor of the group made before it was shared."""
    students.submit("bob")
    students.collect()
    for student in ("ada", "bob"):
        students.submit(student, f"{student}+01_policy_loss+{LATER}+r4nd0m")
    rename, fixed = Path.rename, students.submitted / "ada/01_policy_loss"

    def refused(path, target):
        if path == fixed:
            raise PermissionError(13, "Permission denied", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    students.collect(update=True)
    assert "Permission denied" in capsys.readouterr().err
    assert read(students.submitted, "ada", KEY).problem == "" == read(students.submitted, "bob", KEY).problem


def test_an_older_timestamp_that_is_none_is_replaced(students):
    """As by a hand that knows another form of dates, on which nbgrader stops."""
    students.submit("bob")
    students.collect()
    (students.submitted / "ada/01_policy_loss/timestamp.txt").write_text("am 22. November um 10")
    assert students.collect(update=True) == [("ada", KEY), ("bob", KEY)]
    assert receipt(students.submitted, "ada", KEY).timestamp == STAMP


def test_a_zone_without_letters_is_a_time_too(students):
    """nbgrader looks for the date after the third + from the end, and finds the end of a name in Istanbul."""
    students.submit("zoe", "zoe+01_policy_loss+2026-11-22 13:00:00.000000 +03+r4nd0m")
    assert students.collect() == [("ada", KEY), ("zoe", KEY)]


def test_a_folder_that_is_large_itself_is_not_listed(students, monkeypatch):
    folder = students.submit("eve") / "large"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number:0200}").touch()
    monkeypatch.setattr(foreign_folder, "MAX_LIST", folder.stat().st_size - 1)
    students.collect()
    collected = students.submitted / "eve/01_policy_loss"
    assert not (collected / "large").exists() and (collected / "policy_loss.ipynb").exists()


def test_the_time_in_a_folders_name_is_text(students):
    name = os.path.join(os.fsencode(students.inbound), b"eve+01_policy_loss+2026-11-22 10:00:00 \xff+r4nd0m")
    os.rename(students.submit("eve"), name)
    os.unlink(os.path.join(name, b"timestamp.txt"))
    students.submit("zoe")
    assert students.collect() == [("ada", KEY), ("zoe", KEY)]


def test_one_folder_under_a_thousand_names_is_not_listed_a_thousand_times(students, tmp_path, monkeypatch):
    folder, large = students.submit("eve"), tmp_path / "large"
    large.mkdir()
    for number in range(4000):
        (large / f"{number}.pyc").touch()
    for number in range(10):
        (folder / f"x{number}").mkdir()
    listed, names_in = [], foreign_folder.names_in

    def moved_on(opened, most=None):
        names = names_in(opened, most)
        listed.append(len(names))
        if len(names) == 4000:  # a decoy is next: it gives its name away
            place = os.readlink(f"/proc/self/fd/{opened}")
            following = folder / f"x{int(place[-1]) + 1}"
            if following.exists():
                following.rmdir()
                os.rename(place, following)
        return names

    (folder / "x0").rmdir()
    large.rename(folder / "x0")
    monkeypatch.setattr(foreign_folder, "names_in", moved_on)
    monkeypatch.setattr(collect, "extent", lambda opened: (3, 1000))  # before the large folder came
    students.collect()
    assert 4000 in listed and sum(listed) < 25_000
    assert read(students.submitted, "eve", KEY).problem == ""


def test_folders_that_are_too_deep_in_one_another_are_told(students, capsys):
    os.makedirs(students.submit("bob") / "/".join("f" * 22))
    students.collect()
    assert "bob+" in (said := capsys.readouterr().err) and "it has more than 20 folders in one another" in said
    assert len(list((students.submitted / "bob/01_policy_loss").rglob("f"))) == 21


def test_more_folders_in_folders_than_python_goes_down_into_stop_nobody(students, tmp_path, monkeypatch):
    try:
        with monkeypatch.context() as moving:
            for depth in (30, *range(940, 1010, 3), 1200):  # about 1,000, some of the functions below still get down
                moving.chdir(students.submit(f"bob{depth}"))
                for _ in range(depth):
                    os.mkdir("f")
                    os.chdir("f")
        students.submit("zoe")
        found = students.collect()
        assert found[0] == ("ada", KEY) and found[-1] == ("zoe", KEY) and len(found) == 28
        assert max(len(path.parts) for path in students.submitted.rglob("*")) < len(students.submitted.parts) + 30
    finally:
        subprocess.run(["rm", "-rf", tmp_path])  # pytest's own would not get down there either


def test_a_folder_that_is_too_large_comes_without_its_files(students, capsys):
    folder = students.submit("bob")
    (folder / "film.mp4").write_bytes(b"")
    os.truncate(folder / "film.mp4", 3_000_000)
    assert students.collect(max_dir_size=2000) == [("ada", KEY), ("bob", KEY)]
    assert "has more than 2000 kB: only its notebooks are collected" in capsys.readouterr().err
    assert sorted(path.name for path in (students.submitted / "bob/01_policy_loss").iterdir()) == [
        "policy_loss.ipynb",
        "submission_secret.txt",
        "timestamp.txt",
    ]


@pytest.mark.parametrize("kind", ["sparse", "hard links"])
def test_no_submission_takes_more_than_nbgrader_allows_it(students, kind):
    """What takes no room in the exchange, and much where it is copied."""
    folder = students.submit("bob")
    (folder / "0.ipynb").write_bytes(b"")
    os.truncate(folder / "0.ipynb", 700_000)
    for number in range(1, 10):
        other = folder / f"{number}.ipynb"
        if kind == "sparse":
            other.write_bytes(b"")
            os.truncate(other, 700_000)
        else:
            other.hardlink_to(folder / "0.ipynb")
    assert students.collect(max_dir_size=2000) == [("ada", KEY), ("bob", KEY)]
    copied = [path.stat().st_size for path in (students.submitted / "bob/01_policy_loss").iterdir()]
    assert 1_400_000 < sum(copied) < 2_000_000


def test_a_file_that_grows_while_it_is_copied_is_left(students, monkeypatch):
    grown = students.submit("bob") / "z.ipynb"
    grown.write_text("x")

    def meanwhile(descriptor):
        found = fstat(descriptor)
        if found.st_ino == grown.stat().st_ino:
            os.truncate(grown, 90_000_000)
        return found

    fstat = os.fstat
    monkeypatch.setattr(foreign_folder.os, "fstat", meanwhile)
    assert students.collect(max_dir_size=2000) == [("ada", KEY), ("bob", KEY)]
    assert sum(path.stat().st_size for path in (students.submitted / "bob/01_policy_loss").iterdir()) < 2_000_000


def test_a_file_larger_than_nbgrader_takes_is_named_without_its_control_characters(students, capsys):
    folder = students.submit("bob")
    (folder / "\x1b[2J\nError: all is lost").write_bytes(b"x" * 3000)
    students.collect(max_file_size=2)
    said = capsys.readouterr().err
    assert "\x1b" not in said and "\nError" not in said and "x1b[2J" in said and "kB that are left for it" in said


def test_of_many_files_that_are_not_copied_ten_are_told(students, capsys):
    folder = students.submit("bob")
    for number in range(15):
        (folder / f"{number}.txt").write_bytes(b"x" * 3000)
    students.collect(max_file_size=2)
    told = [line for line in capsys.readouterr().err.splitlines() if "bob+" in line]
    assert len(told) == 10 and all("is not collected whole" in line for line in told)


@pytest.mark.parametrize("name, collected", [("{}.txt", 3), ("{}.ipynb", 1000), ("{}/x.ipynb", 3)])
def test_more_files_than_anybody_hands_in_take_nobodys_time(students, name, collected):
    folder = students.submit("bob")
    for number in range(2000):
        path = folder / name.format(number)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert ("ada", KEY) in students.collect()
    assert len(list((students.submitted / "bob/01_policy_loss").rglob("*"))) == pytest.approx(collected, abs=1)


@pytest.mark.parametrize(
    "name",
    [
        "eve+01_policy_loss+never+x",
        f"..+01_policy_loss+{STAMP}",
        f"+01_policy_loss+{STAMP}",
        "a+01_policy_loss+",
        "+01_policy_loss+x",
        "eve+01_policy_loss+0001-01-01 00:00:00 UTC+x",
        "eve+01_policy_loss+9999-12-31 23:59:59 UTC+x",
        f"\x1b]0;owned\x07+01_policy_loss+{STAMP}+x",
        f"a\nb: all were graded+01_policy_loss+{STAMP}+x",
        f"=HYPERLINK(A1)+01_policy_loss+{STAMP}+x",
        "eve+01_policy_loss+ at 10:00:00 20261122+x",
        "eve+01_policy_loss+31 10:00:00 UTC+x",
    ],
)
def test_a_folder_that_no_student_made_is_passed_over(students, name):
    students.submit("eve", name)
    assert students.collect() == [("ada", KEY)]
    assert sorted(path.name for path in students.course.folder.iterdir()) == ["gradebook.db", "submitted"]


def test_a_link_or_a_file_in_the_exchange_is_passed_over(students, tmp_path):
    (students.inbound / f"eve+01_policy_loss+{STAMP}+x").symlink_to(tmp_path)
    (students.inbound / f"bob+01_policy_loss+{STAMP}+x").write_text("x")
    assert students.collect() == [("ada", KEY)]
