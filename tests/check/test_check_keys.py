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


def test_keys_left_over_of_another_class_are_a_warning(opt, tmp_path, capsys):
    # Published files of RealESRNetModel keep the three keys of RealESRGANModel, which BasicSR ignores.
    opt.update(l1_gt_usm=True, percep_gt_usm=True, gan_gt_usm=False)
    opt['train']['net_d_iter'] = 1  # that of a discriminator, misspelt, is not one of them
    opt['train']['net_d_iters'] = 1
    errors, warnings, _ = check(opt, tmp_path, capsys, '--no-memory')
    assert errors == [] and 'the options: nothing reads l1_gt_usm, percep_gt_usm, gan_gt_usm; remove it' in warnings
    assert 'train: nothing reads net_d_iter, net_d_iters; remove it' in warnings


def test_a_discriminator_is_no_misspelt_generator(opt, tmp_path, capsys):
    opt['network_d'] = {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3}
    del opt['network_g']
    errors, _, _ = check(opt, tmp_path, capsys, '--no-memory')
    assert "the key 'network_g' is missing" in errors
    opt['network_generator'] = {'type': 'RRDBNet'}
    errors, _, _ = check(opt, tmp_path, capsys, '--no-memory')
    assert "the key 'network_g' is missing; did you mean 'network_g' where it says 'network_generator'?" in errors


def test_metric_against_the_original_without_originals(opt, tmp_path, capsys):
    val = opt['datasets']['val']
    single = {'name': 'photos', 'type': 'SingleImageDataset', 'dataroot_lq': val.get('dataroot_lq', val['dataroot_gt'])}
    opt['datasets']['val_2'] = {**single, 'io_backend': {'type': 'disk'}}
    opt['val']['metrics'] = {'psnr': {'type': 'calculate_psnr', 'crop_border': 4}}
    errors, _, _ = check(opt, tmp_path, capsys, '--no-memory')
    assert errors == [
        'val.metrics.psnr: calculate_psnr compares with the original, and datasets.val_2 is a SingleImageDataset, '
        'which has none; write a PairedImageDataset, or a metric without one, such as calculate_niqe'
    ]
    opt['val']['metrics'] = {'niqe': {'type': 'calculate_niqe', 'crop_border': 4}}
    assert check(opt, tmp_path, capsys, '--no-memory')[0] == []
