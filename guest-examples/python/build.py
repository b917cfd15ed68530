"""Makes dist/python.wasm by componentize-py, which is installed in .venv: once, and when requirements.txt changes.

That takes seconds, and is left out where nothing has changed.
"""

import hashlib
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
WIT = HERE.parent.parent / "templates/python/wit"
ENVIRONMENT = HERE / ".venv"
COMPONENT = HERE / "dist/python.wasm"


def run(*command):
    done = subprocess.run([str(part) for part in command], cwd=HERE)
    if done.returncode != 0:
        sys.exit(done.returncode)


def once(product, stamp, inputs, make):
    """Calls `make`, unless it came to its end before with files that say the same; `stamp` remembers."""
    digest = hashlib.sha256()
    for file in sorted(inputs):
        digest.update(f"{file}\n".encode() + file.read_bytes())
    if product.exists() and stamp.exists() and stamp.read_text() == digest.hexdigest():
        return
    stamp.unlink(missing_ok=True)
    make()
    stamp.write_text(digest.hexdigest())


def install():
    print("installing what requirements.txt names", flush=True)
    run(sys.executable, "-m", "venv", ENVIRONMENT)
    run(ENVIRONMENT / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt")


def componentize():
    COMPONENT.parent.mkdir(exist_ok=True)
    run(ENVIRONMENT / "bin/componentize-py", "-d", WIT, "-w", "app", "componentize", "app", "-o", COMPONENT)


once(ENVIRONMENT, ENVIRONMENT / "installed.txt", [HERE / "requirements.txt"], install)
sources = [file for file in HERE.rglob("*.py") if ENVIRONMENT not in file.parents]
once(COMPONENT, COMPONENT.with_suffix(".made-of.txt"), [*sources, *WIT.rglob("*.wit"), HERE / "requirements.txt"], componentize)
