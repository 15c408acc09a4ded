"""Compares trained classifiers of CTs, X-rays and generated volumes on the same cases: tables, JSON and pictures.

`python evaluation/classification.py dataset=xrayctpa dataset.root_dir=<folder> generators=<folder>`
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced, so that a file here shadows no library

from common.cli import command  # noqa: E402


@command("classification")
def main(cfg) -> None:
    import pandas as pd
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from common.environment import save_config
    from common.files import check_output, result_folder
    from dataset.datamodule import prepared_data
    from evaluation.classifiers.comparison import analyse
    from evaluation.classifiers.generated_cases import Generators, find_generators
    from evaluation.classifiers.hypotheses import PRIMARY
    from evaluation.classifiers.scores import describe, fairness, find_classifiers, folds_of, score_fold
    from evaluation.classifiers.tables import RESULTS, markdown, protocol_of, write_all
    from evaluation.generation.open_pipeline import resolve_device
    from evaluation.protocol.checkpoint_data import dataset_given, take_data_of_checkpoint

    device = resolve_device(cfg.device)
    print(f"device: {device}")
    found = find_classifiers(cfg.classifiers, cfg.search, cfg.dataset.name if dataset_given() else None)
    take_data_of_checkpoint(cfg, "classification", found[0].protocol["data"], found[0].path)
    folds = folds_of(found)
    for one in found:
        print(f"{one.name}{'' if one.fold is None else f' of fold {one.fold}'}: {one.path}")
    print(PRIMARY)
    generators = None
    if cfg.generators:
        sampler = OmegaConf.to_container(cfg.sampler, resolve=True)
        options = {"samples": cfg.samples, "seed": cfg.generate_seed, "batch_size": cfg.batch_size}
        paths = find_generators(cfg.generators)
        generators = Generators(paths, sampler, **options, origin=cfg.origin, device=str(device))
    check_output(cfg.output, RESULTS, cfg.overwrite)
    tables, inputs, protocols = [], {}, []
    for fold in folds:
        chosen = {} if fold is None else {"source": {"splits": {"fold": fold}}}
        data = prepared_data(instantiate(cfg.dataset.source, **chosen), cfg.dataset)
        of_fold = [one for one in found if one.fold == fold]
        table, kinds = score_fold(data, of_fold, generators, device, cfg.batch_size)
        tables.append(table)
        inputs = kinds if not inputs else {name: kind for name, kind in inputs.items() if name in kinds}
        protocols.append(data.protocol())
    scores = pd.concat(tables, ignore_index=True)
    result = analyse(scores, inputs, cfg.margin, cfg.sensitivity, cfg.draws, cfg.seed)
    result["protocol"] = protocol_of(cfg, protocols, scores, generators) | {"classifiers": describe(found)}
    result["limits"] += fairness(found, generators)
    runs = {one.name: [other.path.parent.parent for other in found if other.name == one.name] for one in found}
    output = result_folder(cfg.output, "classification", RESULTS, cfg.overwrite)
    write_all(output, result, scores, list(inputs), runs)
    save_config(cfg, output)
    print(markdown(result))
    print(output / "classification.json")


if __name__ == "__main__":
    main()
