"""Installs the plugin. Set up a whole environment with ``bash scripts/quickstart.sh``."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

# scripts/_environment.sh tells users of these limits before pip would: keep its copies in step.
PYTHON_REQUIRES = '>=3.10'  # tried: 3.10 to 3.13, see rsr_basicsr/compat.py
# BasicSR itself (1.4.2 or later, as basicsr, basicsr-fixed or a clone) is deliberately none of these:
# - a requirement has one name. For who has basicsr-fixed or another fork, pip would install basicsr on top, into the
#   same folder, and uninstalling either would break the other.
# - pip cannot build BasicSR 1.4.2 by itself on Python 3.13 and later.
# scripts/install_basicsr.py installs it, and `import rsr_basicsr` says so where there is none.
INSTALL_REQUIRES = [
    # BasicSR reads checkpoints with a plain torch.load. Up to 2.5 that runs code from a prepared file;
    # from 2.6 on it reads weights only.
    'torch>=2.6',
    'torchvision',  # says itself which torch it needs: no limit of ours
    'numpy',
    'opencv-python',
    'lmdb',  # BasicSR's data sets, which ours build on, import it
    'pyyaml',
    'pydantic>=2.7',  # types of our options, their JSON schema and tables
    'jinja2',  # fills in the HTML report; torch brings it today, but promises nothing
    'scikit-image>=0.21',  # ships the quickstart's photos, and adds impulse noise
    'scipy',  # fits the temperature of a detector, ranks its scores
    'filelock',  # tells whether a run of the same name still goes on; torch brings it today
    'pillow>=10.1',  # draws screenshots and palettes; its own font can be scaled from here on
    'tqdm',  # shows how far a data set is
    'packaging',  # stands in for distutils, which BasicSR imports and Python 3.12 removed
]
EXTRAS_REQUIRE = {
    'benchmark': [
        'torch-dct',  # the transform of the published code, which ours is timed against
    ],
    'report': [
        'matplotlib>=3.7',  # curves; earlier ones have no legend below the axes
    ],
    'metrics': [
        'lpips',  # the learned perceptual distance, by its authors; brings its trained linear layers
        'piq>=0.8',  # HaarPSI, MDSI, GMSD and VIF, as measures to compare with
    ],
    'spandrel': [
        'spandrel>=0.4',  # recognises and builds the networks of the field, which BasicSR does not have
        'safetensors',  # reads and writes files of that format
    ],
    'export': [
        'onnx',
        'onnxruntime',  # runs exported networks, to compare
        'onnxscript',  # torch.onnx.export needs it
    ],
    'completion': [
        'shtab',  # makes scripts of an argparse parser that complete its options in bash, zsh and tcsh
    ],
    'lint': [
        'ruff',
        'mypy',
        'types-PyYAML',
        'codespell',
        'tomli; python_version < "3.11"',  # lets codespell read pyproject.toml
    ],
    'docs': [
        'mkdocs-material',
        'mkdocstrings[python]',
    ],
    'test': [
        'pytest',
        'nbclient',  # runs docs/tour.ipynb
        'ipykernel',
        'pytest-timeout',  # a hanging data loader or process group must fail, not block
        'scipy',  # the independent reference for the DCT
        'pytest-xdist',  # uses both cores: most of a test is waiting for one
        'onnx',
        'onnxruntime',
        'onnxscript',
        'spandrel>=0.4',  # loads exported networks, brings networks that BasicSR does not have
        'safetensors',
        'lpips',
        'piq>=0.8',
        'matplotlib>=3.7',
        'shtab',
        'jsonschema>=4',  # judges the schema of options files
    ],
}


def read_version():
    """Read the version without importing the package, which would need torch and BasicSR."""
    source = (ROOT / 'rsr_basicsr' / '__init__.py').read_text(encoding='utf-8')
    match = re.search(r"^__version__ = '([^']+)'$", source, flags=re.MULTILINE)
    if match is None:
        raise RuntimeError("rsr_basicsr/__init__.py has no line __version__ = '...'")
    return match.group(1)


def read_long_description():
    readme = ROOT / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.is_file() else ''


class BuildWithOptions(build_py):
    """Puts options/ into the package: who installs it has no repository to take them from.

    In the repository they stay at the top, where users of BasicSR look for them; rsr_basicsr/files.py finds both.
    """

    def run(self):
        super().run()
        if not getattr(self, 'editable_mode', False):
            target = Path(self.build_lib) / 'rsr_basicsr' / 'option_files'
            shutil.rmtree(target, ignore_errors=True)  # of an earlier build
            shutil.copytree(ROOT / 'options', target)


setup(
    name='rsr-basicsr',
    version=read_version(),
    description='Defends real-world super-resolution against adversarial attacks: a plugin for BasicSR',
    long_description=read_long_description(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    keywords='super-resolution, adversarial robustness, BasicSR, Real-ESRGAN',
    classifiers=[
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3 :: Only',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Programming Language :: Python :: 3.14',
        'Topic :: Scientific/Engineering :: Image Processing',
    ],
    python_requires=PYTHON_REQUIRES,
    packages=find_packages(include=['rsr_basicsr', 'rsr_basicsr.*']),
    package_data={
        'rsr_basicsr': [
            'py.typed',
            'benchmark/report/templates/*',
            'stability/templates/*',
            'archs/weights/*',
            'weights/shipped/*',
        ]
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={'console_scripts': ['rsr = rsr_basicsr.cli:main']},
    cmdclass={'build_py': BuildWithOptions},
    zip_safe=False,  # templates are read as files
)
