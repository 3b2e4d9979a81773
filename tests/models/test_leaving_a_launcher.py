"""How a process of a launcher ends: a thread of gloo may outlive its group (PyTorch, issue 190489)."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Holds a thread of gloo behind its second broadcast, which ends an operation, until the interpreter shuts down.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>
static int (*wake)(pthread_cond_t *);
static volatile int armed = 0, released = 0, held = 0;
static __thread int calls = 0;
void arm(void) { armed = 1; }
int count(void) { return held; }
int last(void) { released = 1; usleep(300000); return 0; }
int pthread_cond_broadcast(pthread_cond_t *condition) {
  if (!wake) wake = dlvsym(RTLD_NEXT, "pthread_cond_broadcast", "GLIBC_2.3.2");
  int result = wake(condition);
  char name[16] = {0};
  pthread_getname_np(pthread_self(), name, 16);
  if (strncmp(name, "pt_gloo", 7)) return result;
  if (!armed) { calls = 0; return result; }
  if (++calls < 2) return result;
  held++;
  for (int i = 0; i < 30000 && !released; i++) usleep(1000);
  held--;
  return result;
}
"""
PROGRAM = """
import atexit, ctypes, sys, time
shim, holding = ctypes.CDLL(None), ctypes.PyDLL(None)
atexit.register(holding.last)  # registered first, so it runs last, straight before the interpreter shuts down
import torch, torch.distributed as dist
from rsr_basicsr import cli
dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
kept = dist.group.WORLD  # as a model does that is still referenced
tensor = torch.ones(3)
if sys.argv[1] == 'as launched':
    atexit.register(cli._end_now, [0])
shim.arm()
dist.all_reduce(tensor)
time.sleep(0.05)
del tensor
dist.destroy_process_group()
print('held', shim.count(), flush=True)
"""


@pytest.mark.skipif(sys.platform != 'linux' or shutil.which('gcc') is None, reason='needs Linux and gcc')
@pytest.mark.parametrize('way, code', [('plain', -signal.SIGABRT), ('as launched', 0)])
def test_thread_of_gloo_that_outlives_its_group(way, code, tmp_path):
    source = tmp_path / 'shim.c'
    source.write_text(SHIM)
    library = Path(tmp_path, 'shim.so')
    subprocess.run(['gcc', '-shared', '-fPIC', '-o', str(library), str(source), '-ldl', '-lpthread'], check=True)
    run = subprocess.run(
        [sys.executable, '-c', PROGRAM, way],
        capture_output=True,
        text=True,
        env={**os.environ, 'LD_PRELOAD': str(library)},
        cwd=tmp_path,
        timeout=120,
    )
    assert 'held 1' in run.stdout, run.stderr
    if way == 'plain' and run.returncode == 0:
        pytest.skip('this torch is not aborted any more')
    assert run.returncode == code, run.stderr
