"""One loop; pre-training and fine-tuning are two small clients of it."""
