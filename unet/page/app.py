"""The page as a Gradio app."""

from pathlib import Path

from unet.errors import InputError
from unet.page.photograph import segment, without_photograph

TITLE = "Try a segmentation network"
KEPT = 3600
"""Seconds after which an uploaded file is deleted at the latest; when the server stops, all are."""

_HEADER = f"""
<header>
  <h1>{TITLE}</h1>
  <p>Drop a photograph below. Each pixel is coloured by its most likely class.
  The photograph is used for nothing else and deleted within an hour.</p>
</header>
"""


def build(predictors, max_upload_mb: int = 20):
    """Build the page as a ``gradio.Blocks``.

    Args:
        predictors: Networks loaded with :func:`unet.load`; shown side by side.
        max_upload_mb: Size limit shown next to the upload area; :func:`unet.page.serve` enforces it.
    """
    import gradio

    progress_bar = gradio.Progress()

    def show(dropped, chosen, mode, flip, progress=progress_bar):
        """Return the result, the file it belongs to, and an empty upload area."""
        path = dropped or chosen
        if not path:
            return without_photograph(predictors), None, None
        try:
            return segment(predictors, path, mode, flip, progress), path, None
        except InputError as error:
            return without_photograph(predictors, str(error)), path, None

    cleaning = (KEPT // 10, KEPT - KEPT // 10)  # interval and age in seconds
    with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=cleaning, fill_width=True) as blocks:
        chosen = gradio.State()
        gradio.HTML(_HEADER, apply_default_css=False)
        with gradio.Row(equal_height=True):
            photograph = gradio.File(label=f"Photograph, up to {max_upload_mb} MB", height=150, elem_id="photograph")
            with gradio.Column():
                mode = gradio.Radio(
                    [("the whole photograph, resized", "resize"), ("tiles at full resolution", "tile")],
                    value="resize",
                    label="Input of the networks",
                )
                flip = gradio.Checkbox(label="Average with the mirror image (takes twice the time)")
        result = gradio.HTML(
            without_photograph(predictors), apply_default_css=False, js_on_load=template("page.js"), elem_id="result"
        )
        gradio.on(
            [photograph.upload, mode.input, flip.input],
            show,
            [photograph, chosen, mode, flip],
            [result, chosen, photograph],
            show_progress_on=result,
            concurrency_limit=1,  # one photograph at a time, for all users
            trigger_mode="always_last",
            api_visibility="private",
        )
    return blocks


def template(name: str) -> str:
    """Text of a file in ``templates/``."""
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
