"""From a config to a finished run: the loop, checkpoints, devices, studies."""
