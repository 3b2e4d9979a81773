"""Image files in, image files and verdicts out: what ``rsr upscale`` and ``rsr detect`` do."""
