"""One web page that holds everything: text, and pictures inside it."""
import base64
import html
import pathlib

from ..core.files import atomic

HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<style>
body {{ font-family: system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; }}
pre {{ background: #f4f4f4; padding: 1em; overflow-x: auto; font-size: 0.9em; }}
figure {{ margin: 2em 0; }}
img {{ max-width: 100%; height: auto; }}
figcaption {{ color: #444; }}
</style></head><body>
<h1>{title}</h1>
"""


def write(path, title: str, texts: list[str], pictures: dict) -> None:
    """Write a page that needs no other file.

    path: str or Path; title: str
    texts: the first stands above the pictures, the others below
    pictures: {caption: Path of a PNG}
    Raises InputError if the folder cannot be used.
    """
    parts = [HEAD.format(title=html.escape(title)), _text(texts[0])]
    for caption, picture in pictures.items():
        data = base64.b64encode(pathlib.Path(picture).read_bytes()).decode()
        said = html.escape(caption)
        parts.append(f'<figure><img src="data:image/png;base64,{data}" alt="{said}">'
                     f"<figcaption>{said}.</figcaption></figure>\n")
    parts += [_text(text) for text in texts[1:]]
    with atomic(path) as part:
        part.write_text("".join([*parts, "</body></html>\n"]), encoding="utf-8")


def _text(text):
    return f"<pre>{html.escape(text)}</pre>\n"
