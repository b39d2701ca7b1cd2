# Makes .venv and keeps it right. Sourced by the scripts beside it; runs nothing by itself.
#
#   ensure_venv         the packages and what they need
#   ensure_venv dev     the same with the extra "dev"
#
# The stamp .venv/emend-stamp is written last and holds a fingerprint of what was installed: while it
# matches, ensure_venv returns at once. Without it the environment counts as half made. An environment
# that a kill has cut short is repaired, not trusted: pip takes a package for installed as soon as its
# metadata stands there, even when half of its files are missing.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
stamp=$venv/emend-stamp
cpu_index=https://download.pytorch.org/whl/cpu

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 1
}

# Prints the first Python >= 3.11 on PATH.
find_python() {
  local name
  for name in python3 python3.12 python3.11 python3.13 python3.14 python; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$name"
      return
    fi
  done
  fail "Emend needs Python 3.11 or newer, found $(python3 --version 2>/dev/null || echo none); install Python 3.11 and run this again."
}

# Prints what an installation depends on, as one hash: the requirements, the Python and the place
# (an editable installation and the scripts in .venv/bin hold absolute paths).
fingerprint() {
  "$venv/bin/python" - "$root" 2>/dev/null <<'PYTHON'
import hashlib, pathlib, sys
parts = [sys.version, sys.argv[1], (pathlib.Path(sys.argv[1]) / "pyproject.toml").read_text()]
print(hashlib.sha256("\0".join(parts).encode()).hexdigest())
PYTHON
}

# True when the stamp says that the present pyproject.toml is installed, with the extra $1 if given.
venv_is_ready() {
  local installed extras
  { read -r installed && read -r extras; } 2>/dev/null <"$stamp" || return 1
  [[ " base $extras " == *" ${1:-base} "* && $installed == "$(fingerprint)" ]]
}

# Waits for the lock on file $1, opened as descriptor $2: a killed script may leave a child at work,
# which holds the descriptor until it ends.
wait_for_lock() {
  local python=$1 descriptor=$2 lock='import fcntl, sys; fcntl.flock(int(sys.argv[1]), int(sys.argv[2]))'
  if ! "$python" -c "$lock" "$descriptor" 6 2>/dev/null; then # LOCK_EX | LOCK_NB
    echo "waiting for an earlier run that is still at work"
    "$python" -c "$lock" "$descriptor" 2 # LOCK_EX
  fi
}

# Makes .venv anew unless it has a Python that runs and a whole pip.
make_venv() {
  local python=$1 complaint
  if [[ -e $venv/made ]] && "$venv/bin/python" -c '' 2>/dev/null; then
    return
  fi
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python lacks the modules venv and ensurepip; install them (Debian and Ubuntu: apt install python3-venv) and run this again."
  complaint=$("$python" -m venv --clear "$venv" 2>&1) ||
    fail "$python could not make $venv: ${complaint##*$'\n'}"
  touch "$venv/made"
}

# Removes what an installation that was cut short left behind. pip writes RECORD last, and keeps the
# old files of a package that it replaces under a name with "~" until the new ones stand.
drop_half_installed() {
  local info
  for info in "$venv"/lib/python*/site-packages/*.dist-info; do
    [[ -e $info/RECORD ]] || rm -rf -- "$info"
  done
  rm -rf -- "$venv"/lib/python*/site-packages/~*
}

# Shows pip's progress as one line a package.
condense() {
  awk '/^Collecting /          { printf "  %3d %s\n", ++count, $2; fflush() }
       /^Installing collected/ { print "  unpacking (a minute or two)"; fflush() }'
}

# Runs pip; its warnings and errors are shown as they come, and the last one is what a failure ends in.
install() {
  local target=$root${1:+[$1]} complaint
  exec 3>&1
  if ! complaint=$(
    set -o pipefail
    { "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off \
      --no-compile --editable "$target" 2>&4 | condense >&3; } 4>&1 |
      awk '{ print; print | "cat >&2"; fflush("cat >&2") }'
  ); then
    complaint=$(grep -i '^error: ' <<<"$complaint" | tail -n 1)
    fail "pip could not install $target: ${complaint:-it ended without saying why}"
  fi
  exec 3>&-
  # pip compiles on one core, half of its time; a few files (templates) are no Python and do not count.
  "$venv/bin/python" -m compileall -qq -j 0 "$venv"/lib/python*/site-packages || true
}

# Prints the requirements of pyproject.toml whose names begin with "torch" (torch, torchvision), a line each.
torch_requirements() {
  "$venv/bin/python" - "$root/pyproject.toml" <<'PYTHON'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    needed = tomllib.load(file)["project"]["dependencies"]
print("\n".join(one for one in needed if one.startswith("torch")))
PYTHON
}

# True on a Linux without a GPU: there PyPI's torch brings gigabytes of CUDA that nothing would use.
wants_cpu_torch() {
  [[ $OSTYPE == linux* && ! -e /dev/nvidia0 && ! -e /dev/nvidiactl && ! -e /dev/kfd ]]
}

# Takes torch from PyTorch's own index of CPU builds; where that cannot be, the next step takes PyPI's.
install_cpu_torch() {
  local needed
  mapfile -t needed < <(torch_requirements)
  [[ -n ${needed[*]} ]] || return 0
  "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off --quiet \
    --no-compile --retries 1 --timeout 10 --index-url "$cpu_index" "${needed[@]}" 2>/dev/null ||
    echo "  $cpu_index does not answer: torch comes from the default index"
}

ensure_venv() {
  local extra=${1-} python
  venv_is_ready "$extra" && return
  python=$(find_python) || exit 1
  exec 9>"$root/.venv.lock"
  wait_for_lock "$python" 9
  if ! venv_is_ready "$extra"; then
    echo "installing into .venv${extra:+ with the extra $extra}"
    make_venv "$python"
    rm -f "$stamp"
    drop_half_installed
    if wants_cpu_torch; then install_cpu_torch; fi
    install "$extra"
    printf '%s\n' "$(fingerprint)" "$extra" >"$stamp.new"
    mv "$stamp.new" "$stamp"
  fi
  exec 9>&-
}
