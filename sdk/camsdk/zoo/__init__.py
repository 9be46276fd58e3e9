"""Networks for small budgets, one file each: paper, blocks, model, variants. Needs torch."""
