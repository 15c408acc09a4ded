"""Distils a finished model into one that samples in few steps: `python train/distill.py checkpoint=<path> steps=2`.

Only X-rays of its training data are needed. The new file holds all parts of its teacher; `sampler=fast` samples it.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced: a file in train/ must not shadow a library

from common.cli import command  # noqa: E402


@command("distill")
def main(cfg) -> None:
    """Records trajectories of the teacher on training cases, trains the student and writes it as safetensors file."""
    from common.files import sha256
    from ddpm.checkpoint.write import add_parts, output_file
    from evaluation.generation.open_pipeline import SHIPPED, open_generator
    from train.generator.distillation import learned_timesteps, make_student
    from train.generator.distillation_data import training_cases
    from train.generator.distillation_pairs import record_all
    from train.generator.distillation_training import (
        STAGE,
        Checkpoints,
        Schedule,
        distance_to_teacher,
        learn,
        print_progress,
    )
    from train.run.run_folder import refuse_changes, run_folder, save_config

    teacher, checkpoint = open_generator(cfg.checkpoint, cfg.device, cfg.sampler, shipped=SHIPPED)
    output = output_file(cfg.output, checkpoint, "fast", cfg.overwrite)
    run = cfg.model
    folder, resumed = run_folder(STAGE, run.results_folder, run.results_folder_postfix, run.resume)
    schedule = Schedule(cfg.batches, cfg.batch_size, cfg.lr, cfg.warmup_steps, cfg.seed)
    student = make_student(teacher, cfg.steps, checkpoint)  # refuses before the slow preparation
    kept = folder / "checkpoints", run.checkpoint_every, sha256(checkpoint)
    checkpoints = Checkpoints(*kept, student.protocol["distilled"], resumed)
    cases, seen = training_cases(cfg, teacher, checkpoint)
    student.register_to_config(protocol={**student.protocol, **seen})
    refuse_changes(cfg, folder, run.resume_changed)
    save_config(cfg, folder)
    pairs, checked = record_all(teacher, learned_timesteps(student), cases, cfg.trajectories, cfg.seed, cfg.batch_size)
    learn(student, pairs, schedule, print_progress(schedule), checkpoints)
    found = distance_to_teacher(student, checked, cfg.batch_size)
    print(
        f"{len(checked)} trajectories that it has not seen: squared distance to the teacher's samples "
        f"{found['error']:.0%} of their variance, spread {found['spread']:.2f} of the teacher's"
    )
    print(add_parts(checkpoint, teacher, {"denoiser": student.denoiser}, output, student.protocol))


if __name__ == "__main__":
    main()
