"""Search for settings (``submit --tune``): the space, and the Optuna study that its runs share."""
