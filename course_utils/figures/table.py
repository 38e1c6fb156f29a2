"""Tables in HTML, which look the same in JupyterLab and on an exported page."""

from collections.abc import Iterable


def html_table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Rows of cells that are HTML, aligned to the left: in each cell, for JupyterLab's own rule beats the table's. What
    stands between two dollars is no formula: JupyterLab and exported pages ask for a class each."""

    def row(tag: str, cells: Iterable[str]) -> str:
        return "<tr>" + "".join(f'<{tag} style="text-align:left">{cell}</{tag}>' for cell in cells) + "</tr>"

    return (
        '<table class="mathjax_ignore tex2jax_ignore">'
        f"<thead>{row('th', titles)}</thead><tbody>{''.join(row('td', cells) for cells in rows)}</tbody></table>"
    )
