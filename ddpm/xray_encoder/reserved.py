"""Names of pretrained X-ray encoders that the config keeps for them, so that command lines stay valid."""


def reserved(name: str) -> None:
    """Refuses the choice.

    Raises:
        ValueError: always, with what can be chosen today.
    """
    raise ValueError(f"model/xray_encoder={name}: this version does not hold it yet; use model/xray_encoder=cnn")
