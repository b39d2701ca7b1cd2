"""The command `emend`: one name for the commands of inference, data_gen and training."""
