"""The same backend with genlock: gunicorn -c python:genlock.worker.hooks after:app

The whole difference to before.py is one import.
"""

import torch
from flask import Flask, Response, jsonify, request
from genlock.worker.compat import EVALUATION_CONFIG, ModelEvaluator, evaluation_bp
from nets import build

EVALUATION_CONFIG["build"] = build
evaluator = ModelEvaluator(EVALUATION_CONFIG)


@evaluation_bp.post("/evaluate/<rqa_sig>")
def evaluate(rqa_sig: str) -> Response:
    """The scores of every model of the signature."""
    inputs = torch.tensor(request.get_json()["inputs"], dtype=torch.float32)
    scores = evaluator.evaluate(rqa_sig, inputs)
    return jsonify({"rqa_sig": rqa_sig, "outputs": {name: values.tolist() for name, values in scores.items()}})


app = Flask(__name__)
app.register_blueprint(evaluation_bp)
