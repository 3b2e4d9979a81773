"""Data sets: clean low-quality images of many kinds, adversarial sets, pairs for validation and benchmarks."""

from rsr_basicsr.data.adversarial_images import AdversarialImages
from rsr_basicsr.data.adversarial_set import write_adversarial_set
from rsr_basicsr.data.adversarial_set_dataset import AdversarialImagesDataset, AdversarialSetDataset
from rsr_basicsr.data.degraded_image_dataset import DegradedImageDataset
from rsr_basicsr.data.reduced_image_dataset import ReducedImageDataset
from rsr_basicsr.data.sample_photos import write_evaluation_pairs, write_training_photos

__all__ = [
    'AdversarialImages',
    'AdversarialImagesDataset',
    'AdversarialSetDataset',
    'DegradedImageDataset',
    'ReducedImageDataset',
    'write_adversarial_set',
    'write_evaluation_pairs',
    'write_training_photos',
]
