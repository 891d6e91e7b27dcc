"""The one checkpoint that every system gets, converted for each by its own tools.

Every conversion ends in a folder under ``WORK/models`` that appears whole or not at all; one that is there is
used again. Weights are random (:mod:`benchmarks.full_size`), so pictures mean nothing, but all systems are
given the same ones, the same tokens, and the same starting noise.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import full_size
from benchmarks.against.environments import Environments
from edgediff import noise

WORKERS = Path(__file__).parent / "workers"
TRAIN_STEPS = 1000
_LETTERS = 26


class Models:
    """Folders of the checkpoint by form; made when first asked for."""

    def __init__(self, work: Path, environments: Environments, source: Path | None = None) -> None:
        self.folder = work / "models"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._environments = environments
        self._source = source

    def checkpoint(self) -> Path:
        """diffusers' folder, with the Euler sampler's configuration, which all systems have."""

        def make(folder: Path) -> None:
            if self._source is None:
                full_size.make("sd15", folder)
            else:
                _linked(self._source, folder)
            file = folder / "scheduler" / "scheduler_config.json"
            config = json.loads(file.read_text())
            config.pop("skip_prk_steps", None)
            _replace(file, {**config, **_EULER})
            index = json.loads((folder / "model_index.json").read_text())
            _replace(
                folder / "model_index.json", {**index, "scheduler": ["diffusers", _EULER["_class_name"]]}
            )

        return self._made("checkpoint", make)

    def tiny(self) -> Path:
        """An AutoencoderTiny of the published size, made by diffusers with its own random start."""
        script = WORKERS / "make_tiny.py"
        return self._made("tiny", lambda out: self._run("diffusers", script, out))

    def optimum(self) -> Path:
        """Optimum's export to ONNX, in float32 as its tracer writes it."""

        def make(folder: Path) -> None:
            command = ["-m", "optimum.commands.optimum_cli", "export", "onnx", "-m", self.checkpoint(),
                       "--task", "text-to-image", folder]  # fmt: skip
            self._run("optimum", *command)

        return self._made("optimum", make)

    def openvino(self, form: str, tiny: bool = False) -> Path:
        """optimum-intel's export to OpenVINO: ``fp16`` (computed in bf16), ``int8`` (weights) or ``hybrid``
        (convolutions computed in int8 as well); ``tiny``: the decoder is replaced.
        """
        script = WORKERS / "convert_openvino.py"
        if tiny:
            whole = self.openvino(form)

            def make(folder: Path) -> None:
                _linked(whole, folder)
                shutil.rmtree(folder / "vae_decoder")
                self._run("convert", script, self.tiny(), folder / "vae_decoder", "tiny")

            return self._made(f"openvino-{form}-tiny", make)
        source = self.checkpoint() if form == "fp16" else self.openvino("fp16")
        return self._made(f"openvino-{form}", lambda out: self._run("convert", script, source, out, form))

    def sdcpp(self, form: str) -> Path:
        """One file in the form of stable-diffusion.cpp, of ``f16`` or ``q8_0``."""

        def make(folder: Path) -> None:
            folder.mkdir()
            self._run(
                "sdcpp", WORKERS / "convert_sdcpp.py", self._with_its_tokens(), folder / "model.gguf", form
            )

        return self._made(f"sdcpp-{form}", make) / "model.gguf"

    def _with_its_tokens(self) -> Path:
        """The checkpoint for a program that carries CLIP's vocabulary, embeddings where it looks for them.

        Ours has letters only. There, the word of one letter ``a`` is token 320, and a text begins with token
        49406 and ends with 49407; the rows of our tokens are copied there.
        """

        def make(folder: Path) -> None:
            source = self.checkpoint()
            _linked(source, folder)
            words = json.loads((source / "tokenizer" / "vocab.json").read_text())
            moved = {words[chr(ord("a") + i) + "</w>"]: 320 + i for i in range(_LETTERS)}
            moved |= {words["<|startoftext|>"]: 49406, words["<|endoftext|>"]: 49407}
            file = folder / "text_encoder" / "model.safetensors"
            file.unlink()
            shutil.copyfile(source / "text_encoder" / "model.safetensors", file)
            copy_rows(file, "token_embedding.weight", moved)

        return self._made("checkpoint-clip-tokens", make)

    def start(self) -> Path:
        """Standard normal latents of seed 0, raw float32 (1, 4, 64, 64).

        stable-diffusion.cpp takes none: it draws the stream of NVIDIA's cards, so all others are given that.
        """
        file = self.folder / "start.f32"
        file.write_bytes(noise.stream("philox", 0).draw((1, 4, 64, 64)).astype(np.float32).tobytes())
        return file

    def _run(self, environment: str, *command: object) -> None:
        python = self._environments.python(environment)
        line = [str(python), *map(str, command)]
        with (self.folder / "convert.log").open("a") as log:
            if subprocess.run(line, stdout=log, stderr=log).returncode:
                raise SystemExit(f"{' '.join(line)}\nfailed; see {log.name}")

    def _made(self, name: str, make: Callable[[Path], object]) -> Path:
        final, partial = self.folder / name, self.folder / f".{name}.partial"
        if not final.exists():
            shutil.rmtree(partial, ignore_errors=True)
            make(partial)
            partial.rename(final)
        return final


_EULER: dict[str, Any] = {
    "_class_name": "EulerDiscreteScheduler", "timestep_spacing": "linspace", "steps_offset": 1,
    "num_train_timesteps": TRAIN_STEPS, "prediction_type": "epsilon", "interpolation_type": "linear",
    "use_karras_sigmas": False,
}  # fmt: skip


def sigmas(steps: int) -> list[float]:
    """Noise levels of SD 1.5's Euler sampler, noisiest first, the last one 0 (Karras et al., 2022, eq. 3)."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, TRAIN_STEPS) ** 2
    kept = np.cumprod(1 - betas)
    levels = np.sqrt((1 - kept) / kept)
    times = np.linspace(0, TRAIN_STEPS - 1, steps)[::-1]
    return [*np.interp(times, np.arange(TRAIN_STEPS), levels).tolist(), 0.0]


def _linked(source: Path, folder: Path) -> None:
    """A copy that shares the files' bytes where the disk allows it."""

    def link(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:
            shutil.copyfile(one, other)

    shutil.copytree(source, folder, copy_function=link)


def _replace(file: Path, value: Any) -> None:
    """Write a file anew; others that share its bytes keep theirs."""
    file.unlink()
    file.write_text(json.dumps(value, indent=1))


def copy_rows(file: Path, ending: str, moved: dict[int, int]) -> None:
    """Copy rows of one tensor of a safetensors file, in place: ``moved`` gives the new row of each."""
    with file.open("r+b") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
        name = next(each for each in header if each.endswith(ending))
        begin, end = header[name]["data_offsets"]
        row = (end - begin) // header[name]["shape"][0]
        for here, there in moved.items():
            stream.seek(8 + length + begin + here * row)
            values = stream.read(row)
            stream.seek(8 + length + begin + there * row)
            stream.write(values)


def size_mb(files: Sequence[Path]) -> float:
    """Megabytes of files and of folders' files."""
    found = [each for file in files for each in ([file] if file.is_file() else file.rglob("*"))]
    return round(sum(each.stat().st_size for each in found if each.is_file()) / 1e6, 1)
