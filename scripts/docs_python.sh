# Sourced by scripts/docs and scripts/notebooks: sets `python` to an interpreter with the extra `docs`,
# which is $PYTHON, or that of .venv, into which the extra is installed.
python=${PYTHON:-}
if [[ -z $python ]]; then
  scripts/setup
  python=.venv/bin/python
  if ! "$python" -c 'import codespell_lib, ipykernel, latex2mathml, material, mkdocstrings, nbclient' 2>/dev/null; then
    echo "Installing what the documentation is made with into .venv ..."
    "$python" -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[docs]'
  fi
fi
export PYTHONPATH=$PWD:$PWD/scripts${PYTHONPATH:+:$PYTHONPATH}
