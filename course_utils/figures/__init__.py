"""The course's pictures, a file for each notebook; show.py says how they are shown."""
