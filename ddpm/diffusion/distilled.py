"""The sampler of a distilled model (`train/distill.py`): a few steps, the only ones that its weights can follow.

The protocol of such a model has the entry `distilled`, whose `sampler` holds `scheduler`, `steps`, `spacing` and
options of the solver.
"""

from common.errors import UserError

DISTILLED = "distilled"  # in place of a scheduler's name: the sampler of the model
NAMED = ("scheduler", "steps", "spacing")
DEFAULT = {"scheduler": "DPMSolverMultistepScheduler", "steps": 12}


def default_sampling(protocol: dict) -> dict:
    """Arguments of the pipeline's `set_sampler` where nobody chooses."""
    return {"scheduler": DISTILLED, "steps": None, "consistency": False} if "distilled" in protocol else DEFAULT


def choose_solver(
    protocol: dict, scheduler: str, steps: int | None, spacing: str | None, options: dict
) -> tuple[str, int, str, dict]:
    """Scheduler, steps, spacing (default `trailing`) and solver options: for `DISTILLED` those of the model.

    Raises UserError for `DISTILLED` with a model that is not distilled, and for any other sampler with one that is.
    """
    own = protocol.get("distilled", {}).get("sampler")
    if own is None:
        if scheduler == DISTILLED:
            raise UserError(
                "sampler=fast: these weights are not distilled; set sampler=default or, for a few steps, "
                "sampler=preview; python train/distill.py checkpoint=<path> distils them"
            )
        if steps is None or steps < 1 or steps % 1:
            raise UserError(f"sampler.steps={'null' if steps is None else steps}: give a whole number of at least 1")
        return scheduler, int(steps), spacing or "trailing", options
    if scheduler == DISTILLED:
        given = own | {key: value for key, value in (("steps", steps), ("spacing", spacing)) if value} | options
    else:
        given = {"scheduler": scheduler, "steps": steps, "spacing": spacing or "trailing", **options}
    if given != own:
        key = next(key for key in own | given if own.get(key) != given.get(key))
        raise UserError(
            f"sampler.{key}={given.get(key)}: these weights are distilled for sampler.{key}={own.get(key)}; set "
            "sampler=fast, or give the checkpoint of their teacher"
        )
    return own["scheduler"], own["steps"], own["spacing"], {key: own[key] for key in own if key not in NAMED}


def check_steps(protocol: dict, steps: int) -> int:
    """The steps of one call; UserError for other steps than those of a distilled model."""
    own = protocol.get("distilled", {}).get("sampler", {"steps": steps})["steps"]
    if steps != own:
        raise UserError(f"steps={steps}: these weights are distilled for {own} steps; leave it out")
    return steps
