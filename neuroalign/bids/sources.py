"""What the three sources (`fmri.source`) share: the runs they find, and how files are put together by their names.

pybids finds the files (`bids.scan`); which of them belong together is decided by their names, subject by subject, in
`bids.raw`, `bids.fmriprep` and `bids.regional`. What a run's metadata and events say is read in `bids.records`.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from neuroalign.bids.filters import listed, passes
from neuroalign.bids.metadata import Tree
from neuroalign.bids.naming import VERSION_ENTITIES, BidsName, build_name, parse_name
from neuroalign.bids.queries import read_queries
from neuroalign.bids.scan import Scope, States, find_files, scan
from neuroalign.bids.series_files import MADE
from neuroalign.config import Config
from neuroalign.errors import UserError
from neuroalign.io import read_json

logger = logging.getLogger(__name__)

# Entities that are no part of a run's identity: those that derivatives add, and versions of one acquisition.
NOT_OF_RUN = (*MADE, *VERSION_ENTITIES)
# Of the raw dataset, where the images are those of a derivative: events, and the metadata that the derivative lacks.
RAW_METADATA = Scope(("func",), ("events",), watched=("bold",))

File = tuple[Path, BidsName]


@dataclass
class FoundRun:
    """The files of one run, as paths below the configured roots.

    Attributes
    ----------
    entities : dict of str to str
        Of the raw run: short key to label, without `naming.VERSION_ENTITIES`.
    files : dict of str to Path
        `bold`, `t1w`, `mask`, `confounds`, `timeseries`: those that there are. A run that is known only by its
        sidecar has the image that the sidecar describes, though it is absent.
    problems : list of str
        What is ambiguous about its files, one sentence each.
    """

    entities: dict[str, str]
    files: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Source(ABC):
    """Where brain data come from, and how the runs of a subject are put together.

    Attributes
    ----------
    config : Config
    queries : dict of str to Query
        Of the BIDS filter file.
    root, scope : path, Scope
        The dataset that holds the brain data, and what is looked for in it.
    raw_root, raw_scope : path, Scope
        The raw dataset and what is read of it; for raw data the same.
    main : str
        The file that a run's brain data come from: ``bold`` or ``timeseries``.
    ignored, lenient : tuple of str
        Entities that a query is not asked about, and those that it is not asked about where a file lacks them:
        combined outputs bear no echo and no part.
    """

    main = "bold"
    ignored: tuple[str, ...] = ()
    lenient: tuple[str, ...] = VERSION_ENTITIES
    scope: Scope
    raw_scope: Scope = RAW_METADATA

    def __init__(self, config: Config):
        self.config = config
        self.raw_root = Path(config.dataset.bids_dir)
        check_dataset(self.raw_root)
        self.queries = {
            name: replace(query, ignored=self.ignored, lenient=self.lenient)
            for name, query in read_queries(config.dataset.filters.bids_filter_file).items()
        }
        self.root = self._root()

    @abstractmethod
    def _root(self) -> Path:
        """The dataset that holds the brain data; `UserError` if it is none."""

    def states(self) -> States:
        """The state of the files of every subject of `root`."""
        return scan(self.root, self.scope)

    def find(self, subjects: Collection[str]) -> dict[str, list[str]]:
        """What there is of some subjects, as plain text that `named` takes."""
        return find_files(self.root, subjects, self.scope)

    def named(self, found: Iterable[str]) -> list[File]:
        """What was found, by path and name."""
        return parsed(self.root, found)

    @abstractmethod
    def choose(self, files: list[File]) -> dict[str, Any]:
        """What all subjects decide together (such as the only atlas that there is), as plain values.

        Raises
        ------
        UserError
            If there is nothing of the kind that the configuration asks for.
        """

    @abstractmethod
    def runs(self, files: list[File], choice: Mapping[str, Any], raw: Tree) -> list[FoundRun]:
        """The runs of one subject, from its files."""

    def tell_left_out(self, there: Iterable[File], used: Iterable[File], where: str) -> None:
        """Warn of runs that have files, but none that can be used.

        Parameters
        ----------
        there, used : iterable of (Path, BidsName)
            All files that stand for a run, and those in the form that the configuration asks for.
        where : str
            That form, for the sentence.
        """
        of_run = (*NOT_OF_RUN, "rec")
        kept = grouped(used, of_run)
        subjects = {files[0][1].entities["sub"] for files in kept.values()}
        lost: dict[str, None] = {}
        for key, files in grouped(there, of_run).items():
            entities = entities_without(files[0][1], of_run)
            if key not in kept and passes(entities, self.config.dataset.filters):
                whole = entities["sub"] not in subjects
                lost[f"sub-{entities['sub']}" if whole else build_name(entities)] = None
        if lost:
            logger.warning(
                "left out, because nothing of them is %s: %s", where, listed(sorted(lost, key=natural))
            )

    def misnamed(self, files: Iterable[File]) -> list[str]:
        """A sentence for every file that would be used if its suffix or extension were not in other letters."""
        problems = []
        for path, name in files:
            suffix = next((s for s in self.scope.suffixes if s.lower() == name.suffix.lower()), name.suffix)
            right = f"{suffix}{name.extension.lower()}"
            if right != f"{name.suffix}{name.extension}":
                problems.append(
                    f"{path} is not named as BIDS has it, so it is not used: let its name end in '_{right}'."
                )
        return problems


def check_dataset(bids_dir: Path) -> None:
    """Check that a folder is the root of a BIDS dataset.

    Raises
    ------
    UserError
        If it does not exist, is empty, or has no valid ``dataset_description.json``.
    """
    if not bids_dir.is_dir():
        what = "is not a folder" if bids_dir.exists() else "does not exist"
        raise UserError(
            f"The BIDS folder {bids_dir} {what}; set dataset.bids_dir to the root of the dataset."
        )
    if not any(bids_dir.iterdir()):
        raise UserError(
            f"The BIDS folder {bids_dir} is empty; set dataset.bids_dir to the root of the dataset."
        )
    description = bids_dir / "dataset_description.json"
    if not description.exists():
        inner = sorted(p.parent.name for p in bids_dir.glob("*/dataset_description.json"))
        hint = f"; did you mean {bids_dir / inner[0]}?" if len(inner) == 1 else ""
        raise UserError(
            f"{bids_dir} has no dataset_description.json, so it is not the root of a BIDS dataset: "
            f"set dataset.bids_dir to the root, or add the file{hint}"
        )
    if not isinstance(read_json(description), dict):
        raise UserError(
            f'{description} must hold a JSON object such as {{"Name": "…", "BIDSVersion": "1.10.0"}}.'
        )


def derivatives_root(config: Config) -> Path:
    """The root of the outputs of another pipeline.

    Raises
    ------
    UserError
        If it does not exist or has no subjects; names the folder that was probably meant.
    """
    root = Path(str(config.dataset.derivatives))
    if not root.is_dir():
        raise UserError(
            f"The derivatives folder {root} does not exist; set dataset.derivatives to the outputs' root."
        )
    if not any(root.glob("sub-*")) and not any(root.glob("*.h5")):
        raise UserError(
            f"{root} has no sub-* folders; set dataset.derivatives to the root of the outputs{nested(root)}"
        )
    return root


def nested(root: Path) -> str:
    """A hint naming the folders with subjects just below a root, or below its ``derivatives``."""
    inner = sorted(
        p
        for parent in (root, root / "derivatives")
        if parent.is_dir()
        for p in parent.iterdir()
        if p.is_dir() and not p.name.startswith("sub-") and any(p.glob("sub-*/"))
    )
    return f"; did you mean {listed(str(p) for p in inner)}?" if inner else ""


def parsed(root: Path, names: Iterable[str]) -> list[File]:
    """Files by path and name; what bears no BIDS name is left out."""
    files = []
    for relative in names:
        try:
            name = parse_name(relative)
        except ValueError:
            continue
        if "sub" in name.entities:
            files.append((root / relative, name))
    return files


def natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key in which ``run-2`` comes before ``run-10``."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in re.split(r"(\d+)", text)
        if part != ""
    ]


def grouped(files: Iterable[File], without: tuple[str, ...]) -> dict[frozenset, list[File]]:
    """Files by run: equal entities, but for those that are no part of a run's identity."""
    groups = defaultdict(list)
    for path, name in files:
        key = frozenset((k, v) for k, v in name.key() if k not in without)
        groups[key].append((path, name))
    return groups


def entities_without(name: BidsName, without: tuple[str, ...]) -> dict[str, str]:
    """The entities of a name but for some."""
    return {k: v for k, v in name.entities.items() if k not in without}


def reconstruction_rank(name: BidsName) -> tuple:
    """Of several reconstructions of one acquisition: the one without a label first, then by label."""
    label = name.entities.get("rec", "")
    return (bool(label), label)


def prefer(files: list[File], rank: Callable[[BidsName], tuple], what: str, problems: list[str]) -> File:
    """The best-ranked file; a tie is a problem, and the first by name is taken."""
    ranked = sorted(files, key=lambda item: (rank(item[1]), item[0].name))
    best = ranked[0]
    ties = [path for path, name in ranked if rank(name) == rank(best[1])]
    if len(ties) > 1:
        problems.append(
            f"{' and '.join(str(p) for p in ties)} are the {what} of one run: keep one of them, or choose with "
            "dataset.filters.bids_filter_file."
        )
    elif len(ranked) > 1:
        logger.info("of %d versions %s is taken as the %s", len(ranked), best[0], what)
    return best


def known_by_sidecar(images: list[File], files: list[File]) -> list[File]:
    """Images that are absent though their own sidecar is there (a download without the large files).

    A sidecar with fewer entities than another file beside it is inherited by that file: no image of its own.
    """
    present = {(path.parent, name.key()) for path, name in images}
    alone = [(p, n) for p, n in files if n.extension == ".json" and (p.parent, n.key()) not in present]
    if not alone:
        return []
    beside = defaultdict(list)
    for path, name in files:
        beside[path.parent].append(name.key())
    absent = []
    for path, name in alone:
        if any(name.key() < other for other in beside[path.parent]):
            continue
        image = path.with_name(path.name.removesuffix(".json") + ".nii.gz")
        absent.append((image, BidsName(name.entities, name.suffix, ".nii.gz")))
    return absent
