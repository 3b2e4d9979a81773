"""Operations on tensors of images: frequency, tiles, perceptual distance; pure functions and thin modules."""
