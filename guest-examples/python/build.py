"""Makes dist/python.wasm by componentize-py, which is installed in .venv: once, and when requirements.txt changes."""

import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".venv"
COMPONENT = HERE / "dist/python.wasm"


def run(*command):
    done = subprocess.run([str(part) for part in command], cwd=HERE)
    if done.returncode != 0:
        sys.exit(done.returncode)


def install():
    wanted = (HERE / "requirements.txt").read_text()
    installed = ENVIRONMENT / "installed.txt"
    if installed.exists() and installed.read_text() == wanted:
        return
    run(sys.executable, "-m", "venv", ENVIRONMENT)
    run(ENVIRONMENT / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt")
    installed.write_text(wanted)


install()
COMPONENT.parent.mkdir(exist_ok=True)
run(ENVIRONMENT / "bin/componentize-py", "-d", "../../templates/python/wit", "-w", "app", "componentize", "app", "-o", COMPONENT)
