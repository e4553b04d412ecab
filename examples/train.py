"""A training job that publishes after every epoch, with golden outputs: what every worker has to reproduce before anybody changes.

python train.py
"""

import sys

import torch
from genlock.coordinator import Fleet, FlipRejected
from safetensors.torch import save_file


def main(epochs: int) -> None:
    """Fits a line to noise, and publishes it as model "line"."""
    net = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    samples = torch.randn(64, 4)
    fleet = Fleet.from_env()
    for epoch in range(1, epochs + 1):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(net(samples), samples.sum(1, keepdim=True))
        loss.backward()
        optimizer.step()
        try:
            with fleet.publishing("line", message=f"epoch {epoch}, loss {loss:.4f}") as draft:
                save_file(net.state_dict(), draft.path("line.safetensors"))
                draft.golden(samples[:2], net(samples[:2]).detach())
        except FlipRejected as error:
            print(f"epoch {epoch} is not served: {error}", file=sys.stderr)
        else:
            print(f"epoch {epoch} is generation {draft.flip.generation}")
    fleet.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
