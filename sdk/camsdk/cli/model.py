"""``camctl model``: releases in the registry. Other modules add import, compress, sign and more."""

from pathlib import Path
from typing import Annotated

import typer

from camsdk.cli import model_build, model_compress, model_export, model_sign
from camsdk.cli.moments import show_moment
from camsdk.cli.profile import Cloud, cloud_command

app = typer.Typer(
    help="Models: import, compress, evaluate, sign, push and list them.", no_args_is_help=True
)
model_build.register(app)
model_compress.register(app)
model_export.register(app)
model_sign.register(app)


@cloud_command(app, "push")
def push(
    cloud: Cloud,
    path: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A signed bundle (.cam).")
    ],
) -> None:
    """Uploads a signed bundle into the registry; versions never change afterwards."""
    model = cloud.client.push_model(path)
    if cloud.out.is_json:
        cloud.out.json(model)
        return
    cloud.out.line(f"{model.reference}  {model.digest}")
    cloud.out.note(f"deploy it with: camctl deploy model {model.reference} --fleet NAME")


@cloud_command(app, "list")
def list_models(
    cloud: Cloud, name: Annotated[str, typer.Argument(help="Only releases of this model.")] = ""
) -> None:
    """Lists releases."""
    models = cloud.client.list_models(name=name)
    if cloud.out.is_json:
        cloud.out.json({"models": models})
        return
    cloud.out.table(
        ("=model", "hardware", ">size", "approved", "pushed", "=digest"),
        [
            (
                row.reference,
                row.hardware,
                f"{row.size_bytes / 2**20:.2f} MiB",
                "yes" if row.is_approved else "no",
                show_moment(row.pushed_timestamp_s),
                row.digest[:12],
            )
            for row in models
        ],
        "no models: `camctl model push FILE.cam` uploads one",
    )
