"""How far to trust a generated volume, by what the weights were trained on."""

PHANTOM = "These weights were trained on phantoms, not on patients: the anatomy is a drawing."
REAL = (
    "Size and outlines of lungs, heart and chest wall follow the X-ray; what lies inside them is typical of the "
    "training patients and is not seen in the X-ray."
)


def is_phantom(protocol: dict) -> bool:
    """Whether the model was trained on phantoms only."""
    return str(protocol.get("dataset", "")).startswith("phantom")


def how_far_to_trust(protocol: dict) -> str:
    """One sentence for the user, from the protocol of a pipeline."""
    return PHANTOM if is_phantom(protocol) else REAL
