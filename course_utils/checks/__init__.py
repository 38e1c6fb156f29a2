"""The public cases of check(), one module an exercise, one function a criterion.

A criterion takes the learner's function and raises AssertionError with advice where it fails. Its docstring
is shown to the learner. Targets are numbers computed by hand, or properties: no exercise is implemented here.
"""
