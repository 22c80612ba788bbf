"""Experiments of the papers, repeated: one file each, run by ``keepsight experiment``. The floor below the command line."""
