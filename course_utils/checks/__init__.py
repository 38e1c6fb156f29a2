"""The public cases of check(), one module an exercise, one function a criterion.

A criterion takes the learner's function, and raises AssertionError with advice if it does not hold. The first
line of its docstring is what the learner reads. Targets are numbers computed by hand, or properties: no exercise
is implemented here.
"""
