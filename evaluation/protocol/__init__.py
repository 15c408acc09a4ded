"""What must hold before results are compared: patient leakage, protocols, data checks."""
