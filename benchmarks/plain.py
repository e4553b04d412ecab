"""The app that the evaluator is compared with: the same Flask app, with a model in a plain global that nothing ever changes.

What a request and an answer are made of is genlock's own code, so that both do the same work on JSON and tensors; there is no
cache, no lease and no fleet. `BENCH_NET` is the class or function that makes the net ("module:name"), `BENCH_FILE` its weights.
"""

from __future__ import annotations

import os
import socket
from importlib import import_module

import torch
from flask import Flask, Response, request
from genlock.worker.app import MAX_BODY_BYTES
from genlock.worker.wire import Evaluation, read_body, read_inputs, write
from safetensors.torch import load_file
from torch import nn
from werkzeug.exceptions import UnsupportedMediaType

_JSON = "application/json"
#: As long as a version is.
VERSION = "0" * 64
#: Which process answers; the client spreads its connections by it.
worker = f"{socket.gethostname()}:{os.getpid()}"


def made() -> nn.Module:
    """The net, without weights that mean something."""
    module, _, name = os.environ["BENCH_NET"].partition(":")
    net: nn.Module = getattr(import_module(module), name)()
    return net.eval().requires_grad_(False)


def answered(net: nn.Module, model: str) -> Response:
    """What the evaluator answers, to what it takes."""
    if request.content_type != _JSON:
        raise UnsupportedMediaType
    inputs = read_inputs(read_body(request.get_data(cache=False)), torch.float32)
    with torch.inference_mode():
        outputs = net(inputs)
    return Response(write(Evaluation(model, outputs, 1, VERSION, worker, False)), 200, {"Content-Type": _JSON})


def new_app() -> Flask:
    """Without a route yet."""
    flask = Flask(__name__, static_folder=None)
    flask.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    return flask


def with_global() -> Flask:
    """An app that loads its model once."""
    flask, net = new_app(), made()
    net.load_state_dict(load_file(os.environ["BENCH_FILE"]), assign=True)

    @flask.post("/evaluate/<model>")
    def evaluate(model: str) -> Response:
        return answered(net, model)

    return flask
