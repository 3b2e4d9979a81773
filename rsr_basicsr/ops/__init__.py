"""Operations on batches of images: frequency, tiles, perceptual distance; pure functions and thin modules."""
