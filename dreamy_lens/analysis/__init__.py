"""Analyses of a feature on given prompts: attribution, effect on the logits, checks of a model."""
