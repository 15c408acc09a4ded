"""Evaluates generated volumes on real pairs: X-ray and CT of one patient, with unknown pose, days apart."""
