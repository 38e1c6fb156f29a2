"""The course as nbgrader sees it. Run nbgrader in this folder: nbgrader generate_assignment 01_policy_loss"""

import os
import sys

c = get_config()  # noqa: F821  (nbgrader puts it here)

c.CourseDirectory.root = os.path.dirname(os.path.abspath(__file__))
c.CourseDirectory.course_id = "tinier_zero"

# To make its gradebook nbgrader starts `alembic` by name. It lies beside this Python, wherever PATH leads.
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", "")

# The source is the course's own notebooks. What nbgrader makes of them, and students' work, stays out of git.
c.CourseDirectory.source_directory = "notebooks"
c.CourseDirectory.release_directory = "autograder/release"
c.CourseDirectory.submitted_directory = "autograder/submitted"
c.CourseDirectory.autograded_directory = "autograder/autograded"
c.CourseDirectory.feedback_directory = "autograder/feedback"
c.CourseDirectory.solution_directory = "autograder/solution"
c.CourseDirectory.source_with_tests_directory = "autograder/source_with_tests"
c.CourseDirectory.db_url = "sqlite:///" + os.path.join(c.CourseDirectory.root, "autograder", "gradebook.db")
os.makedirs(os.path.join(c.CourseDirectory.root, "autograder"), exist_ok=True)  # sqlite makes no folder

# nbgrader copies whatever else lies beside a source notebook into the release. A solution that somebody
# exported there (jupyter nbconvert writes beside the notebook), or what a run left, must not get to students.
c.CourseDirectory.ignore = [".ipynb_checkpoints", "__pycache__", "*.pyc", "feedback", "*.py", "outputs", "exercises"]

# `nbgrader autograde` and the formgrader's Autograde button take their points from the judge in the sandbox, and
# `nbgrader collect` follows no links: nbgrader's own would let a submission choose its points. See autograder/.
from autograder.nbgrader_plugin import install  # noqa: E402  (nbgrader puts this folder on Python's path first)

install(c.CourseDirectory.root)
c.ExchangeFactory.collect = "autograder.collect.CourseCollect"
c.ExportApp.plugin_class = "autograder.exporters.GradesExport"
