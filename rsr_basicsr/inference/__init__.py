"""What ``rsr upscale`` and ``rsr detect`` are made of: image files in, image files and decisions out."""
