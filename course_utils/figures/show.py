"""How every picture of the course is shown: as an image with a description for those who cannot see it, in colours
that people with any colour vision can tell apart, and with sliders where sliders run.
"""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from IPython.display import HTML, display
from matplotlib.figure import Figure

# Blue and orange are those of Okabe and Ito 2008, "Color Universal Design". Their green and purple look like grey to
# some: these differ in lightness too.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#24B266", "#882255", "#999999"
WIDTH = 9  # inches, of every figure: that of a notebook


def new_figure(height: float) -> Figure:
    """An empty figure, its height in inches; white on every theme, so that what is drawn can be read on all of them."""
    return Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")


def image(figure: Figure, description: str) -> str:
    """`figure` as HTML that needs no other file; `description` says in words what there is to see."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=96)
    data = base64.b64encode(png.getvalue()).decode()
    return f'<img alt="{escape(description)}" style="max-width: 100%" src="data:image/png;base64,{data}">'


def show(figure: Figure, description: str) -> None:
    display(HTML(image(figure, description)))


@dataclass(frozen=True)
class Slider:
    """A number to play with: from `low` to `high`, beginning at `start`."""

    label: str
    start: float
    low: float
    high: float
    step: float


def explore(draw: Callable[..., tuple[Figure, str]], **sliders: Slider) -> None:
    """Shows what `draw` makes of the sliders' values, and again in place whenever one is moved.

    `draw` takes a number for each slider, by its name, and returns a figure and its description. Where widgets do not
    run (an exported page, a front end without them), the picture of the start values is there all the same.
    """

    def html(values: dict[str, float]) -> HTML:
        return HTML(image(*draw(**values)))

    start = html({name: slider.start for name, slider in sliders.items()})
    try:
        import ipywidgets
    except ImportError:  # the package's own dependencies do not include it
        display(start)
        return

    class Sliders(ipywidgets.VBox):
        def __repr__(self) -> str:
            """What a page without widgets has in their place."""
            return ""

    controls = {
        name: ipywidgets.FloatSlider(
            slider.start,
            min=slider.low,
            max=slider.high,
            step=slider.step,
            description=slider.label,
            readout_format=".2f" if slider.step % 1 else ".0f",
            layout={"width": "32em"},
            style={"description_width": "14em"},
        )
        for name, slider in sliders.items()
    }
    display(Sliders(list(controls.values())))
    picture = display(start, display_id=True)
    for control in controls.values():
        control.observe(lambda _: picture.update(html({name: c.value for name, c in controls.items()})), "value")
