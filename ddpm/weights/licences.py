"""Licences that trained weights inherit from published weights and data sets (docs/licences.md), for the header."""

CHECK = "check at the source"
RAIL = "CreativeML Open RAIL++-M: attachment A excludes medical advice and interpreting medical results"
WEIGHTS = {  # hub id or name -> licence
    "stabilityai/stable-diffusion-xl-base-1.0": RAIL,
    "stabilityai/sdxl-vae": "MIT",
    "madebyollin/taesdxl": "MIT",
    "microsoft/biomedclip-pubmedbert_256-vit_base_patch16_224": "MIT; its card asks for research use alone",
    "microsoft/rad-dino": "MIT or MSRLA, by revision of its card; research use alone: check at the source",
    "openai/clip-vit-large-patch14": "MIT in its repository; its card calls every deployed use out of scope",
}
DATA = {  # name of a data set of config/dataset -> licence
    "phantom": "none: drawn by this project (MIT)",
    "rspect": "RSNA: non-commercial use alone, with citation",
    "lidc": "CC BY 3.0, with citation",
    "xraylidc": "CC BY 3.0, with citation",
}


def inherits(header: dict) -> list[dict]:
    """`{"part", "from", "licence"}` for each part of a header with published weights, and for its data."""
    found = []
    for part, entry in header.get("components", {}).items():
        source = entry.get("config", {}).get("source") if isinstance(entry, dict) else None
        if source:
            found.append({"part": part, "from": public_name(source), "licence": licence_of(source)})
    protocol = header.get("protocol", {})
    if isinstance(origin := protocol.get("init_from"), dict):
        name, digest = origin.get("file"), str(origin.get("sha256"))[:16]
        licence = "that of its own header; " + CHECK
        found.append({"part": "initial weights", "from": f"{name} (SHA-256 {digest}…)", "licence": licence})
        found += [entry for entry in origin.get("inherits", []) if entry not in found]
    if data := protocol.get("dataset"):
        found.append({"part": "training data", "from": data, "licence": DATA.get(data, CHECK)})
    return found


def licence_of(source: str) -> str:
    """Licence of published weights by hub id or name; `CHECK` if unknown."""
    known = WEIGHTS | {name.rpartition("/")[2]: licence for name, licence in WEIGHTS.items()}
    return known.get(public_name(source).lower(), CHECK)


def public_name(source: str) -> str:
    """A hub id as it is; of a path, which may hold personal names, the last part."""
    source = str(source).replace("\\", "/").rstrip("/")
    is_id = source.count("/") == 1 and not source.startswith(("/", ".", "~")) and ":" not in source
    return source if is_id else source.rpartition("/")[2]
