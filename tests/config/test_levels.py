"""Tables of levels: every area of each published list has one level or is named as unused; real spellings match."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from neuroalign.config.fmri import Fmri
from neuroalign.config.levels import GLASSER_SECTIONS, TABLES, unlisted


def level_of(table: str, label: str) -> str | None:
    """The one level of a label, or None."""
    found = [level for level, pattern in TABLES[table].patterns().items() if re.search(pattern, label)]
    assert len(found) <= 1, (label, found)
    return found[0] if found else None


@pytest.mark.parametrize("name", TABLES)
def test_a_name_is_resolved_to_its_mapping(name):
    fmri = Fmri(levels=name)
    assert fmri.levels == TABLES[name].patterns()
    assert list(fmri.levels) == ["early", "intermediate", "high"]
    assert Fmri(**fmri.model_dump()) == fmri
    assert all("doi:10." in paper for paper in TABLES[name].references)


def test_the_default_is_the_schaefer_table():
    assert Fmri().levels == TABLES["schaefer"].patterns()
    assert Fmri().levels["early"] == r"(^|_)(Vis|SomMot)_"


def test_unknown_tables_and_bad_patterns_are_refused():
    with pytest.raises(ValidationError, match="did you mean 'glasser'"):
        Fmri(levels="glaser")
    with pytest.raises(ValidationError, match="no regular expression"):
        Fmri(levels={"early": "("})
    with pytest.raises(ValidationError, match="at least one level"):
        Fmri(levels={})


# --- the published lists, written out here again -----------------------------------------------------------------

HCP_MMP1 = [
    "V1",
    "MST",
    "V6",
    "V2",
    "V3",
    "V4",
    "V8",
    "4",
    "3b",
    "FEF",
    "PEF",
    "55b",
    "V3A",
    "RSC",
    "POS2",
    "V7",
    "IPS1",
    "FFC",
    "V3B",
    "LO1",
    "LO2",
    "PIT",
    "MT",
    "A1",
    "PSL",
    "SFL",
    "PCV",
    "STV",
    "7Pm",
    "7m",
    "POS1",
    "23d",
    "v23ab",
    "d23ab",
    "31pv",
    "5m",
    "5mv",
    "23c",
    "5L",
    "24dd",
    "24dv",
    "7AL",
    "SCEF",
    "6ma",
    "7Am",
    "7PL",
    "7PC",
    "LIPv",
    "VIP",
    "MIP",
    "1",
    "2",
    "3a",
    "6d",
    "6mp",
    "6v",
    "p24pr",
    "33pr",
    "a24pr",
    "p32pr",
    "a24",
    "d32",
    "8BM",
    "p32",
    "10r",
    "47m",
    "8Av",
    "8Ad",
    "9m",
    "8BL",
    "9p",
    "10d",
    "8C",
    "44",
    "45",
    "47l",
    "a47r",
    "6r",
    "IFJa",
    "IFJp",
    "IFSp",
    "IFSa",
    "p9-46v",
    "46",
    "a9-46v",
    "9-46d",
    "9a",
    "10v",
    "a10p",
    "10pp",
    "11l",
    "13l",
    "OFC",
    "47s",
    "LIPd",
    "6a",
    "i6-8",
    "s6-8",
    "43",
    "OP4",
    "OP1",
    "OP2-3",
    "52",
    "RI",
    "PFcm",
    "PoI2",
    "TA2",
    "FOP4",
    "MI",
    "Pir",
    "AVI",
    "AAIC",
    "FOP1",
    "FOP3",
    "FOP2",
    "PFt",
    "AIP",
    "EC",
    "PreS",
    "H",
    "ProS",
    "PeEc",
    "STGa",
    "PBelt",
    "A5",
    "PHA1",
    "PHA3",
    "STSda",
    "STSdp",
    "STSvp",
    "TGd",
    "TE1a",
    "TE1p",
    "TE2a",
    "TF",
    "TE2p",
    "PHT",
    "PH",
    "TPOJ1",
    "TPOJ2",
    "TPOJ3",
    "DVT",
    "PGp",
    "IP2",
    "IP1",
    "IP0",
    "PFop",
    "PF",
    "PFm",
    "PGi",
    "PGs",
    "V6A",
    "VMV1",
    "VMV3",
    "PHA2",
    "V4t",
    "FST",
    "V3CD",
    "LO3",
    "VMV2",
    "31pd",
    "31a",
    "VVC",
    "25",
    "s32",
    "pOFC",
    "PoI1",
    "Ig",
    "FOP5",
    "p10p",
    "p47r",
    "TGv",
    "MBelt",
    "LBelt",
    "A4",
    "STSva",
    "TE1m",
    "PI",
    "a32pr",
    "p24",
]

WANG = [
    "V1v",
    "V1d",
    "V2v",
    "V2d",
    "V3v",
    "V3d",
    "hV4",
    "VO1",
    "VO2",
    "PHC1",
    "PHC2",
    "TO2",
    "TO1",
    "LO2",
    "LO1",
    "V3B",
    "V3A",
    "IPS0",
    "IPS1",
    "IPS2",
    "IPS3",
    "IPS4",
    "IPS5",
    "SPL1",
    "FEF",
]

BENSON = ["V1", "V2", "V3", "hV4", "VO1", "VO2", "LO1", "LO2", "TO1", "TO2", "V3b", "V3a"]

FSL_JUELICH = """Anterior intra-parietal sulcus hIP1|Anterior intra-parietal sulcus hIP2|Anterior intra-parietal sulcus hIP3|
Amygdala_centromedial group|Amygdala_laterobasal group|Amygdala_superficial group|Broca's area BA44|Broca's area BA45|
Hippocampus cornu ammonis|Hippocampus entorhinal cortex|Hippocampus dentate gyrus|
Hippocampus hippocampal-amygdaloid transition area|Hippocampus subiculum|Inferior parietal lobule PF|
Inferior parietal lobule PFcm|Inferior parietal lobule PFm|Inferior parietal lobule PFop|Inferior parietal lobule PFt|
Inferior parietal lobule Pga|Inferior parietal lobule PGp|Primary auditory cortex TE1.0|Primary auditory cortex TE1.1|
Primary auditory cortex TE1.2|Primary motor cortex BA4a|Primary motor cortex BA4p|Primary somatosensory cortex BA1|
Primary somatosensory cortex BA2|Primary somatosensory cortex BA3a|Primary somatosensory cortex BA3b|
Secondary somatosensory cortex / Parietal operculum OP1|Secondary somatosensory cortex / Parietal operculum OP2|
Secondary somatosensory cortex / Parietal operculum OP3|Secondary somatosensory cortex / Parietal operculum OP4|
Superior parietal lobule 5Ci|Superior parietal lobule 5L|Superior parietal lobule 5M|Superior parietal lobule 7A|
Superior parietal lobule 7M|Superior parietal lobule 7P|Superior parietal lobule 7PC|Visual cortex V1 BA17|
Visual cortex V2 BA18|Visual cortex V3V|Visual cortex V4|Visual cortex V5|Premotor cortex BA6|Acoustic radiation|
Callosal body|Cingulum|Corticospinal tract|Fornix|Inferior occipito-frontal fascicle|Lateral geniculate body|Mamillary body|
Medial geniculate body|Optic radiation|Superior longitudinal fascicle|Superior occipito-frontal fascicle|Uncinate fascicle|
Insula Id1|Insula Ig1|Insula Ig2""".replace("\n", "").split("|")

JULICH_BRAIN = """Area 4p (PreCG)|Area PGa (IPL)|Area hIP2 (IPS)|Area s24 (sACC)|Area hOc6 (POS)|Area OP3 (POperc)|Area 5L (SPL)|
CA (Hippocampus)|Area hOc4v (LingG)|Interposed Nucleus (Cerebellum)|Area 6d2 (PreCG)|Area FG2 (FusG)|Area 25 (sACC)|
Area hIP5 (IPS)|Area TE 1.0 (HESCHL)|Area PFt (IPL)|Area hOc4d (Cuneus)|Area 33 (ACC)|Area p24ab (pACC)|Area 7M (SPL)|
Area OP4 (POperc)|Area PFm (IPL)|Area 6d3 (SFS)|Area hOc2 (V2, 18)|Area hIP1 (IPS)|Ventral Dentate Nucleus (Cerebellum)|
Ch 4 (Basal Forebrain)|Area 7P (SPL)|Area hOc4la (LOC)|Area hOc5 (LOC)|CM (Amygdala)|Area 1 (PostCG)|Area Id7 (Insula)|
Area hOc3v (LingG)|Area Id1 (Insula)|Area OP9 (Frontal Operculum)|Area Ig1 (Insula)|Area 7A (SPL)|Area OP1 (POperc)|
Area 5Ci (SPL)|Area PFop (IPL)|Area 2 (PostCS)|Dorsal Dentate Nucleus (Cerebellum)|VTM (Amygdala)|Area OP2 (POperc)|
Area 3a (PostCG)|Area Ig2 (Insula)|Area 6mp (SMA, mesial SFG)|Area TE 1.1 (HESCHL)|MF (Amygdala)|Area PFcm (IPL)|
Area 5M (SPL)|SF (Amygdala)|IF (Amygdala)|Area hIP7 (IPS)|Area Fo2 (OFC)|Area hOc1 (V1, 17, CalcS)|Area 44 (IFG)|
Area p32 (pACC)|Area hOc3d (Cuneus)|Area p24c (pACC)|Area hIP3 (IPS)|Area 45 (IFG)|Area 4a (PreCG)|
Area OP8 (Frontal Operculum)|Area 6ma (preSMA, mesial SFG)|LB (Amygdala)|Area hIP8 (IPS)|Area Fp1 (FPole)|Area FG4 (FusG)|
Area Fp2 (FPole)|Area FG3 (FusG)|Area 3b (PostCG)|Area PF (IPL)|Area 6d1 (PreCG)|Area Fo1 (OFC)|Area TE 1.2 (HESCHL)|
Area Fo3 (OFC)|Subiculum (Hippocampus)|DG (Hippocampus)|Area TE 3 (STG)|Area hOc4lp (LOC)|Area hIP4 (IPS)|Area 7PC (SPL)|
Area FG1 (FusG)|Area s32 (sACC)|Entorhinal Cortex|Area PGp (IPL)|HATA (Hippocampus)|Area hIP6 (IPS)|Area hPO1 (POS)|
Ch 123 (Basal Forebrain)|Fastigial Nucleus (Cerebellum)""".replace("\n", "").split("|")


def test_the_glasser_list_is_whole():
    assert len(HCP_MMP1) == 180
    areas = [area for section in GLASSER_SECTIONS.values() for area in section]
    assert sorted(area.replace("[Ll]", "L") for area in areas) == sorted(HCP_MMP1)
    assert len(GLASSER_SECTIONS) == 22


@pytest.mark.parametrize(
    ("table", "areas"), [("glasser", HCP_MMP1), ("wang2015", WANG), ("benson2014", BENSON)]
)
def test_every_area_has_a_level_or_is_named_as_unused(table, areas):
    for area in areas:
        for label in (area, f"L_{area}_ROI", f"{area}_R"):
            assert (level_of(table, label) is None) == (area in TABLES[table].unused), label
    assert set(TABLES[table].unused) <= set(areas)
    if table != "glasser":
        assert not TABLES[table].unused


def test_every_area_of_juelich_has_a_level_or_is_named_as_unused():
    unused = TABLES["juelich"].unused
    left = set(unused)
    for label in [*FSL_JUELICH, *JULICH_BRAIN]:
        named = [u for u in unused if u == label or label.startswith(f"{u} (")]
        assert (level_of("juelich", label) is None) == bool(named), label
        left -= set(named)
    assert not left


@pytest.mark.parametrize(
    ("table", "labels"),
    [
        ("glasser", [f"{side}_{area}_ROI" for side in "LR" for area in HCP_MMP1]),
        ("wang2015", WANG),
        ("benson2014", BENSON),
        ("juelich", [*FSL_JUELICH, *JULICH_BRAIN]),
    ],
)
def test_labels_that_a_table_does_not_know_are_told_from_unused_ones(table, labels):
    levels = TABLES[table].patterns()
    assert unlisted(labels, levels) == (table, [])
    assert unlisted([*labels, "L_V99_ROI", "Thalamus"], levels) == (table, ["L_V99_ROI", "Thalamus"])
    assert unlisted(["Thalamus"], levels | {"more": "x"}) == ("", [])


@pytest.mark.parametrize(
    ("table", "label", "level"),
    [
        ("glasser", "L_V1_ROI", "early"),
        ("glasser", "R_V4_ROI", "early"),
        ("glasser", "V1_L", "early"),
        ("glasser", "Left V1", "early"),
        ("glasser", "lh.V1", "early"),
        ("glasser", "lh.L_V1_ROI", "early"),
        ("glasser", "L_V1_ROI-lh", "early"),
        ("glasser", "L_VMV2_ROI L", "intermediate"),
        ("glasser", "L_IFSp_ROI_ROI", "high"),
        ("glasser", "glasser-FFC", "intermediate"),
        ("glasser", "Right_V3CD", "intermediate"),
        ("glasser", "L_p9_46v_ROI", "high"),
        ("glasser", "R_i6-8_ROI", "high"),
        ("glasser", "L_7PL_ROI", "high"),
        ("glasser", "L_7Pl_ROI", "high"),
        ("glasser", "L_4_ROI", None),
        ("glasser", "L_FEF_ROI", None),
        ("glasser", "L_A1_ROI", None),
        ("glasser", "L_V10_ROI", None),
        ("glasser", "???", None),
        ("wang2015", "lh.V1v", "early"),
        ("wang2015", "V3A", "intermediate"),
        ("wang2015", "wang15 V3b", "intermediate"),
        ("wang2015", "lh.wang2015atlas.TO1", "high"),
        ("wang2015", "hMT", "high"),
        ("wang2015", "MST", "high"),
        ("wang2015", "hFEF", "high"),
        ("wang2015", "IPS5_R", "high"),
        ("wang2015", "V1", None),
        ("benson2014", "lh.V1", "early"),
        ("benson2014", "V3a", "intermediate"),
        ("benson2014", "rh_hV4", "intermediate"),
        ("benson2014", "benson14_VO1_L", "high"),
        ("juelich", "GM Visual cortex V1 BA17 L", "early"),
        ("juelich", "Left GM Visual cortex V1 BA17", "early"),
        ("juelich", "GM Visual cortex V3V R", "early"),
        ("juelich", "GM Visual cortex V5", "intermediate"),
        ("juelich", "GM Inferior parietal lobule PFm L", "high"),
        ("juelich", "GM Inferior parietal lobule Pga R", "high"),
        ("juelich", "GM Superior parietal lobule 5L L", "high"),
        ("juelich", "GM Anterior intra-parietal sulcus hIP1 L", "high"),
        ("juelich", "WM Optic radiation L", None),
        ("juelich", "GM Lateral geniculate body L", None),
        ("juelich", "Area hOc1 (V1, 17, CalcS) - left hemisphere", "early"),
        ("juelich", "Area hOc3d (Cuneus) right", "early"),
        ("juelich", "Area_hOc4la_(LOC)_L", "intermediate"),
        ("juelich", "FG1.mpm.vpnl", "intermediate"),
        ("juelich", "Area Ph1 (PhG) left", "high"),
        ("juelich", "Area 6ma (preSMA, mesial SFG) - left hemisphere", None),
        ("schaefer", "7Networks_LH_Vis_1", "early"),
        ("schaefer", "LH_Vis_1", "early"),
        ("schaefer", "RH_SalVentAttn_TempOccPar_1", "intermediate"),
        ("schaefer", "LH_Default_PFC_3", "high"),
        ("schaefer", "17Networks_LH_VisCent_ExStr_1", None),
        ("schaefer17", "17Networks_LH_VisCent_ExStr_1", "early"),
        ("schaefer17", "LH_TempPar_1", "high"),
        ("schaefer17", "RH_SalVentAttnA_FrMed_1", "intermediate"),
    ],
)
def test_real_spellings(table, label, level):
    assert level_of(table, label) == level


def test_real_schaefer_labels_all_have_a_level(shared_data):
    import pandas as pd

    table = pd.read_csv(next((shared_data / "atlas").glob("*.tsv")), sep="\t")
    cortex = table[table["label_7network"].notna()]
    assert len(cortex) == 200
    for seven, seventeen, plain in zip(
        cortex["label_7network"], cortex["label_17network"], cortex["label"], strict=True
    ):
        assert level_of("schaefer", seven) is not None
        assert level_of("schaefer", plain) == level_of("schaefer", seven)
        assert level_of("schaefer17", seventeen) is not None


def test_the_page_shows_the_tables(root):
    text = (root / "docs/atlases.md").read_text(encoding="utf-8")
    for name, table in TABLES.items():
        section = text.split(f"### `{name}`", 1)[1].split("\n#", 1)[0]
        shown = {
            row[0].strip("` "): tuple(re.findall(r"`([^`]+)`", row[1].replace("\\|", "|")))
            for row in (
                line.strip("|").split(" | ", 1) for line in section.splitlines() if line.startswith("| ")
            )
        }
        for level, areas in table.levels.items():
            assert shown[level] == areas, (name, level)
        assert shown.get("not used", ()) == table.unused
        assert all(paper in section for paper in table.references)


def test_the_page_shows_the_atlases_of_nilearn(root):
    from neuroalign.fmri.fetched_atlas import ATLASES

    text = (root / "docs/atlases.md").read_text(encoding="utf-8").replace("\\|", "|")
    for atlas in ATLASES:
        (row,) = (line for line in text.splitlines() if line.startswith(f"| `{atlas.names}` "))
        assert row.endswith(f"| {atlas.space} |")
