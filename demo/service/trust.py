"""How far to trust a generated volume, by what the weights were trained on."""

PHANTOM = "These weights were trained on phantoms, not on patients: the anatomy is a drawing."
REAL = (
    "Outlines of the lungs, and less exactly of heart and diaphragm, follow the X-ray; size, chest wall and "
    "everything inside are typical of the training patients."
)


def is_phantom(protocol: dict) -> bool:
    """Whether the model was trained on phantoms only."""
    return str(protocol.get("dataset", "")).startswith("phantom")


def how_far_to_trust(protocol: dict) -> str:
    """One sentence for the user, from the protocol of a pipeline."""
    return PHANTOM if is_phantom(protocol) else REAL
