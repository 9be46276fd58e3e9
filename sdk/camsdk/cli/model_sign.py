"""``camctl model sign|show``: bundles (``.cam`` files) on this machine, and what is in them."""

import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from camsdk.cli.drafts import check_writable
from camsdk.cli.moments import show_moment
from camsdk.cli.output import Output
from camsdk.cli.profile import Cloud, DataOption, JsonOption, cloud_command, is_typed
from camsdk.errors import (
    AlreadyExists,
    ArtifactRefused,
    CamError,
    InvalidInput,
    NotFound,
    ResourceExhausted,
)
from camsdk.files import write_atomic

if TYPE_CHECKING:
    from camsdk.artifact.bundle import Contents
    from camsdk.artifact.manifest import Manifest

BundleArgument = Annotated[
    Path,
    typer.Argument(exists=True, dir_okay=False, help="A bundle (.cam), signed or a draft."),
]
KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key",
        envvar="CAMCTL_SIGNING_KEY",
        metavar="PATH",
        help="Ed25519 private key (PEM). Default: keys/signing.key of the embedded cloud, "
        "the only one that its devices trust.",
    ),
]
CreateOption = Annotated[
    bool,
    typer.Option(
        "--create-key",
        help="Make the key of --key, and PATH.pub beside it, if there is none. "
        "No cloud and no device trusts it.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="PATH", help="Write here instead of over the bundle."),
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Sign it under this name instead of its own.")
]
VersionOption = Annotated[
    int | None,
    typer.Option(
        "--version",
        min=1,
        help="Sign it as this version instead of its own; the registry takes each only once.",
    ),
]
TrustOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--trust",
        metavar="PATH",
        exists=True,
        dir_okay=False,
        help="Public key (PEM) of which one must have signed; may be repeated.",
    ),
]
ModelArgument = Annotated[
    str, typer.Argument(help="A bundle (.cam), or NAME or NAME:VERSION in the registry.")
]

_WHICH_KEY = (
    "devices trust only the key of their cloud, DATA/keys/signing.key, which `camctl serve` makes: "
    "name its folder with --data DATA"
)


def register(app: typer.Typer) -> None:
    """Adds ``sign`` and ``show`` to ``camctl model``."""
    app.command("sign")(sign)
    cloud_command(app, "show")(show)


def sign(
    context: typer.Context,
    path: BundleArgument,
    key: KeyOption = None,
    data: DataOption = None,
    is_created: CreateOption = False,
    out: OutOption = None,
    name: NameOption = None,
    version: VersionOption = None,
    is_json: JsonOption = False,
) -> None:
    """Signs a bundle, in place of an earlier signature. Devices run what a trusted key signed."""
    from camsdk.artifact import bundle, keys

    if is_typed(context, "data") and not is_typed(context, "key"):
        key = None  # CAMCTL_SIGNING_KEY is for another cloud
    key_path = _key_path(key, data, is_created=is_created)
    unsigned = _renamed(_read(path), name, version)
    signed = bundle.sign(unsigned, keys.load_signing_key(key_path))
    contents = bundle.read_unverified(signed)
    _replace(out or path, signed)
    output = Output(is_json=is_json)
    if is_json:
        output.json(
            {
                "path": str(out or path),
                "reference": contents.manifest.reference,
                "digest": contents.digest,
                "signer": keys.key_id(contents.signer),
            }
        )
        return
    output.line(f"{contents.manifest.reference}  {contents.digest}")
    output.note(f"signed by {keys.key_id(contents.signer)}: {out or path}")
    output.note(f"next: camctl model push {shlex.quote(str(out or path))}")


def _renamed(data: bytes, name: str | None, version: int | None) -> bytes:
    """The bundle as a draft under another name or version; itself where neither is given.

    Raises:
        InvalidInput: The manifest cannot have them.
    """
    from pydantic import ValidationError

    from camsdk.artifact import bundle
    from camsdk.artifact.manifest import Manifest, describe

    if name is None and version is None:
        return data
    contents = bundle.read_unverified(data)
    fields = contents.manifest.model_dump()
    given = {"name": name, "version": version}
    fields |= {key: value for key, value in given.items() if value is not None}
    try:
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        raise InvalidInput(
            f"the bundle cannot be signed under that: {describe(error)}",
            "give --name and --version as in nanodet-g and 3",
        ) from error
    return bundle.pack(manifest, contents.members, None)


def show(cloud: Cloud, model: ModelArgument, trust: TrustOption = None) -> None:
    """Shows what a bundle or a release holds, and whether its signature can be trusted."""
    path = Path(model)
    # A folder may well be called like a model of the registry.
    if path.suffix == ".cam" or (path.exists() and not path.is_dir()):
        _show_file(cloud.out, path, trust or [])
        return
    if trust:
        raise InvalidInput("--trust is for a file", "give the path of a .cam file")
    _show_release(cloud, model)


def _show_file(out: Output, path: Path, trust: list[Path]) -> None:
    from camsdk.artifact import bundle, keys

    data = _read(path)
    contents = bundle.read_unverified(data)
    verdict = _verdict(data, contents, keys.load_trust_keys(trust))
    signer = keys.key_id(contents.signer) if contents.signer else ""
    if out.is_json:
        manifest = contents.manifest.model_dump(mode="json")
        facts = {"digest": contents.digest, "signer": signer, "signature": verdict}
        out.json(facts | {"size_bytes": len(data), "manifest": manifest})
    else:
        signature = f"{verdict} by {signer}" if signer else verdict
        facts = {"digest": contents.digest, "size": f"{len(data):,} bytes", "signature": signature}
        out.fields(facts | _fields(contents.manifest))
    if verdict == "refused":
        raise typer.Exit(1)


def _show_release(cloud: Cloud, reference: str) -> None:
    from camsdk.artifact.manifest import Manifest, canonical_json

    release = cloud.client.get_model(reference)
    manifest = Manifest.from_bytes(canonical_json(dict(release.manifest)))
    if cloud.out.is_json:
        cloud.out.json(release)
        return
    cloud.out.fields(
        {
            "digest": release.digest,
            "size": f"{release.size_bytes:,} bytes",
            "approved": "yes" if release.is_approved else "no",
            "pushed": show_moment(release.pushed_timestamp_s),
        }
        | _fields(manifest)
    )


def _verdict(data: bytes, contents: "Contents", trust_keys: tuple[bytes, ...]) -> str:
    """``valid``, ``refused``, or without keys to check by ``not checked`` or ``none``."""
    from camsdk.artifact import bundle

    if not trust_keys:
        return "not checked" if contents.signer else "none"
    try:
        bundle.open_bundle(data, trust_keys)
    except ArtifactRefused:
        return "refused"
    return "valid"


def _fields(manifest: "Manifest") -> dict[str, str]:
    """The manifest for people."""
    tensor, outputs, lineage = manifest.input, manifest.output, manifest.lineage
    options = ", ".join(f"{name}={value}" for name, value in sorted(lineage.options.items()))
    return {
        "model": f"{manifest.reference} ({manifest.kind}, {manifest.precision})",
        "hardware": ", ".join(manifest.hardware),
        "created": show_moment(manifest.created_timestamp_s),
        "classes": f"{len(manifest.classes)}: {', '.join(manifest.classes[:8])}"
        + (" ..." if len(manifest.classes) > 8 else ""),
        "input": f"{tensor.name}: {tensor.dtype} {tensor.shape} {tensor.layout}, {tensor.color}, "
        f"{tensor.resize}, mean {tensor.mean}, std {tensor.std}",
        "output": f"{outputs.decoder}: {', '.join(outputs.tensors)}",
        "thresholds": f"score {outputs.score_threshold:g}, NMS {outputs.nms_iou:g}, "
        f"at most {outputs.max_detections}",
        "canary": f"max error {_limits(manifest)} "
        f"in {manifest.canary.min_agreement:.2%} of the values",
        "metrics": ", ".join(f"{name} {value:g}" for name, value in manifest.metrics.items()),
        "made from": f"{lineage.source} ({lineage.source_sha256[:12]})",
        "made by": f"{lineage.tool} {lineage.tool_version} {options}".rstrip(),
        "members": ", ".join(f"{file.path} {file.size_bytes:,} B" for file in manifest.members),
    }


def _limits(manifest: "Manifest") -> str:
    canary = manifest.canary
    each = [f"{name} {limit:g}" for name, limit in canary.max_abs_errors.items()]
    return ", ".join(each) or f"{canary.max_abs_error:g}"


def _key_path(given: Path | None, data_dir: Path | None, *, is_created: bool) -> Path:
    from camsdk.client.profiles import embedded_data_dir

    path = given or (data_dir or embedded_data_dir()) / "keys" / "signing.key"
    if path.exists():
        return path
    if not is_created:
        raise NotFound(f"there is no key {path}", _WHICH_KEY)
    if given is None:
        raise InvalidInput("--create-key needs --key", "say where the new key shall be")
    _create_key(path)
    return path


def _create_key(path: Path) -> None:
    """Both halves, or neither: a private key beside another's public one would mislead."""
    from camsdk.artifact import keys

    public = path.with_name(path.name + ".pub")
    if os.path.lexists(public):  # a link that leads nowhere, too
        raise AlreadyExists(
            f"there is {public}, the public half of another key",
            "name another place with --key, or move it away",
        )
    check_writable(path, "--key")
    key = keys.generate_signing_key()
    try:
        keys.save_private_key(key, path)
        keys.save_public_key(keys.public_bytes(key), public)
    except (OSError, AlreadyExists) as error:
        _remove_halves(keys.public_bytes(key), path, public)
        if isinstance(error, AlreadyExists):  # another command made it meanwhile
            raise
        raise InvalidInput(
            f"the key {path} cannot be written: {error.strerror}", "name another place with --key"
        ) from error


def _remove_halves(made: bytes, path: Path, public: Path) -> None:
    """Those that were written, and no other's: they are known by what is in them."""
    from camsdk.artifact import keys

    with suppress(CamError, OSError):
        if keys.public_bytes(keys.load_signing_key(path)) == made:
            path.unlink()
    with suppress(CamError, OSError):
        if keys.load_trust_keys([public]) == (made,):
            public.unlink()


def _read(path: Path) -> bytes:
    from camsdk.artifact.bundle import MAX_BUNDLE_BYTES

    try:
        with path.open("rb") as file:
            data = file.read(MAX_BUNDLE_BYTES + 1)
    except OSError as error:
        raise NotFound(
            f"{path} cannot be read: {error.strerror}", "give the path of a .cam file"
        ) from error
    if len(data) > MAX_BUNDLE_BYTES:
        raise ResourceExhausted(f"{path} is larger than a bundle may be")
    return data


def _replace(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    try:
        write_atomic(path, data, mode=None)
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written: {error.strerror}", "choose another place with --out"
        ) from error
