"""Settings of runs and studies, one file each; installed as `qsnet_jax.configs`, and found by name from any folder."""
