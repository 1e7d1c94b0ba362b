"""Starts SGLang beside a torch without CUDA: ``python -m sglang_on_cpu --model-path ...``.

torchvision's wheels are linked to CUDA; beside such a torch their library does not load, and importing torchvision
fails because its operators are not registered. Two empty definitions are enough, as the models of the tests see no
pictures. They stand at the top because SGLang spawns processes, and each imports its parent's main module first. This
must never start a server on a GPU.
"""

import sys

import torch

_operators = torch.library.Library("torchvision", "DEF")  # the definitions last as long as this object
for _name in ("nms", "qnms"):
    _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

if __name__ == "__main__":
    from sglang.launch_server import run_server
    from sglang.srt.server_args import prepare_server_args

    run_server(prepare_server_args(sys.argv[1:]))
