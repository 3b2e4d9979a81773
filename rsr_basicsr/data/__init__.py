"""Pictures to train and measure with."""

from rsr_basicsr.data.sample_photos import write_evaluation_pairs, write_training_photos

__all__ = ['write_evaluation_pairs', 'write_training_photos']
