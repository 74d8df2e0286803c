"""Fetching files from the Hugging Face hub, and what can go wrong on the way as sentences."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neuroalign.errors import UserError
from neuroalign.video.weights import TENSOR_FILES, Request, lacking, needed
from neuroalign.video.weights_record import describe_files

logger = logging.getLogger(__name__)

_PARTIAL = ".partial"


def download(request: Request, folder: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """Fetch the needed files of a repository into a folder; nothing that was in it before stays.

    Parameters
    ----------
    request : Request
    folder : path

    Returns
    -------
    commit : str
        That the revision stood for.
    files : dict of str to dict
        Size and SHA-256 of each file.

    Raises
    ------
    UserError
        If they cannot be had.
    """
    from huggingface_hub import HfApi, hf_hub_download

    partial = folder / _PARTIAL
    with _sentences(request, folder):
        info = HfApi().model_info(request.weights, revision=request.revision, files_metadata=True)
        remote = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        names = needed(remote, request.patterns)
        _check_listing(request, names, remote)
        _check_space(request, folder, sum(remote[n].size or 0 for n in names))
        logger.info("fetching %s at %s: %s", request.weights, info.sha, ", ".join(names))
        for name in names:
            hf_hub_download(request.weights, name, revision=info.sha, local_dir=partial)
        files = describe_files(partial, names)
        for name in names:
            lfs = remote[name].lfs
            if lfs is not None and files[name]["sha256"] != lfs.sha256:
                (partial / name).unlink()
                raise UserError(
                    f"{name} of {request.weights} arrived damaged (its SHA-256 is not the hub's); fetch it again."
                )
        _put_in_place(partial, folder, names)
    return info.sha, files


def _check_listing(request: Request, names: list[str], remote: dict) -> None:
    """Refuse a repository without what is needed before anything is fetched."""
    at = f" at revision {request.revision}" if request.revision else ""
    without = lacking(names, request.patterns)
    if TENSOR_FILES[0] in without:
        others = sorted(
            n for n in remote if n.endswith((".bin", ".pt", ".pth", ".msgpack", ".h5")) and "/" not in n
        )
        has = f" (it has {', '.join(others[:3])}, which may run code when loaded)" if others else ""
        raise UserError(
            f"{request.weights}{at} has no {TENSOR_FILES[0]}{has}; set {request.key} to weights in that format, or the "
            "revision to one that has them (the hub converts many: its tab 'Community' names them, as refs/pr/<n>)."
        )
    if without:
        raise UserError(
            f"{request.weights}{at} has no {without[0]}; set {request.key} to a model that transformers can load."
        )


def _check_space(request: Request, folder: Path, size: int) -> None:
    """Refuse to begin what cannot end."""
    partial = folder / _PARTIAL
    here = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if size > free + here:
        raise UserError(
            f"{request.weights} needs {size / 1e9:.1f} GB but {free / 1e9:.1f} GB are free in {folder}; make room, or "
            "set output_dir to another disk."
        )


def _put_in_place(partial: Path, folder: Path, names: list[str]) -> None:
    """Move what was fetched to its final place; nothing of earlier weights stays beside it."""
    for path in sorted(folder.iterdir(), key=lambda p: p.suffix != ".json"):
        # Records first: a folder that is being filled must not look whole.
        if path.name != _PARTIAL:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial / name, folder / name)
    shutil.rmtree(partial)


@contextmanager
def _sentences(request: Request, folder: Path) -> Iterator[None]:
    """What can go wrong on the way to the hub, as sentences."""
    from huggingface_hub import errors as hub

    what = f"the weights {request.weights} ({request.key})"
    try:
        yield
    except hub.GatedRepoError as error:
        raise UserError(
            f"{what} are gated: accept their terms on the hub with your account, then log in here (`hf auth login`, or "
            "HF_TOKEN) and fetch them again."
        ) from error
    except hub.RevisionNotFoundError as error:
        revision_key = request.key.removesuffix("weights") + "revision"
        raise UserError(
            f"{what} have no revision '{request.revision}'; set {revision_key} to a branch, tag or commit that the hub "
            "lists, or to null."
        ) from error
    except hub.HFValidationError as error:
        raise UserError(
            f"{request.key} '{request.weights}' is neither a folder nor a hub id (owner/name); correct it."
        ) from error
    except hub.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", "an error")
        # Strangers are told the same of what is private as of what is not there.
        if isinstance(error, hub.RepositoryNotFoundError) or status in (401, 403):
            raise UserError(
                f"{what} are not on the hub, or private: correct the id, log in (`hf auth login`, or HF_TOKEN), or "
                "name a local folder."
            ) from error
        raise UserError(
            f"{what} could not be fetched: the hub answered with {status}; try again later, or name a local folder."
        ) from error
    except (
        hub.OfflineModeIsEnabled,
        hub.LocalEntryNotFoundError,
        hub.FileMetadataError,
        hub.HTTPError,
        ConnectionError,
        TimeoutError,
    ) as e:
        offline = " (HF_HUB_OFFLINE is set)" if isinstance(e, hub.OfflineModeIsEnabled) else ""
        raise UserError(
            f"{what} could not be fetched: this machine does not reach the hub{offline}; run `neuroalign weights "
            f"--config FILE` where there is internet and this disk (a login node), or name a local folder."
        ) from e
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"the disk of {folder} is full: {what} did not fit; make room and fetch them again: files that are here "
            "already are kept."
        ) from error
