"""The classes that `model_index.json` of a diffusers folder names: diffusers imports them from here."""

from diffusers import ModelMixin  # noqa: F401  # diffusers looks in this module for the base class of a part

from xray2ct.rooms import load

globals().update(load("ddpm.registry").PARTS)
