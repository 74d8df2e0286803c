"""Ready-made tables of brain levels for published atlases, by name in ``fmri.levels``; docs/atlases.md shows them.

A level is a regular expression on region labels. Each table below names the areas of one published atlas, the level
of each, those left out, and the papers; `LevelTable.patterns` turns that into expressions that match the spellings
in which the atlas is distributed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from neuroalign.errors import nearest

EARLY, INTERMEDIATE, HIGH = "early", "intermediate", "high"

# What stands before or after an area's name: hemispheres, the word ROI, the atlas.
_AROUND = (
    r"(?i:l|r|lh|rh|left|right|hemi|ctx|roi|area|label|hcp|mmp1?|hcp-?mmp1?|glasser|"
    r"wang(?:20)?15(?:atlas)?|benson(?:20)?14)"
)
_GAP = r"[\s_.:/-]+"


def whole_label(areas: Iterable[str]) -> str:
    """A pattern for labels that are an area's name, with hemisphere and the like around it (``L_V1_ROI``, ``lh.V1``).

    Areas are regular expressions; a ``-`` in a name also matches ``_``, by which some tools replace it.
    """
    names = "|".join(area.replace("-", "[-_]") for area in areas)
    return rf"^(?:{_AROUND}{_GAP})*(?:{names})(?:{_GAP}{_AROUND})*$"


def word_in_label(areas: Iterable[str]) -> str:
    """A pattern for labels that hold an area's name as a word among others (``Area hOc1 (V1, 17, CalcS) left``)."""
    names = "|".join(area.replace(" ", r"[\s_]+") for area in areas)
    return rf"(?<![A-Za-z0-9])(?:{names})(?![A-Za-z0-9])"


def network(names: Iterable[str]) -> str:
    """A pattern for Schaefer labels, whose names hold the network (``7Networks_LH_Vis_1``, ``LH_Vis_1``)."""
    return rf"(^|_)({'|'.join(names)})_"


@dataclass(frozen=True)
class LevelTable:
    """The levels of one atlas.

    Attributes
    ----------
    levels : mapping of str to tuple of str
        Level → areas (regular expressions, for areas with several spellings), in the order of the visual hierarchy.
    unused : tuple of str
        Areas of the atlas that belong to no level.
    why : str
        How the levels were drawn.
    references : tuple of str
    spelled : callable
        Makes the pattern of several areas.
    """

    levels: Mapping[str, tuple[str, ...]]
    why: str
    references: tuple[str, ...]
    unused: tuple[str, ...] = ()
    spelled: Callable[[Iterable[str]], str] = field(default=whole_label)

    def patterns(self) -> dict[str, str]:
        """Level → regular expression on labels, as ``fmri.levels`` takes it."""
        return {level: self.spelled(areas) for level, areas in self.levels.items()}


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_SCHAEFER_WHY = (
    "Sensory cortex (visual, somatomotor), attention networks, association cortex: the networks of Yeo et al. (2011) in "
    "the order of the principal gradient."
)
_SCHAEFER_PAPERS = (
    "Schaefer et al. 2018, Cerebral Cortex 28:3095, doi:10.1093/cercor/bhx179",
    "Yeo et al. 2011, Journal of Neurophysiology 106:1125, doi:10.1152/jn.00338.2011",
)

SCHAEFER = LevelTable(
    levels={
        EARLY: ("Vis", "SomMot"),
        INTERMEDIATE: ("DorsAttn", "SalVentAttn"),
        HIGH: ("Limbic", "Cont", "Default"),
    },
    why=_SCHAEFER_WHY,
    references=_SCHAEFER_PAPERS,
    spelled=network,
)

SCHAEFER17 = LevelTable(
    levels={
        EARLY: _words("VisCent VisPeri SomMotA SomMotB"),
        INTERMEDIATE: _words("DorsAttnA DorsAttnB SalVentAttnA SalVentAttnB"),
        HIGH: _words("LimbicA LimbicB ContA ContB ContC DefaultA DefaultB DefaultC TempPar"),
    },
    why=_SCHAEFER_WHY,
    references=_SCHAEFER_PAPERS,
    spelled=network,
)

# The 22 sections of the supplementary neuroanatomical results of Glasser et al. (2016).
GLASSER_SECTIONS: dict[str, tuple[str, ...]] = {
    "primary visual": _words("V1"),
    "early visual": _words("V2 V3 V4"),
    "dorsal stream visual": _words("V3A V3B V6 V6A V7 IPS1"),
    "ventral stream visual": _words("V8 VVC PIT FFC VMV1 VMV2 VMV3"),
    "MT+ complex and neighbours": _words("V3CD LO1 LO2 LO3 V4t FST MT MST PH"),
    "somatosensory and motor": _words("4 3a 3b 1 2"),
    "paracentral lobular and mid cingulate": _words("24dd 24dv 6mp 6ma SCEF 5m 5L 5mv"),
    "premotor": _words("55b 6d 6a FEF 6v 6r PEF"),
    "posterior opercular": _words("43 FOP1 OP4 OP1 OP2-3 PFcm"),
    "early auditory": _words("A1 LBelt MBelt PBelt RI"),
    "auditory association": _words("A4 A5 STSdp STSda STSvp STSva STGa TA2"),
    "insular and frontal opercular": _words("52 PI Ig PoI1 PoI2 FOP2 FOP3 MI AVI AAIC Pir FOP4 FOP5"),
    "medial temporal": _words("H PreS EC PeEc PHA1 PHA2 PHA3"),
    "lateral temporal": _words("PHT TE1p TE1m TE1a TE2p TE2a TGv TGd TF"),
    "temporo-parieto-occipital junction": _words("TPOJ1 TPOJ2 TPOJ3 STV PSL"),
    "superior parietal": _words("LIPv LIPd VIP AIP MIP 7PC 7AL 7Am 7P[Ll] 7Pm"),
    "inferior parietal": _words("PGp PGs PGi PFm PF PFt PFop IP0 IP1 IP2"),
    "posterior cingulate": _words("DVT ProS POS1 POS2 RSC v23ab d23ab 31pv 31pd 31a 23d 23c PCV 7m"),
    "anterior cingulate and medial prefrontal": _words(
        "33pr p24pr a24pr p24 a24 p32pr a32pr d32 p32 s32 8BM 9m 10v 10r 25"
    ),
    "orbital and polar frontal": _words("47s 47m a47r 11l 13l a10p p10p 10pp 10d OFC pOFC"),
    "inferior frontal": _words("44 45 IFJp IFJa IFSp IFSa 47l p47r"),
    "dorsolateral prefrontal": _words("8C 8Av i6-8 s6-8 SFL 8BL 9p 9a 8Ad p9-46v a9-46v 46 9-46d"),
}


def _sections(*names: str) -> tuple[str, ...]:
    return tuple(area for name in names for area in GLASSER_SECTIONS[name])


GLASSER = LevelTable(
    levels={
        EARLY: _sections("primary visual", "early visual"),
        INTERMEDIATE: _sections(
            "dorsal stream visual", "ventral stream visual", "MT+ complex and neighbours"
        ),
        HIGH: _sections(
            "medial temporal",
            "lateral temporal",
            "temporo-parieto-occipital junction",
            "superior parietal",
            "inferior parietal",
            "posterior cingulate",
            "anterior cingulate and medial prefrontal",
            "orbital and polar frontal",
            "inferior frontal",
            "dorsolateral prefrontal",
        ),
    },
    unused=_sections(
        "somatosensory and motor",
        "paracentral lobular and mid cingulate",
        "premotor",
        "posterior opercular",
        "early auditory",
        "auditory association",
        "insular and frontal opercular",
    ),
    why="Whole sections of the paper's supplement: V1 to V4, the three visual streams beyond, and association cortex; "
    "motor, somatosensory, auditory and insular sections are left out.",
    references=("Glasser et al. 2016, Nature 536:171, doi:10.1038/nature18933",),
)

_VISUAL_WHY = (
    "Within visual cortex, by distance from V1: V1 to V3, the maps next to them, and those beyond. Levels are relative to "
    "the atlas: VO and TO are `high` here and belong to `intermediate` areas of the Glasser table."
)

WANG2015 = LevelTable(
    levels={
        EARLY: _words("V1v V1d V2v V2d V3v V3d"),
        INTERMEDIATE: _words("hV4 LO1 LO2 V3[aA] V3[bB]"),
        HIGH: _words("VO1 VO2 PHC1 PHC2 (?:TO1|hMT) (?:TO2|MST) IPS0 IPS1 IPS2 IPS3 IPS4 IPS5 SPL1 h?FEF"),
    },
    why=_VISUAL_WHY,
    references=("Wang et al. 2015, Cerebral Cortex 25:3911, doi:10.1093/cercor/bhu277",),
)

BENSON2014 = LevelTable(
    levels={
        EARLY: _words("V1 V2 V3"),
        INTERMEDIATE: _words("hV4 LO1 LO2 V3[aA] V3[bB]"),
        HIGH: _words("VO1 VO2 TO1 TO2"),
    },
    why=_VISUAL_WHY,
    references=(
        "Benson et al. 2014, PLoS Computational Biology 10:e1003538, doi:10.1371/journal.pcbi.1003538",
        "Benson & Winawer 2018, eLife 7:e40224, doi:10.7554/eLife.40224",
    ),
)

JUELICH = LevelTable(
    levels={
        EARLY: (
            "hOc1",
            "hOc2",
            "hOc3d",
            "hOc3v",
            "Visual cortex V1",
            "Visual cortex V2",
            "Visual cortex V3V",
        ),
        INTERMEDIATE: (
            *_words("hOc4d hOc4v hOc4la hOc4lp hOc5 hOc6 FG1 FG2"),
            "Visual cortex V4",
            "Visual cortex V5",
        ),
        HIGH: _words(
            "FG3 FG4 CoS1 Ph1 Ph2 Ph3 hPO1 hIP1 hIP2 hIP3 hIP4 hIP5 hIP6 hIP7 hIP8 "
            "PF PFcm PFm PFop PFt P[Gg]a PGp 5Ci 5L 5M 7A 7M 7P 7PC"
        ),
    },
    unused=(
        # Of the maps that FSL and nilearn distribute (Eickhoff et al. 2005)
        "Amygdala_centromedial group",
        "Amygdala_laterobasal group",
        "Amygdala_superficial group",
        "Broca's area BA44",
        "Broca's area BA45",
        "Hippocampus cornu ammonis",
        "Hippocampus entorhinal cortex",
        "Hippocampus dentate gyrus",
        "Hippocampus hippocampal-amygdaloid transition area",
        "Hippocampus subiculum",
        "Primary auditory cortex TE1.0",
        "Primary auditory cortex TE1.1",
        "Primary auditory cortex TE1.2",
        "Primary motor cortex BA4a",
        "Primary motor cortex BA4p",
        "Primary somatosensory cortex BA1",
        "Primary somatosensory cortex BA2",
        "Primary somatosensory cortex BA3a",
        "Primary somatosensory cortex BA3b",
        "Secondary somatosensory cortex / Parietal operculum OP1",
        "Secondary somatosensory cortex / Parietal operculum OP2",
        "Secondary somatosensory cortex / Parietal operculum OP3",
        "Secondary somatosensory cortex / Parietal operculum OP4",
        "Premotor cortex BA6",
        "Acoustic radiation",
        "Callosal body",
        "Cingulum",
        "Corticospinal tract",
        "Fornix",
        "Inferior occipito-frontal fascicle",
        "Lateral geniculate body",
        "Mamillary body",
        "Medial geniculate body",
        "Optic radiation",
        "Superior longitudinal fascicle",
        "Superior occipito-frontal fascicle",
        "Uncinate fascicle",
        "Insula Id1",
        "Insula Ig1",
        "Insula Ig2",
        # Of Julich-Brain 1.18 (Amunts et al. 2020)
        *(
            f"Area {v}"
            for v in _words("1 2 3a 3b 4a 4p 6d1 6d2 6d3 6ma 6mp 44 45 25 33 p24ab p24c p32 s24 s32")
        ),
        *(f"Area {v}" for v in _words("Fo1 Fo2 Fo3 Fp1 Fp2 Id1 Id7 Ig1 Ig2 OP1 OP2 OP3 OP4 OP8 OP9")),
        "Area TE 1.0",
        "Area TE 1.1",
        "Area TE 1.2",
        "Area TE 3",
        "CA",
        "DG",
        "HATA",
        "Subiculum",
        "Entorhinal Cortex",
        "CM",
        "IF",
        "LB",
        "MF",
        "SF",
        "VTM",
        "Ch 4",
        "Ch 123",
        "Dorsal Dentate Nucleus",
        "Ventral Dentate Nucleus",
        "Fastigial Nucleus",
        "Interposed Nucleus",
    ),
    why="hOc1 to hOc3; the other occipital areas with the posterior fusiform gyrus; parietal cortex, mid-fusiform and "
    "parahippocampal areas. Everything that is neither visual nor parietal is left out.",
    references=(
        "Amunts et al. 2020, Science 369:988, doi:10.1126/science.abb4588",
        "Eickhoff et al. 2005, NeuroImage 25:1325, doi:10.1016/j.neuroimage.2004.12.034",
    ),
    spelled=word_in_label,
)

TABLES: dict[str, LevelTable] = {
    "schaefer": SCHAEFER,
    "schaefer17": SCHAEFER17,
    "glasser": GLASSER,
    "wang2015": WANG2015,
    "benson2014": BENSON2014,
    "juelich": JUELICH,
}


def resolve_levels(levels: object) -> object:
    """The mapping of a table's name; anything else as it is.

    Raises
    ------
    ValueError
        If it is a name, and of no table.
    """
    if not isinstance(levels, str):
        return levels
    if levels not in TABLES:
        raise ValueError(
            f"no table of levels is called '{levels}'; use one of {', '.join(TABLES)}, or a mapping of level to "
            f"pattern{nearest(levels, TABLES)}"
        )
    return TABLES[levels].patterns()


def unlisted(labels: Iterable[str], levels: Mapping[str, str]) -> tuple[str, list[str]]:
    """Labels of an atlas that the table in use does not know: in none of its levels, and not among its `unused`.

    Parameters
    ----------
    labels : iterable of str
    levels : mapping of str to str
        Level → pattern, of a table or one's own.

    Returns
    -------
    table : str
        Name of the table whose mapping `levels` is; empty if it is none.
    labels : list of str
        Empty without a table.
    """
    name = next((name for name, table in TABLES.items() if table.patterns() == dict(levels)), "")
    if not name:
        return "", []
    table = TABLES[name]
    known = [*levels.values(), *([table.spelled(table.unused)] if table.unused else [])]
    return name, [label for label in labels if not any(re.search(pattern, label) for pattern in known)]


def check_patterns(levels: Mapping[str, str]) -> None:
    """Check the names and patterns of levels.

    Raises
    ------
    ValueError
        If there is none, a name holds other characters than letters, digits and ``-``, or a pattern is no regular
        expression.
    """
    if not levels:
        raise ValueError("name at least one level")
    for level, pattern in levels.items():
        if not re.fullmatch(r"[A-Za-z0-9-]+", level):
            raise ValueError(f"level name '{level}' may hold letters, digits and '-' only")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"the pattern of level '{level}' is no regular expression: {error}") from error
