"""The checks of ``scripts/gpu_check.py``: a docstring says what is expected, the text returned what was found."""
