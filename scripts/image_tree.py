"""Executes the Dockerfile without a container engine: makes the image's files and settings in a directory.

    python scripts/image_tree.py --base ROOT --out DIR [--build-arg GENAI=0] [--lend PATH]

ROOT is a directory with the files of the base image: Debian with a Python in /usr/local. Each stage is a copy of it,
each RUN is a process with the stage as its root. DIR gets `root` and `config.json`, as `image_run.py` reads them.
Knows no layers, no cache and no registries. Needs root. Invariant: only files that `.dockerignore` lets through are
copied from the project.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from confined import Confinement, command
from dockerfile import Instruction, context, expand, read

PROJECT: Final = Path(__file__).parents[1]
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(slots=True)
class Stage:
    """A tree that is being made, and what its image says: `config` is as engines show it."""

    root: Path
    environment: dict[str, str]
    arguments: dict[str, str] = field(default_factory=dict)
    directory: str = "/"
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def variables(self) -> Mapping[str, str]:
        return {**self.arguments, **self.environment}


class Build:
    """One run over a Dockerfile. `lent` are paths of this machine that RUN steps see, such as its resolver's file."""

    def __init__(self, base: Path, work: Path, arguments: Mapping[str, str], lent: Sequence[Path]) -> None:
        self._base, self._work, self._given, self._lent = base, work, arguments, lent
        self._global: dict[str, str] = {}
        self._stages: list[Stage] = []
        self._names: dict[str, Stage] = {}
        self._files = context(PROJECT)
        self._declared: set[str] = set()

    def run(self, instructions: Sequence[Instruction]) -> Stage:
        """The last stage. Raises ValueError for what it cannot do, CalledProcessError for a RUN that failed."""
        for each in instructions:
            print(f"{each.line:4} {each.name} {each.text[:100]}", flush=True)
            getattr(self, f"_{each.name.lower()}")(each)
        if unknown := self._given.keys() - self._declared:
            raise ValueError(f"--build-arg: the Dockerfile has no ARG {', '.join(sorted(unknown))}")
        return self._stages[-1]

    @property
    def _stage(self) -> Stage:
        return self._stages[-1]

    def _from(self, instruction: Instruction) -> None:
        source, _, name = expand(instruction.text, self._global).partition(" AS ")
        parent = self._names.get(source)
        root = self._work / f"stage{len(self._stages)}"
        subprocess.run(
            ["cp", "-a", "--reflink=auto", str(parent.root if parent else self._base), str(root)], check=True
        )
        environment = dict(parent.environment) if parent else {"PATH": PATH}
        arguments = dict(parent.arguments) if parent else {}
        self._stages.append(Stage(root, environment, arguments, parent.directory if parent else "/"))
        self._names[name] = self._stage

    def _arg(self, instruction: Instruction) -> None:
        name, assigned, default = instruction.text.partition("=")
        self._declared.add(name)
        known = self._given.get(name, self._global.get(name, "") if not assigned else default.strip('"'))
        (self._stage.arguments if self._stages else self._global)[name] = expand(known, self._global)

    def _env(self, instruction: Instruction) -> None:
        variables = self._stage.variables
        self._stage.environment |= {name: expand(text, variables) for name, text in instruction.pairs().items()}

    def _label(self, instruction: Instruction) -> None:
        variables = self._stage.variables
        labels = {name: expand(text, variables) for name, text in instruction.pairs().items()}
        self._stage.config["Labels"] = labels

    def _workdir(self, instruction: Instruction) -> None:
        self._stage.directory = instruction.text
        self._inside(instruction.text).mkdir(parents=True, exist_ok=True)

    def _inside(self, path: str) -> Path:
        """Of the stage being made; a relative path begins at its working directory."""
        return self._stage.root / str(Path(self._stage.directory, path)).lstrip("/")

    def _copy(self, instruction: Instruction) -> None:
        *sources, target = instruction.text.split()
        if sources[0].startswith("--from="):
            root = self._names[sources.pop(0).removeprefix("--from=")].root
            for source in sources:
                shutil.copytree(root / source.lstrip("/"), self._inside(target), symlinks=True, dirs_exist_ok=True)
            return
        for source in sources:
            self._copy_from_context(instruction, source, target)

    def _copy_from_context(self, instruction: Instruction, source: str, target: str) -> None:
        files = [path for path in self._files if path == source or path.startswith(f"{source}/")]
        if not files:
            raise ValueError(f"line {instruction.line}: COPY: there is no {source!r} in the build's context")
        for path in files:
            within = path.removeprefix(source).lstrip("/")  # of a directory its contents are copied, not itself
            place = self._inside(target) / (within or source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / path, place)

    def _run(self, instruction: Instruction) -> None:
        lent = {str(path): path for path in self._lent}
        for path in self._lent:
            place = self._stage.root / str(path).lstrip("/")
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.mkdir() if path.is_dir() else place.touch()
        stage = self._stage
        inside = Confinement(
            stage.root, environment=stage.variables, writable=True, directory=stage.directory, lent=lent, temporary=()
        )
        subprocess.run(command(inside, ["/bin/sh", "-c", instruction.text]), check=True)

    def _user(self, instruction: Instruction) -> None:
        self._stage.config["User"] = instruction.text

    def _expose(self, instruction: Instruction) -> None:
        self._stage.config["ExposedPorts"] = instruction.text.split()

    def _stopsignal(self, instruction: Instruction) -> None:
        self._stage.config["StopSignal"] = instruction.text

    def _healthcheck(self, instruction: Instruction) -> None:
        self._stage.config["Healthcheck"] = json.loads(instruction.text.partition(" CMD ")[2])

    def _entrypoint(self, instruction: Instruction) -> None:
        self._stage.config["Entrypoint"] = instruction.words()

    def _cmd(self, instruction: Instruction) -> None:
        self._stage.config["Cmd"] = instruction.words()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", type=Path, required=True, metavar="ROOT", help="files of the base image")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to make; must not be there")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--lend", action="append", type=Path, default=[Path("/etc/resolv.conf")], metavar="PATH",
                        help="file or directory of this machine that RUN steps see")  # fmt: skip
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True)
    build = Build(given.base, given.out, dict(pair.split("=", 1) for pair in given.build_arg), given.lend)
    stage = build.run(list(read(PROJECT / "Dockerfile")))
    stage.root.rename(given.out / "root")
    config = {**stage.config, "Env": stage.environment}
    (given.out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
