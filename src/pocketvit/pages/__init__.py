"""One self-contained HTML page per run: the verdict in words first, then the evidence.
It reads the run directory alone, so a page can be made again at any time and anywhere."""
