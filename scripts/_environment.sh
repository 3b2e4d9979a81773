# shellcheck shell=bash
# Sourced by the other scripts. `set_up` finds or makes a Python environment and installs what it lacks.
#
#   set_up        what a user needs
#   set_up test   and what the tests need; so for any extra of setup.py, and for several: set_up test,lint
#
# Afterwards $PYTHON runs the environment's Python, and $REPO is the folder of the project.
# RSR_PYTHON=/path/to/python uses an environment of the user's; otherwise it is .venv in $REPO.
# RSR_TORCH_INDEX=URL is where pip takes torch and torchvision from, such as PyTorch's index of builds for CPUs.
# Exit code 2: the user has to change something, and one sentence says what. 1: an installation failed.

REPO="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$REPO/.venv"

# The limits of setup.py, which gives the reasons.
PYTHON_RANGE='3.10 to 3.14'
TORCH_MIN='2.6'
BASICSR_MIN='1.4.2'
# pip and setuptools: the first that install a folder as editable by the standard way, without build isolation.
PIP_MIN='21.3'
SETUPTOOLS_MIN='64'

STEP=0
STEPS=5
SCRATCH=''  # a folder for what the steps print and unpack, removed at the end unless one failed
LOG=''
CHILD=''    # the process of the step that is running


set_up() {
    local extra="${1:-}" start="$PWD"
    case ",$extra," in *,test,*) STEPS=6 ;; esac
    find_python
    # Elsewhere a folder such as a clone of BasicSR would count as installed, as `python -m` looks there first.
    cd "$REPO" || exit
    begin
    ensure_environment
    inspect "$extra"
    refuse_older torch "$TORCH_MIN" -m pip install --upgrade torch torchvision
    refuse_older basicsr "$BASICSR_MIN" scripts/install_basicsr.py --upgrade basicsr
    ensure_tools
    ensure_torch
    ensure_basicsr
    ensure_package "$extra"
    case ",$extra," in *,test,*) ensure_realesrgan ;; esac
    finish
    cd "$start" || exit
}


# --- Which Python ---------------------------------------------------------------------------------------------------

# Sets PYTHON, to a file that may not exist yet where .venv is still to be made from python3.
find_python() {
    if [ -n "${RSR_PYTHON:-}" ]; then
        # An absolute path, as the scripts change the folder.
        PYTHON="$(command -v -- "$RSR_PYTHON" || true)"
        case "$PYTHON" in
            /*) ;;
            ?*) PYTHON="$PWD/$PYTHON" ;;
            *) stop "RSR_PYTHON=$RSR_PYTHON is not a program that can be run: set it to the Python ($PYTHON_RANGE) of an environment, such as /path/to/env/bin/python." ;;
        esac
        check_python "$PYTHON" "RSR_PYTHON=$RSR_PYTHON"
        return
    fi
    PYTHON="$VENV/bin/python"
    if venv_is_whole; then
        check_python "$PYTHON" "$VENV"
    else
        check_python python3 python3
    fi
}

# check_python PROGRAM NAME: stops unless PROGRAM is a Python that all we need can be installed for.
check_python() {
    local version
    # Old syntax on purpose: even Python 2 must get as far as the sentence.
    version="$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null </dev/null)" || version=''
    case "$version" in
        3.10 | 3.11 | 3.12 | 3.13 | 3.14) ;;
        '') stop "$2 does not run as a Python: install Python $PYTHON_RANGE, or set RSR_PYTHON to the Python of an environment that has it." ;;
        *) stop "$2 is Python $version, but only $PYTHON_RANGE are supported: set RSR_PYTHON to the Python of an environment with one of those, or make one here, as with: python3.13 -m venv --clear '$VENV'" ;;
    esac
}

# False for what an interrupted set-up leaves: no Python, no activate script (written last), or a package
# without its list of files (also written last), which pip can neither use nor replace.
venv_is_whole() {
    [ -x "$VENV/bin/python" ] && [ -f "$VENV/bin/activate" ] || return 1
    local package
    for package in "$VENV"/lib/python3.*/site-packages/*.dist-info; do
        [ ! -d "$package" ] || [ -s "$package/RECORD" ] || return 1
    done
}


# --- What is there --------------------------------------------------------------------------------------------------

# Sets THERE to a line `NAME VERSION` for each part that is there. Reads metadata and imports nothing: 0.2 s.
inspect() {
    THERE="$("$PYTHON" - "$REPO" "$1" "$PIP_MIN" "$SETUPTOOLS_MIN" <<'PYTHON_END'
import json
import os
import sys
from importlib import metadata
from urllib.parse import unquote, urlparse

sys.path[:] = [path for path in sys.path if path]  # else the egg-info in this folder hides what is installed
repo, extra, pip_min, setuptools_min = sys.argv[1:]


def version(name):
    try:
        return metadata.version(name)
    except (metadata.PackageNotFoundError, KeyError):
        return None


def satisfied(text):
    requirement = Requirement(text)
    if requirement.marker and not any(requirement.marker.evaluate({'extra': one}) for one in extra.split(',')):
        return True
    found = version(requirement.name)
    return found is not None and requirement.specifier.contains(found, prereleases=True)


def package_is_current(name):
    """Installed from this very folder, after the last change of setup.py, with all it asks for."""
    if version(name) is None:
        return False
    package = metadata.distribution(name)
    origin = json.loads(package.read_text('direct_url.json') or '{}')
    folder = unquote(urlparse(origin.get('url', '')).path)
    if not (origin.get('dir_info', {}).get('editable') and os.path.isdir(folder) and os.path.samefile(folder, repo)):
        return False
    record = package.locate_file('%s-%s.dist-info/RECORD' % (name.replace('-', '_'), package.version))
    if os.path.getmtime(record) < os.path.getmtime(os.path.join(repo, 'setup.py')):
        return False
    return all(map(satisfied, package.requires or []))


for name in ('torch', 'torchvision', 'realesrgan'):
    if version(name):
        print(name, version(name))
sys.path.append(os.path.join(repo, 'scripts'))
import install_basicsr  # noqa: E402  what counts as BasicSR, it decides

host = install_basicsr.installed()
if host:
    print('basicsr', host[1])
    print('basicsr-is', *host)
try:
    from pip._vendor.packaging.requirements import Requirement
except ImportError:
    sys.exit()  # without pip, the rest is missing
if satisfied('pip>=' + pip_min) and satisfied('setuptools>=' + setuptools_min) and satisfied('wheel'):
    print('tools', version('setuptools'))
if package_is_current('rsr-basicsr'):
    print('rsr-basicsr', version('rsr-basicsr'))
PYTHON_END
    )"
}

# version_of NAME: the version of a part that is there, else nothing.
version_of() {
    sed -n "s/^$1 //p" <<<"$THERE"
}

has() {
    [ -n "$(version_of "$1")" ]
}

# refuse_older NAME MINIMUM ARGUMENTS...: the arguments make Python upgrade it. What the user chose is not replaced without asking.
refuse_older() {
    local found oldest
    found="$(version_of "$1")"
    [ -n "$found" ] || return 0
    oldest="$(printf '%s\n' "$2" "${found%%+*}" | sort -V | head -n 1)"
    [ "$oldest" = "$2" ] || stop "$1 $found in the environment of $PYTHON is older than $2, which rsr-basicsr needs: upgrade it, in $REPO, with: '$PYTHON' ${*:3}"
}


# --- The steps ------------------------------------------------------------------------------------------------------

ensure_environment() {
    local name='Python environment'
    if [ -n "${RSR_PYTHON:-}" ]; then
        already "$name" "$PYTHON"
    elif venv_is_whole; then
        already "$name" '.venv'
    else
        run_step "$name in .venv" 'about 5 s' python3 -m venv --clear "$VENV"
    fi
}

ensure_tools() {
    local name='build tools'
    if has tools; then
        already "$name" "setuptools $(version_of tools)"
        return
    fi
    # Environments made by uv, and some that came with a system, have no pip.
    "$PYTHON" -m pip --version >>"$LOG" 2>&1 </dev/null || "$PYTHON" -m ensurepip >>"$LOG" 2>&1 </dev/null ||
        stop "The environment of $PYTHON has no pip and no way to make it: install pip there, or unset RSR_PYTHON to have one made in .venv."
    # wheel: setuptools below 70 cannot build without it.
    pip_step "$name" 'about 10 s' "pip>=$PIP_MIN" "setuptools>=$SETUPTOOLS_MIN" wheel
}

# Both in one call, so that they come from one place and fit: a torchvision built for another torch, or for CUDA
# beside a CPU torch, does not load.
ensure_torch() {
    local name='torch and torchvision' torch="torch>=$TORCH_MIN"
    if has torch && has torchvision; then
        already "$name" "$(version_of torch), $(version_of torchvision)"
    else
        ! has torch || torch="torch==$(version_of torch)"
        pip_step "$name" 'about 90 s' ${RSR_TORCH_INDEX:+--index-url "$RSR_TORCH_INDEX"} "$torch" torchvision
    fi
    # Takes seconds, so a set-up that is complete skips it.
    has rsr-basicsr || check_pair
}

check_pair() {
    local reason
    reason="$("$PYTHON" -c 'import torchvision' 2>&1 >/dev/null </dev/null)" && return
    stop "torch and torchvision in the environment of $PYTHON do not work together (${reason##*$'\n'}): install both from one place with: '$PYTHON' -m pip install --force-reinstall torch torchvision"
}

# Any package that `import basicsr` finds is kept, basicsr-fixed and clones too.
ensure_basicsr() {
    if has basicsr; then
        already basicsr "$(version_of basicsr-is)"
    else
        source_step basicsr 'about 30 s' "basicsr>=$BASICSR_MIN"
    fi
}

# Without build isolation, as BasicSR is built: setuptools is there.
ensure_package() {
    local name='rsr-basicsr' extra="${1:+[$1]}"
    if has "$name"; then
        already "$name$extra" "$(version_of "$name")"
    else
        pip_step "$name$extra" 'about 10 s' --use-pep517 --no-build-isolation --editable ".$extra"
    fi
}

# The tests check that the plugin gets along with this package. Importing it takes none of its dependencies,
# which are many and old.
ensure_realesrgan() {
    if has realesrgan; then
        already realesrgan "$(version_of realesrgan)"
    else
        source_step realesrgan 'about 5 s' --no-deps realesrgan==0.3.0
    fi
}


# --- Running and showing a step -------------------------------------------------------------------------------------

begin() {
    SCRATCH="$(mktemp -d "${TMPDIR:-/tmp}/rsr-setup.XXXXXX")"
    LOG="$SCRATCH/log.txt"
    : >"$LOG"
    # Exiting on a signal runs the EXIT trap, which ends pip: as a background process it does not see Ctrl-C.
    trap clean_up EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    # One set-up of this folder at a time. pip inherits the lock, so that even a pip whose script was killed is
    # waited for. Systems without flock go without.
    exec 9<"$REPO/scripts/_environment.sh"
    if command -v flock >/dev/null && ! flock -n 9; then
        say 'Another set-up of this folder is running: waiting for it.'
        flock 9 || true
    fi
}

finish() {
    exec 9<&-
    trap - EXIT HUP INT TERM
    rm -rf -- "$SCRATCH"
}

clean_up() {
    if [ -n "$CHILD" ]; then
        kill "$CHILD" 2>/dev/null || true
        wait "$CHILD" 2>/dev/null || true
        printf ' interrupted\n'
    fi
    [ -z "$SCRATCH" ] || rm -rf -- "$SCRATCH"
}

already() {
    STEP=$((STEP + 1))
    printf '[%d/%d] %s ... already there (%s)\n' "$STEP" "$STEPS" "$1" "$2"
}

# pip_step NAME DURATION ARGUMENTS...: pip's own settings (index, find-links, proxies) stay as the user has them.
pip_step() {
    run_step "$1" "$2" "$PYTHON" -m pip install --no-input --disable-pip-version-check "${@:3}"
}

# source_step NAME DURATION ARGUMENTS...: the same for packages whose setup.py fails on Python 3.13, BasicSR's kin.
source_step() {
    run_step "$1" "$2" "$PYTHON" scripts/install_basicsr.py --no-input --disable-pip-version-check "${@:3}"
}

# run_step NAME DURATION COMMAND...: one line, with the seconds ticking where someone watches.
run_step() {
    STEP=$((STEP + 1))
    local title="[$STEP/$STEPS] $1 ($2) ..." began=$SECONDS status=0
    printf '%s' "$title"
    # pip, when killed, leaves what it was unpacking, with torch some GB: so it unpacks where we clear up.
    TMPDIR="$SCRATCH" "${@:3}" >>"$LOG" 2>&1 </dev/null &
    CHILD=$!
    while kill -0 "$CHILD" 2>/dev/null; do
        sleep 1
        [ ! -t 1 ] || printf '\r%s %d s' "$title" $((SECONDS - began))
    done
    wait "$CHILD" || status=$?
    CHILD=''
    [ ! -t 1 ] || printf '\r%s' "$title"
    [ "$status" -eq 0 ] || failed "$1"
    printf ' done (%d s)\n' $((SECONDS - began))
}

failed() {
    printf ' failed\n'
    tail -n 20 -- "$LOG" >&2
    say "Setting up $1 failed. All that was printed: $LOG. Once the cause is mended, run the same command again: it goes on from here."
    SCRATCH=''  # keeps the folder
    exit 1
}

stop() {
    say "$1"
    exit 2
}

say() {
    printf '%s\n' "$1" >&2
}
