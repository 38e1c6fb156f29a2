"""What only an instructor runs: solution cells are taken out of submissions, judged in a sandbox, and the points put
into nbgrader's gradebook. docs/instructor.md says how to use it; `python -m autograder --help` lists the commands."""
