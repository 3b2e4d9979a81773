"""The tables of keys that BasicSR reads, against its source, and the keys of classes of one's own."""

import ast
import inspect
import textwrap

import pytest
from basicsr.data import realesrgan_dataset, realesrgan_paired_dataset
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.single_image_dataset import SingleImageDataset
from basicsr.models import base_model, realesrgan_model, realesrnet_model, sr_model, srgan_model
from basicsr.utils.registry import MODEL_REGISTRY
from training_files import check

from rsr_basicsr.check import stray_keys


def test_keys_of_classes_of_ones_own_are_not_known(opt, tmp_path, capsys):
    class OwnModel(MODEL_REGISTRY.get('DefendedRealESRNetModel')):
        pass

    if 'OwnModel' not in MODEL_REGISTRY:
        MODEL_REGISTRY.register(OwnModel)
    opt['train'].update(ema_deca=0.9, cutblur=0.5)
    del opt['train']['ema_decay']
    errors, _, _ = check(opt, tmp_path, capsys, '--no-memory')
    assert errors == ["train: unknown key 'ema_deca'; did you mean 'ema_decay'?"]
    opt['model_type'] = 'OwnModel'
    errors, warnings, _ = check(opt, tmp_path, capsys, '--no-memory')
    assert errors == [] and "train: unknown key 'ema_deca'; did you mean 'ema_decay'?" in warnings
    assert not any('cutblur' in warning for warning in warnings)


@pytest.mark.parametrize(
    'kind, cls',
    [
        ('PairedImageDataset', PairedImageDataset),
        ('SingleImageDataset', SingleImageDataset),
        ('RealESRGANDataset', realesrgan_dataset.RealESRGANDataset),
        ('RealESRGANPairedDataset', realesrgan_paired_dataset.RealESRGANPairedDataset),
    ],
)
def test_every_key_that_a_data_set_reads_is_known(kind, cls):
    assert asked_for(cls, 'opt') <= {*stray_keys._DATASET, *stray_keys._OF_DATASET[kind]}


@pytest.mark.parametrize(
    'cls',
    [
        base_model.BaseModel,
        sr_model.SRModel,
        srgan_model.SRGANModel,
        realesrnet_model.RealESRNetModel,
        realesrgan_model.RealESRGANModel,
    ],
)
def test_every_key_that_a_model_reads_is_known(cls):
    top, train, sure = stray_keys._read_by(cls)
    assert sure and asked_for(cls, 'train_opt') <= {*train} and len(asked_for(sr_model.SRModel, 'train_opt')) >= 4
    networks = {'network_g', 'network_d'}
    assert asked_for(cls, 'opt') <= {*top, *networks}


def asked_for(cls, name):
    """Keys that the source of a class takes out of ``name`` or ``self.name``."""
    found = set()
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(cls)))):
        if isinstance(node, ast.Subscript):
            owner, key = node.value, node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == 'get':
            owner, key = node.func.value, node.args[0]
        else:
            continue
        if getattr(owner, 'id', getattr(owner, 'attr', None)) == name and isinstance(key, ast.Constant):
            found.add(key.value)
    return found
