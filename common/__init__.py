"""Code without knowledge of the domain: errors, the command decorator, files, locks, random generators."""
