"""Finding the files that a user brings, one per stimulus: features of films, and captions."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuroalign.errors import MOST_SENTENCES, UserError, nearest


@dataclass(frozen=True)
class StimulusFiles:
    """A kind of file that a user brings.

    Attributes
    ----------
    what : str
        What they hold, in the plural: ``features``.
    endings : tuple of str
        Their names are ``<stimulus>`` and one of these, in any case; the first that is there is used.
    key : str
        The configuration key that names their folder.
    """

    what: str
    endings: tuple[str, ...]
    key: str

    def find(self, folder: str | os.PathLike, stimulus: str, stimuli: Collection[str] = ()) -> Path:
        """The file of a stimulus.

        Parameters
        ----------
        folder : path
        stimulus : str
        stimuli : collection of str, optional
            All stimuli: files of others are not what was meant.

        Raises
        ------
        UserError
            If the folder is none, or has no file of that name (the nearest name is told), or only a dangling link or a folder.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(
                f"{self.key} {folder} is not a folder; set it to where the {self.what.removesuffix('s')} files are."
            )
        for path in self._candidates(folder, stimulus):
            if path.is_dir():
                raise UserError(f"{path} is a folder; put a file of that name in its place.")
            if path.exists():
                return path
            if path.is_symlink():
                raise UserError(
                    f"{path} is a link to {os.readlink(path)}, which is not there; fetch the file."
                )
        names = self.strays(folder, stimuli)
        hint = nearest(stimulus, names) or (
            f"; found {', '.join(names[:5])}." if names else f"; it holds no other {self.endings[0]} file."
        )
        raise UserError(f"{folder} has no {self.what} '{stimulus}{self.endings[0]}' for that stimulus{hint}")

    def is_absent(self, folder: str | os.PathLike, stimulus: str) -> bool:
        """Whether not even a link has the name of a stimulus."""
        return not any(map(os.path.lexists, self._candidates(Path(folder), stimulus)))

    def strays(self, folder: str | os.PathLike, stimuli: Collection[str]) -> list[str]:
        """Names, without ending, of the files in a folder that are of none of the stimuli."""
        names = {p.stem for p in Path(folder).iterdir() if p.suffix.lower() in self.endings}
        return sorted(names - set(stimuli))

    def _candidates(self, folder: Path, stimulus: str) -> list[Path]:
        usual = [folder / f"{stimulus}{ending}" for ending in self.endings]
        if any(map(os.path.lexists, usual)) or not folder.is_dir():
            return usual
        order = self.endings.index
        other = (p for p in folder.iterdir() if p.stem == stimulus and p.suffix.lower() in self.endings)
        return sorted(other, key=lambda path: (order(path.suffix.lower()), path.name))


def find_all(
    kind: StimulusFiles,
    find: Callable[[str | os.PathLike | None, str, Collection[str]], Path],
    folder: str | os.PathLike | None,
    stimuli: Sequence[str],
) -> tuple[dict[str, Path], list[str]]:
    """The files of many stimuli, and what keeps others from being used.

    Parameters
    ----------
    kind : StimulusFiles
    find : callable
        Gives the checked file of a stimulus, given folder, stimulus and all stimuli, or raises a `UserError`.
    folder : path or None
    stimuli : sequence of str
        Stimulus ids.

    Returns
    -------
    files : dict of str to Path
        By stimulus, in their order.
    problems : list of str
        What `find` says of the others; of many absent files in one sentence.
    """
    files: dict[str, Path] = {}
    problems: dict[str, str] = {}
    for stimulus in stimuli:
        try:
            files[stimulus] = find(folder, stimulus, stimuli)
        except UserError as error:
            # Without the folder all of them share a sentence already.
            problems.setdefault(str(error), stimulus)
    absent = [s for s in problems.values() if kind.is_absent(folder or "", s)]
    if len(absent) <= MOST_SENTENCES:
        return files, list(problems)
    others = [sentence for sentence, stimulus in problems.items() if stimulus not in absent]
    names = ", ".join(f"{stimulus}{kind.endings[0]}" for stimulus in absent[:3])
    return files, [
        f"{len(absent)} of {len(stimuli)} stimuli have no {kind.what} in {folder}, among them {names}; put their files "
        f"there, or set {kind.key} to where they are.",
        *others,
    ]
