"""The figures' colours stay apart for people who see colours otherwise."""

import itertools

import numpy as np
import pytest

from course_utils.figures.show import BLUE, GREEN, GREY, ORANGE, PURPLE

# Machado, Oliveira and Fernandes 2009, "A Physiologically-based Model for Simulation of Color Vision Deficiency",
# severity 1.0; they act on linear RGB.
SIMULATIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
APART = 20  # CIE76; 2.3 is just noticeable


def linear(colour: str) -> np.ndarray:
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = TO_XYZ @ rgb.clip(0, 1) / TO_XYZ.sum(1)
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIMULATIONS)
def test_the_colours_that_meet_in_one_picture_stay_apart(sight):
    """From each other, and from the black of the letters and the white that all pictures have behind them."""
    colours = {
        "blue": BLUE,
        "orange": ORANGE,
        "green": GREEN,
        "purple": PURPLE,
        "grey": GREY,
        "black": "#000000",
        "white": "#FFFFFF",
    }
    seen = {name: lab(SIMULATIONS[sight] @ linear(colour)) for name, colour in colours.items()}
    near = {
        (one, other): round(float(np.linalg.norm(seen[one] - seen[other])), 1)
        for one, other in itertools.combinations(colours, 2)
    }
    assert not {pair: distance for pair, distance in near.items() if distance < APART}


def test_the_simulation_takes_red_and_green_for_nearly_the_same():
    red, green = linear("#B03A2E"), linear("#4E8B2E")
    distance = {
        sight: np.linalg.norm(lab(SIMULATIONS[sight] @ red) - lab(SIMULATIONS[sight] @ green))
        for sight in ("normal", "deuteranopia")
    }
    assert distance["deuteranopia"] < distance["normal"] / 2
