"""Pictures to train and measure with."""

from rsr_basicsr.data.adversarial_pictures import AdversarialPictures
from rsr_basicsr.data.adversarial_set import write_adversarial_set
from rsr_basicsr.data.adversarial_set_dataset import AdversarialPicturesDataset, AdversarialSetDataset
from rsr_basicsr.data.reduced_image_dataset import ReducedImageDataset
from rsr_basicsr.data.sample_photos import write_evaluation_pairs, write_training_photos

__all__ = ['AdversarialPictures', 'AdversarialPicturesDataset', 'AdversarialSetDataset', 'ReducedImageDataset',
           'write_adversarial_set', 'write_evaluation_pairs', 'write_training_photos']
