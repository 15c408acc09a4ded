"""Evaluation of generated CT volumes: metrics in HU, patient bootstrap, baselines, pictures and the report."""
