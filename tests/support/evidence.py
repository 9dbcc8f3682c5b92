"""What the evidence of every benchmark says of how it was made."""

DETAILS = {
    "command", "commit", "diff", "date", "versions", "environment", "seconds", "device", "settings", "seeds",
}  # fmt: skip
