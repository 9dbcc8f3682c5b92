"""The report page: verdict, sections, omissions, escaping, and how it behaves in a real browser.
Every run directory here is synthetic, so nothing is trained."""

SECTIONS = [
    *("results", "sound", "probe", "data", "pretraining", "gallery", "finetuning", "evaluation", "mistakes", "costs"),
    *("settings", "environment"),
]
